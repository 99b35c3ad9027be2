//! A change as it is to be made in the target: values in the order of the target's columns.

use std::collections::HashSet;

use crate::moves::pgoutput::Value;

/// The values of a row in the order of the columns that are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row(pub(super) Vec<Value>);

impl Row {
    /// Takes from a newer one what changed: what was not sent is as it was.
    pub(super) fn follow(&mut self, newer: Self) {
        for (value, new) in self.0.iter_mut().zip(newer.0) {
            if new != Value::Unchanged {
                *value = new;
            }
        }
    }

    pub(super) fn size(&self) -> usize {
        self.0.iter().map(Value::size).sum()
    }
}

/// What tells a row of its table from the others: its primary key's values, in the key's order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key(pub Vec<Value>);

/// A change of a table, which is named by its place among the tables of the move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) table: usize,
    pub(super) key: Key,
    pub(super) what: What,
}

/// What becomes of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    /// It comes.
    Insert(Row),
    /// It changes, its key does not.
    Update(Row),
    /// It changes together with its key, which was the change's.
    Rekey(Row, Key),
    /// It goes.
    Delete,
}

impl Change {
    pub(super) fn size(&self) -> usize {
        match &self.what {
            What::Insert(row) | What::Update(row) | What::Rekey(row, _) => row.size(),
            What::Delete => self.key.0.iter().map(Value::size).sum(),
        }
    }

    /// The keys that it touches, for whoever compares rows afterwards.
    pub(super) fn touch(&self, keys: &mut HashSet<(usize, Key)>) {
        keys.insert((self.table, self.key.clone()));
        if let What::Rekey(_, key) = &self.what {
            keys.insert((self.table, key.clone()));
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use bytes::Bytes;

    use super::*;

    pub(in super::super) fn value(text: &str) -> Value {
        match text {
            "-" => Value::Unchanged,
            "0" => Value::Null,
            text => Value::Binary(Bytes::copy_from_slice(text.as_bytes())),
        }
    }

    /// A row of values with spaces between them.
    pub(in super::super) fn row(values: &str) -> Row {
        Row(values.split(' ').map(value).collect())
    }

    #[test]
    fn what_was_not_sent_is_as_it_was() {
        let mut merged = row("k old 0 x");
        merged.follow(row("k - new 0"));
        assert_eq!(merged, row("k old new 0"));
        merged.follow(row("k - - -"));
        assert_eq!(merged, row("k old new 0"));
    }
}
