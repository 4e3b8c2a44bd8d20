//! Our three kinds of value as PostgreSQL's types, which it tells us per parameter and column.

use std::error::Error;

use bytes::BytesMut;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};

use crate::sql::Value;

type Failure = Box<dyn Error + Sync + Send>;

/// A numeric's digits are each one of ten thousand.
const NUMERIC_BASE: i64 = 10_000;

impl ToSql for Value {
    fn to_sql(&self, kind: &Type, out: &mut BytesMut) -> Result<IsNull, Failure> {
        match (self, kind) {
            (Self::Null, _) => Ok(IsNull::Yes),
            (Self::Int(value), &Type::INT8) => value.to_sql(kind, out),
            (Self::Int(value), &Type::INT4) => i32::try_from(*value)?.to_sql(kind, out),
            (Self::Text(text), &Type::TEXT | &Type::VARCHAR | &Type::NAME | &Type::UNKNOWN) => {
                text.as_str().to_sql(kind, out)
            }
            (Self::Blob(bytes), &Type::BYTEA) => bytes.as_slice().to_sql(kind, out),
            (Self::Int(_), _) => Err(format!("an integer where {kind} is asked for").into()),
            (Self::Text(_), _) => Err(format!("a text where {kind} is asked for").into()),
            (Self::Blob(_), _) => Err(format!("bytes where {kind} is asked for").into()),
        }
    }

    fn accepts(_: &Type) -> bool {
        // Only the value knows.
        true
    }

    to_sql_checked!();
}

impl FromSql<'_> for Value {
    fn from_sql(kind: &Type, raw: &[u8]) -> Result<Self, Failure> {
        Ok(match *kind {
            Type::INT8 => Self::Int(i64::from_sql(kind, raw)?),
            Type::INT4 => Self::Int(i32::from_sql(kind, raw)?.into()),
            Type::BOOL => Self::Int(bool::from_sql(kind, raw)?.into()),
            // What a sum of integers is.
            Type::NUMERIC => Self::Int(whole(raw).ok_or("a number that is not a whole one")?),
            Type::TEXT | Type::VARCHAR | Type::NAME => Self::Text(String::from_sql(kind, raw)?),
            Type::BYTEA => Self::Blob(raw.to_vec()),
            _ => return Err(format!("a column of type {kind}").into()),
        })
    }

    fn from_sql_null(_: &Type) -> Result<Self, Failure> {
        Ok(Self::Null)
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

/// A numeric on the wire: count of digits, weight of the first, sign, scale, digits.
fn whole(raw: &[u8]) -> Option<i64> {
    let mut words = raw.chunks_exact(2).map(|two| i16::from_be_bytes([two[0], two[1]]));
    let (count, weight, sign, _scale) =
        (words.next()?, words.next()?, words.next()?, words.next()?);
    let sign = match sign {
        0 => 1,
        0x4000 => -1,
        // Not a number, or no end of it.
        _ => return None,
    };
    // Zeros at the end are left out.
    let zeros = weight.checked_add(1)?.checked_sub(count)?;
    let mut value: i64 = 0;
    for digit in words.take(usize::try_from(count).ok()?) {
        value = value.checked_mul(NUMERIC_BASE)?.checked_add(sign * i64::from(digit))?;
    }
    if count == 0 {
        return Some(0);
    }
    for _ in 0..u16::try_from(zeros).ok()? {
        value = value.checked_mul(NUMERIC_BASE)?;
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::whole;

    fn numeric(words: &[i16]) -> Option<i64> {
        whole(&words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<_>>())
    }

    #[test]
    fn a_sum_is_read_whole_or_refused() {
        assert_eq!(numeric(&[0, 0, 0, 0]), Some(0));
        assert_eq!(numeric(&[1, 0, 0, 0, 42]), Some(42));
        assert_eq!(numeric(&[1, 2, 0, 0, 3]), Some(300_000_000));
        assert_eq!(numeric(&[2, 1, 0x4000, 0, 1, 2]), Some(-10_002));
        let max = [5, 4, 0, 0, 922, 3372, 368, 5477, 5807];
        assert_eq!(numeric(&max), Some(i64::MAX));
        // One more, a half, and no number at all.
        assert_eq!(numeric(&[5, 4, 0, 0, 922, 3372, 368, 5477, 5808]), None);
        assert_eq!(numeric(&[1, -1, 0, 1, 5000]), None);
        assert_eq!(numeric(&[0, 0, -0x4000, 0]), None);
    }
}
