//! Counting the rows of a binary copy as they pass by.

/// What a binary copy begins with.
const SIGNATURE: &[u8; 11] = b"PGCOPY\n\xff\r\n\0";
/// What stands for the number of fields after the last row.
const END: u32 = 0xffff;
/// The length of a field that is NULL.
const NULL: u32 = u32::MAX;

/// Walks from length to length and looks at no value. It keeps nothing of what went by, and takes it in pieces of any
/// size.
pub(super) struct Rows {
    columns: u32,
    at: At,
    /// Bytes to pass over before the next number.
    skip: usize,
    /// The number that is being read, and how many bytes of it are there.
    number: u32,
    digits: usize,
    counted: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    Signature(usize),
    Flags,
    Extension,
    /// How many fields a row has.
    Fields,
    /// The length of a field; so many of the row follow.
    Field(u32),
    End,
}

impl Rows {
    /// For rows of so many columns.
    pub(super) fn of(columns: usize) -> Self {
        let columns = u32::try_from(columns).unwrap_or(END);
        Self { columns, at: At::Signature(0), skip: 0, number: 0, digits: 0, counted: 0 }
    }

    /// Goes on with what comes next.
    pub(super) fn read(&mut self, mut bytes: &[u8]) -> Result<(), &'static str> {
        while !bytes.is_empty() {
            let passed = self.skip.min(bytes.len());
            self.skip -= passed;
            bytes = &bytes[passed..];
            let Some((&byte, rest)) = bytes.split_first() else { break };
            bytes = rest;
            self.byte(byte)?;
        }
        Ok(())
    }

    /// Rows so far.
    pub(super) const fn count(&self) -> u64 {
        self.counted
    }

    /// Rows in all; an error before the end.
    pub(super) fn finish(self) -> Result<u64, &'static str> {
        if self.at == At::End { Ok(self.counted) } else { Err("it ends before its end") }
    }

    fn byte(&mut self, byte: u8) -> Result<(), &'static str> {
        let width = match self.at {
            At::Signature(place) => {
                let wanted = SIGNATURE.get(place).copied();
                if wanted != Some(byte) {
                    return Err("it does not begin as a binary copy");
                }
                self.at = if place + 1 == SIGNATURE.len() { At::Flags } else { At::Signature(place + 1) };
                return Ok(());
            }
            At::End => return Err("it goes on after its end"),
            At::Fields => 2,
            At::Flags | At::Extension | At::Field(_) => 4,
        };
        self.number = self.number << 8 | u32::from(byte);
        self.digits += 1;
        if self.digits == width {
            let number = std::mem::take(&mut self.number);
            self.digits = 0;
            self.at = self.number_at(number)?;
        }
        Ok(())
    }

    fn number_at(&mut self, number: u32) -> Result<At, &'static str> {
        match self.at {
            At::Flags if number == 0 => Ok(At::Extension),
            At::Flags => Err("it has flags that nobody asked for"),
            At::Extension => {
                self.skip = usize::try_from(number).map_err(|_| "its header is too long")?;
                Ok(At::Fields)
            }
            At::Fields if number == END => Ok(At::End),
            At::Fields if number != self.columns => Err("a row has another number of columns"),
            At::Fields => Ok(self.after(number)),
            At::Field(left) => {
                if number != NULL {
                    self.skip = usize::try_from(number).map_err(|_| "a value is too long")?;
                }
                Ok(self.after(left))
            }
            At::Signature(_) | At::End => Err("there is no number here"),
        }
    }

    /// Where a row goes on that has so many fields left.
    fn after(&mut self, left: u32) -> At {
        if left == 0 {
            self.counted += 1;
            At::Fields
        } else {
            At::Field(left - 1)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy_of(rows: &[&[Option<&[u8]>]]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&[0, 0, 0, 3, 9, 9, 9]);
        for row in rows {
            bytes.extend_from_slice(&u16::try_from(row.len()).unwrap().to_be_bytes());
            for field in *row {
                match field {
                    Some(value) => {
                        bytes.extend_from_slice(&u32::try_from(value.len()).unwrap().to_be_bytes());
                        bytes.extend_from_slice(value);
                    }
                    None => bytes.extend_from_slice(&NULL.to_be_bytes()),
                }
            }
        }
        bytes.extend_from_slice(&[0xff, 0xff]);
        bytes
    }

    fn counted(columns: usize, bytes: &[u8], piece: usize) -> Result<u64, &'static str> {
        let mut rows = Rows::of(columns);
        bytes.chunks(piece).try_for_each(|piece| rows.read(piece))?;
        rows.finish()
    }

    fn sample() -> Vec<u8> {
        copy_of(&[
            &[Some(b"one"), None],
            &[Some(b""), Some(&[0xff; 300])],
            &[None, None],
            &[Some(b"\xff\xff"), Some(b"PGCOPY")],
        ])
    }

    #[test]
    fn rows_are_counted_however_they_are_cut() {
        let bytes = sample();
        for piece in 1..=bytes.len() {
            assert_eq!(counted(2, &bytes, piece), Ok(4), "in pieces of {piece}");
        }
        assert_eq!(counted(2, &copy_of(&[]), 5), Ok(0));
    }

    #[test]
    fn a_copy_that_is_cut_short_or_goes_on_is_noticed() {
        let bytes = sample();
        for cut in 0..bytes.len() {
            assert!(counted(2, &bytes[..cut], 64).is_err(), "cut at {cut}");
        }
        let longer = [bytes.as_slice(), b"x"].concat();
        assert!(counted(2, &longer, 64).is_err());
    }

    #[test]
    fn rows_of_other_columns_and_texts_are_noticed() {
        assert!(counted(3, &sample(), 64).is_err());
        assert!(counted(2, b"1\tone\n2\ttwo\n", 64).is_err());
        let mut flagged = sample();
        flagged[11] = 1;
        assert!(counted(2, &flagged, 64).is_err());
    }
}
