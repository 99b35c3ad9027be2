//! Values as SQL text: what a message without parameters is made of besides fixed text.
//!
//! Whole numbers, identifiers, and yes or no. A text is none of them, and neither are bytes: what stands in a message
//! is seen by whoever has the same login, in `pg_stat_activity`, and by whoever reads the server's log of failed
//! statements.

use uuid::Uuid;

/// A value that a statement takes. What it becomes is decided by where it stands in the statement, as with a
/// parameter that has no type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Value {
    /// None.
    Null,
    /// Yes or no.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// An identifier.
    Uuid(Uuid),
}

impl Value {
    /// As it stands in a statement.
    pub(crate) fn to_literal(self) -> String {
        // In quotes none has a type yet, as a parameter has none.
        match self {
            Self::Null => "NULL".to_owned(),
            Self::Bool(value) => format!("'{value}'"),
            Self::Int(value) => format!("'{value}'"),
            Self::Uuid(value) => format!("'{value}'"),
        }
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<i32> for Value {
    fn from(value: i32) -> Self {
        Self::Int(value.into())
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<Uuid> for Value {
    fn from(value: Uuid) -> Self {
        Self::Uuid(value)
    }
}

impl<T: Into<Self>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_one_form() {
        for (value, literal) in [
            (None::<i64>.into(), "NULL"),
            (true.into(), "'true'"),
            (Some(false).into(), "'false'"),
            (i64::MIN.into(), "'-9223372036854775808'"),
            ((-7).into(), "'-7'"),
            (Value::Uuid(Uuid::nil()), "'00000000-0000-0000-0000-000000000000'"),
        ] {
            assert_eq!(value.to_literal(), literal);
        }
    }
}
