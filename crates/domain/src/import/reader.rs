//! The rows of a file, one at a time.

use std::io::{Read, Seek, SeekFrom};
use std::sync::Arc;

use csv::{ErrorKind, ReaderBuilder, StringRecord};

use crate::import::decode::{TooLong, Utf8Lines};
use crate::import::header::Header;
use crate::import::row::{ParsedRow, Row, RowFault};
use crate::import::sniff::{Format, sniff};
use crate::import::{FileError, MAX_ROW_BYTES, MAX_ROWS};

/// An iterator over the rows of a CSV file of musicians.
///
/// Holds two buffers of 8 KB and one row of at most [`MAX_ROW_BYTES`], whatever the size of the file. Blank rows
/// are skipped; after [`RowFault::EndOfReading`] and [`RowFault::Io`] nothing follows.
///
/// ```
/// use std::io::Cursor;
/// use stagesub_domain::import::MusicianCsv;
///
/// let file = Cursor::new("Förnamn;Efternamn;E-post\r\nÅsa;Berg;asa@example.se\r\n");
/// let mut rows = MusicianCsv::open(file)?;
/// let row = rows.next().expect("one row");
/// assert_eq!(row.line, 2);
/// assert_eq!(row.content.expect("a musician").first_name, "Åsa");
/// # Ok::<(), stagesub_domain::import::FileError>(())
/// ```
pub struct MusicianCsv<R> {
    records: csv::Reader<Utf8Lines<R>>,
    header: Arc<Header>,
    format: Format,
    record: StringRecord,
    rows: u32,
    ended: bool,
}

impl<R> std::fmt::Debug for MusicianCsv<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MusicianCsv")
            .field("format", &self.format)
            .field("rows", &self.rows)
            .finish_non_exhaustive()
    }
}

impl<R: Read + Seek + Send> MusicianCsv<R> {
    /// Reads the file once from end to end to tell how it is written, and then its header.
    ///
    /// # Errors
    /// [`FileError`], each with a sentence for whoever made the file.
    pub fn open(mut file: R) -> Result<Self, FileError> {
        let format = sniff(&mut file)?;
        file.seek(SeekFrom::Start(format.start)).map_err(FileError::Io)?;
        let mut records = ReaderBuilder::new()
            .delimiter(format.delimiter)
            .has_headers(false)
            .flexible(true)
            .from_reader(Utf8Lines::new(file, format.encoding, format.first_line));
        let mut record = StringRecord::new();
        loop {
            match read_record(&mut records, &mut record) {
                Ok(Some(_)) if record.iter().all(|cell| cell.trim().is_empty()) => {}
                Ok(Some(_)) => break,
                Ok(None) => return Err(FileError::Empty),
                Err((_, RowFault::Io(error))) => return Err(FileError::Io(error)),
                Err(_) => return Err(FileError::HeaderTooLong),
            }
        }
        let header = Arc::new(Header::parse(record.iter())?);
        Ok(Self { records, header, format, record, rows: 0, ended: false })
    }

    /// The file's header, understood.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Columns that nothing is taken from, as the file names them.
    #[must_use]
    pub fn ignored_columns(&self) -> &[String] {
        self.header.ignored()
    }

    /// How the file is written.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    fn end(&mut self, line: u64, fault: RowFault) -> Row {
        self.ended = true;
        Row { line, content: Err(fault) }
    }
}

impl<R: Read + Seek + Send> Iterator for MusicianCsv<R> {
    type Item = Row;

    fn next(&mut self) -> Option<Row> {
        while !self.ended {
            let line = match read_record(&mut self.records, &mut self.record) {
                Ok(None) => break,
                Ok(Some(line)) => line,
                Err((line, fault)) => {
                    return Some(self.end(line.unwrap_or(self.format.first_line), fault));
                }
            };
            let Some(content) = ParsedRow::read(&self.record, &self.header) else { continue };
            if self.rows == MAX_ROWS {
                let reason = format!("a file has at most {MAX_ROWS} rows");
                return Some(self.end(line, RowFault::EndOfReading { reason }));
            }
            self.rows += 1;
            return Some(Row { line, content });
        }
        self.ended = true;
        None
    }
}

/// Reads one record and tells the number of its first line; `None` at the end.
fn read_record<R: Read>(
    records: &mut csv::Reader<Utf8Lines<R>>,
    record: &mut StringRecord,
) -> Result<Option<u64>, (Option<u64>, RowFault)> {
    let start = records.position().byte();
    records.get_mut().allow_until(start + MAX_ROW_BYTES);
    let read = records.read_record(record);
    // The reader counts blank lines before a record to the record, so its own line number is not used.
    let line = records.get_mut().line_at(start);
    match read {
        Ok(true) => Ok(line),
        Ok(false) => Ok(None),
        Err(error) => Err((line, fault(error))),
    }
}

