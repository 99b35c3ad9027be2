//! A row as `record_send` writes it: how many columns, and for each the number of its type and its value as the type
//! sends it.

use bytes::{Buf, Bytes};

use super::tables::LoggedTable;
use crate::moves::pgoutput::{DecodeError, Tuple, Value};

/// Reads the row of a table: the values that are streamed, in their order. One that was written when the table had
/// other columns or types is none of it.
pub(super) fn tuple(mut bytes: Bytes, table: &LoggedTable) -> Result<Tuple, DecodeError> {
    let columns = table.fields.len();
    let count = count(bytes.try_get_i32()?)?;
    let shape = |values| DecodeError::Shape { table: table.name.to_string(), columns, values };
    if count != columns {
        return Err(shape(count));
    }
    let mut values = Vec::with_capacity(columns);
    for field in &table.fields {
        if bytes.try_get_u32()? != field.type_oid {
            return Err(DecodeError::Type { table: table.name.to_string(), column: field.name.clone() });
        }
        let value = match bytes.try_get_i32()? {
            -1 => Value::Null,
            length => {
                let length = self::count(length)?;
                if length > bytes.remaining() {
                    return Err(DecodeError::Truncated);
                }
                Value::Binary(bytes.split_to(length))
            }
        };
        if !field.generated {
            values.push(value);
        }
    }
    if bytes.has_remaining() {
        return Err(DecodeError::Trailing { bytes: bytes.remaining() });
    }
    Ok(Tuple(values))
}

fn count(number: i32) -> Result<usize, DecodeError> {
    usize::try_from(number).map_err(|_| DecodeError::Count { count: i64::from(number) })
}

#[cfg(test)]
mod tests {
    use bytes::{BufMut, BytesMut};
    use proptest::prelude::*;

    use super::super::tables::tests::note;
    use super::*;

    fn sent(values: &[(u32, Option<&[u8]>)]) -> Bytes {
        let mut bytes = BytesMut::new();
        bytes.put_i32(i32::try_from(values.len()).unwrap());
        for (oid, value) in values {
            bytes.put_u32(*oid);
            match value {
                Some(value) => {
                    bytes.put_i32(i32::try_from(value.len()).unwrap());
                    bytes.put_slice(value);
                }
                None => bytes.put_i32(-1),
            }
        }
        bytes.freeze()
    }

    const ROW: [(u32, Option<&[u8]>); 5] =
        [(2950, Some(b"t")), (20, Some(b"n")), (20, Some(b"nn")), (16_400, Some(b"")), (16_400, None)];

    fn binary(bytes: &'static [u8]) -> Value {
        Value::Binary(Bytes::from_static(bytes))
    }

    #[test]
    fn a_row_is_its_values_without_what_is_computed() {
        let tuple = tuple(sent(&ROW), &note()).unwrap();
        assert_eq!(tuple.0, [binary(b"t"), binary(b"n"), binary(b""), Value::Null]);
    }

    #[test]
    fn a_row_of_another_shape_is_refused() {
        assert!(matches!(tuple(sent(&ROW[..4]), &note()), Err(DecodeError::Shape { values: 4, .. })));
        let mut other = ROW;
        other[3].0 = 16_401;
        let Err(DecodeError::Type { column, .. }) = tuple(sent(&other), &note()) else { panic!("mood") };
        assert_eq!(column, "mood");
    }

    #[test]
    fn bytes_that_end_early_or_late_are_no_row() {
        let whole = sent(&ROW);
        for end in 0..whole.len() {
            assert!(tuple(whole.slice(..end), &note()).is_err(), "{end}");
        }
        let mut longer = BytesMut::from(&whole[..]);
        longer.put_u8(0);
        assert_eq!(tuple(longer.freeze(), &note()), Err(DecodeError::Trailing { bytes: 1 }));
    }

    proptest! {
        #[test]
        fn whatever_the_bytes_are_they_are_a_row_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = tuple(Bytes::from(bytes), &note());
        }
    }
}