fn fault(error: csv::Error) -> RowFault {
    match error.into_kind() {
        ErrorKind::Io(error)
            if error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<TooLong>) =>
        {
            let reason = format!(
                "the row is longer than {} KB; a quotation mark may not be closed, so nothing after it was read",
                MAX_ROW_BYTES / 1024
            );
            RowFault::EndOfReading { reason }
        }
        ErrorKind::Io(error) => RowFault::Io(error),
        // Neither is possible with text that was decoded and rows of any length, but nothing is assumed.
        other => RowFault::EndOfReading { reason: format!("the row cannot be read: {other:?}") },
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::io::Cursor;

    use encoding_rs::{UTF_8, WINDOWS_1252};

    use super::*;

    fn open(bytes: impl Into<Vec<u8>>) -> MusicianCsv<Cursor<Vec<u8>>> {
        MusicianCsv::open(Cursor::new(bytes.into())).expect("a file")
    }

    fn names(bytes: impl Into<Vec<u8>>) -> Vec<(u64, String)> {
        open(bytes)
            .map(|row| {
                let parsed = row.content.expect("a musician");
                (row.line, format!("{} {} {}", parsed.first_name, parsed.last_name, parsed.email))
            })
            .collect()
    }

    #[test]
    fn one_office_writes_it_this_way_and_another_that() {
        let expected =
            vec![(2, "Åsa Öberg asa@gso.se".to_owned()), (3, "Örjan Ängström orjan@gso.se".to_owned())];
        let semicolons = "Förnamn;Efternamn;E-post\nÅsa;Öberg;asa@gso.se\nÖrjan;Ängström;orjan@gso.se\n";
        let commas = semicolons.replace(';', ",").replace('\n', "\r\n");
        let tabs = format!("\u{feff}{}", semicolons.replace(';', "\t"));
        let (latin, _, lossy) = WINDOWS_1252.encode(semicolons);
        assert!(!lossy);
        for bytes in [semicolons.as_bytes(), commas.as_bytes(), tabs.as_bytes(), &latin] {
            assert_eq!(names(bytes), expected);
        }
        assert_eq!(open(latin.as_ref()).format().encoding, WINDOWS_1252);
        assert_eq!(open(tabs).format().encoding, UTF_8);
    }

    #[test]
    fn line_numbers_hold_over_blank_lines_and_quoted_line_ends() {
        let file = "\r\nnamn;epost;notes\r\n\r\nA B;a@b.se;\"rad 1\r\nrad 2\r\n\r\nrad 3\"\r\n;;\r\n\r\nC D;c@d.se;\r\nE F;e@f.se;\"x\"\r\n";
        let lines: Vec<_> = open(file).map(|row| row.line).collect();
        assert_eq!(lines, [4, 10, 11]);
        let notes = open(file).next().expect("a row").content.expect("a musician").notes;
        assert_eq!(notes.as_deref(), Some("rad 1\nrad 2\n\nrad 3"));
    }

    #[test]
    fn quotes_within_quotes_and_delimiters_within_quotes_are_text() {
        let file = "namn,epost,notes\n\"Berg, Anna\",anna@gso.se,\"kallas \"\"Ankan\"\"\"\n";
        let row = open(file).next().expect("a row").content.expect("a musician");
        assert_eq!((row.first_name.as_str(), row.last_name.as_str()), ("Anna", "Berg"));
        assert_eq!(row.notes.as_deref(), Some("kallas \"Ankan\""));
    }

    #[test]
    fn a_wrong_row_is_told_with_its_line_and_does_not_stop_the_next() {
        let file = "namn;epost\nAnna Berg;anna\nOla\nEva Ek;eva@gso.se\n";
        let rows: Vec<_> = open(file).map(|row| (row.line, row.content.is_ok())).collect();
        assert_eq!(rows, [(2, false), (3, false), (4, true)]);
    }

    #[test]
    fn a_quote_that_is_never_closed_ends_the_reading_within_bounds() {
        let mut file = "namn;epost\nA B;a@b.se\n\"C D;c@d.se\n".to_owned();
        for number in 0..100_000 {
            writeln!(file, "N{number} M;n{number}@gso.se").expect("memory");
        }
        let rows: Vec<_> = open(file).collect();
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[1].line, 3);
        assert!(
            matches!(&rows[1].content, Err(RowFault::EndOfReading { reason }) if reason.contains("quotation"))
        );
    }

    #[test]
    fn more_rows_than_the_bound_end_the_reading() {
        let mut file = "namn;epost\n".to_owned();
        for number in 0..=MAX_ROWS {
            writeln!(file, "N M;n{number}@gso.se").expect("memory");
        }
        let mut rows = open(file);
        assert_eq!(rows.by_ref().take(100_000).filter(|row| row.content.is_ok()).count(), 100_000);
        let last = rows.next().expect("the row too many");
        assert_eq!(last.line, 100_002);
        assert!(matches!(last.content, Err(RowFault::EndOfReading { .. })));
        assert!(rows.next().is_none());
    }

    #[test]
    fn a_failing_disk_is_no_fault_of_the_file() {
        struct Failing(Cursor<Vec<u8>>, u64);
        impl Read for Failing {
            fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
                // The pass that tells the encoding succeeds, the one after it meets the fault.
                if self.1 > 2 && self.0.position() > 8_000 {
                    return Err(std::io::Error::other("disk"));
                }
                self.0.read(out)
            }
        }
        impl Seek for Failing {
            fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
                self.1 += 1;
                self.0.seek(to)
            }
        }
        let mut file = b"namn;epost\n".to_vec();
        file.extend(b"A B;a@b.se\n".repeat(5_000));
        let last = MusicianCsv::open(Failing(Cursor::new(file), 0)).expect("a header").last();
        assert!(matches!(last, Some(Row { content: Err(RowFault::Io(_)), .. })));
    }

    #[test]
    fn files_without_rows_give_none_and_without_header_are_refused() {
        assert_eq!(open("namn;epost\n").count(), 0);
        assert_eq!(open("namn;epost").count(), 0);
        assert!(matches!(MusicianCsv::open(Cursor::new("\n\n ;\n")), Err(FileError::Empty)));
        assert!(matches!(MusicianCsv::open(Cursor::new("a;b\n1;2")), Err(FileError::MissingColumns { .. })));
    }
}
