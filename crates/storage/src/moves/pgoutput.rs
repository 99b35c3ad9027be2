//! What logical decoding says of a transaction: the messages of Postgres's plugin `pgoutput`, protocol version 1.
//!
//! Under version 1 a transaction is sent when it has committed, whole and in one piece: [`Message::Begin`], its
//! changes in order, [`Message::Commit`]. A table is described ([`Message::Relation`]) before the first change of it,
//! once a session and again when it was altered; [`Relations`] remembers that.
//!
//! # Invariants
//! - Whatever the bytes are, [`decode`] answers: a message, or why they are none. It never panics, and never makes
//!   room for more than the bytes that are there.
//! - Rows are a tenant's data: `Debug` shows their shape and not their contents.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use bytes::{Buf, Bytes, TryGetError};

use super::lsn::Lsn;

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// A transaction begins, which has committed.
    Begin {
        /// Where its commit record is.
        final_lsn: Lsn,
        /// Its number on its server.
        xid: u32,
    },
    /// It is complete.
    Commit {
        /// Where its commit record is.
        commit_lsn: Lsn,
        /// Where that record ends: what comes later starts here or behind it.
        end_lsn: Lsn,
    },
    /// It came from another server by way of replication.
    Origin {
        /// Where it was committed there.
        commit_lsn: Lsn,
        /// What the origin is called.
        name: String,
    },
    /// What a table is like from here on.
    Relation(Relation),
    /// What a type that is not built in is called.
    Type(TypeName),
    /// A row came.
    Insert {
        /// Into which table.
        relation: u32,
        /// It.
        new: Tuple,
    },
    /// A row changed.
    Update {
        /// In which table.
        relation: u32,
        /// What it was: there if its key changed, and with `REPLICA IDENTITY FULL` always.
        old: Option<Old>,
        /// What it is.
        new: Tuple,
    },
    /// A row went.
    Delete {
        /// From which table.
        relation: u32,
        /// What it was.
        old: Old,
    },
    /// Tables were emptied.
    Truncate {
        /// Which.
        relations: Vec<u32>,
    },
    /// What somebody wrote into the log with `pg_logical_emit_message`.
    Logical {
        /// Whether it counts only if the transaction committed.
        transactional: bool,
        /// Where it is.
        lsn: Lsn,
        /// For whom it is.
        prefix: String,
        /// What it says.
        content: Bytes,
    },
}

/// A table as its source has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    /// By which number its changes name it.
    pub id: u32,
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// What identifies its rows.
    pub identity: ReplicaIdentity,
    /// The columns that are sent, in the order of a [`Tuple`].
    pub columns: Vec<RelationColumn>,
}

/// What identifies a table's rows where the old row is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplicaIdentity {
    /// The primary key.
    Default,
    /// Nothing.
    Nothing,
    /// All columns.
    Full,
    /// An index.
    Index,
}

/// A column of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelationColumn {
    /// Whether it is part of what identifies a row.
    pub key: bool,
    /// Its name.
    pub name: String,
    /// Its type's number on the source.
    pub type_oid: u32,
}

/// What a type is called on its source; of a domain, what is called so is the type under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeName {
    /// Its number.
    pub oid: u32,
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
}

/// A row's values in the order of its [`Relation`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tuple(pub Vec<Value>);

/// What a row was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Old {
    /// What identified it; the other columns are null whatever they were.
    Key(Tuple),
    /// All of it.
    Row(Tuple),
}

impl Old {
    /// The values that are there.
    #[must_use]
    pub const fn tuple(&self) -> &Tuple {
        match self {
            Self::Key(tuple) | Self::Row(tuple) => tuple,
        }
    }
}

/// A value.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Value {
    /// None.
    Null,
    /// It is stored beside its row (TOAST), did not change and was not sent.
    Unchanged,
    /// As its type writes it: its type has no binary form.
    Text(Bytes),
    /// As its type sends it.
    Binary(Bytes),
}

impl Value {
    /// How many bytes it has.
    #[must_use]
    pub fn size(&self) -> usize {
        match self {
            Self::Null | Self::Unchanged => 0,
            Self::Text(bytes) | Self::Binary(bytes) => bytes.len(),
        }
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("Null"),
            Self::Unchanged => f.write_str("Unchanged"),
            Self::Text(bytes) => write!(f, "Text({} bytes)", bytes.len()),
            Self::Binary(bytes) => write!(f, "Binary({} bytes)", bytes.len()),
        }
    }
}

/// Bytes that are no message of this protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// They end in the middle.
    #[error("a message of the stream ends in the middle")]
    Truncated,
    /// They go on behind the end.
    #[error("a message of the stream has {bytes} bytes behind its end")]
    Trailing {
        /// How many.
        bytes: usize,
    },
    /// A byte that means nothing where it stands.
    #[error("the stream has {byte:#04x} where it should say which {what}")]
    Unknown {
        /// What it should have told.
        what: &'static str,
        /// The byte.
        byte: u8,
    },
    /// A number that counts something is negative.
    #[error("the stream says that there are {count} of something")]
    Count {
        /// The number.
        count: i64,
    },
    /// A name that is not UTF-8.
    #[error("the stream has a name that is not UTF-8")]
    Name,
    /// A change of a table that was not described.
    #[error("the stream changes a table that it has not described")]
    UnknownRelation,
    /// A row with another number of values than its table has columns.
    #[error("the stream has a row of {values} values for {columns} columns of {table}")]
    Shape {
        /// The table.
        table: String,
        /// How many columns it has.
        columns: usize,
        /// How many values came.
        values: usize,
    },
    /// A row with a value of another type than its column has.
    #[error("the stream has a value of another type for column {column} of {table}")]
    Type {
        /// The table.
        table: String,
        /// The column.
        column: String,
    },
}

impl From<TryGetError> for DecodeError {
    fn from(_: TryGetError) -> Self {
        Self::Truncated
    }
}

/// Reads one message.
///
/// # Errors
/// [`DecodeError`].
pub fn decode(mut bytes: Bytes) -> Result<Message, DecodeError> {
    let message = message(&mut bytes)?;
    if bytes.has_remaining() { Err(DecodeError::Trailing { bytes: bytes.remaining() }) } else { Ok(message) }
}

fn message(bytes: &mut Bytes) -> Result<Message, DecodeError> {
    Ok(match bytes.try_get_u8()? {
        b'B' => {
            let final_lsn = lsn(bytes)?;
            bytes.try_get_i64()?; // When it was committed.
            Message::Begin { final_lsn, xid: bytes.try_get_u32()? }
        }
        b'C' => {
            bytes.try_get_u8()?; // Flags, of which there are none.
            let (commit_lsn, end_lsn) = (lsn(bytes)?, lsn(bytes)?);
            bytes.try_get_i64()?; // When.
            Message::Commit { commit_lsn, end_lsn }
        }
        b'O' => Message::Origin { commit_lsn: lsn(bytes)?, name: text(bytes)? },
        b'R' => Message::Relation(relation(bytes)?),
        b'Y' => {
            Message::Type(TypeName { oid: bytes.try_get_u32()?, schema: text(bytes)?, name: text(bytes)? })
        }
        b'I' => {
            let relation = bytes.try_get_u32()?;
            match bytes.try_get_u8()? {
                b'N' => Message::Insert { relation, new: tuple(bytes)? },
                byte => return Err(DecodeError::Unknown { what: "row comes", byte }),
            }
        }
        b'U' => update(bytes)?,
        b'D' => {
            let relation = bytes.try_get_u32()?;
            let kind = bytes.try_get_u8()?;
            Message::Delete { relation, old: old(kind, bytes)? }
        }
        b'T' => {
            let count = count(i64::from(bytes.try_get_i32()?))?;
            bytes.try_get_u8()?; // Whether others are emptied too, and sequences restarted.
            let mut relations = Vec::with_capacity(count.min(bytes.remaining() / size_of::<u32>()));
            for _ in 0..count {
                relations.push(bytes.try_get_u32()?);
            }
            Message::Truncate { relations }
        }
        b'M' => {
            let transactional = bytes.try_get_u8()? & 1 == 1;
            let (lsn, prefix) = (lsn(bytes)?, text(bytes)?);
            Message::Logical { transactional, lsn, prefix, content: sized(bytes)? }
        }
        byte => return Err(DecodeError::Unknown { what: "message it is", byte }),
    })
}

fn update(bytes: &mut Bytes) -> Result<Message, DecodeError> {
    let relation = bytes.try_get_u32()?;
    let (old, kind) = match bytes.try_get_u8()? {
        b'N' => (None, b'N'),
        kind => (Some(old(kind, bytes)?), bytes.try_get_u8()?),
    };
    match kind {
        b'N' => Ok(Message::Update { relation, old, new: tuple(bytes)? }),
        byte => Err(DecodeError::Unknown { what: "row comes", byte }),
    }
}

fn old(kind: u8, bytes: &mut Bytes) -> Result<Old, DecodeError> {
    match kind {
        b'K' => Ok(Old::Key(tuple(bytes)?)),
        b'O' => Ok(Old::Row(tuple(bytes)?)),
        byte => Err(DecodeError::Unknown { what: "row goes", byte }),
    }
}

fn relation(bytes: &mut Bytes) -> Result<Relation, DecodeError> {
    let (id, schema, name) = (bytes.try_get_u32()?, text(bytes)?, text(bytes)?);
    let identity = match bytes.try_get_u8()? {
        b'd' => ReplicaIdentity::Default,
        b'n' => ReplicaIdentity::Nothing,
        b'f' => ReplicaIdentity::Full,
        b'i' => ReplicaIdentity::Index,
        byte => return Err(DecodeError::Unknown { what: "replica identity a table has", byte }),
    };
    let count = count(i64::from(bytes.try_get_i16()?))?;
    let mut columns = Vec::with_capacity(count.min(bytes.remaining()));
    for _ in 0..count {
        let key = bytes.try_get_u8()? & 1 == 1;
        let (name, type_oid) = (text(bytes)?, bytes.try_get_u32()?);
        bytes.try_get_i32()?; // What modifies the type; the target has its own.
        columns.push(RelationColumn { key, name, type_oid });
    }
    Ok(Relation { id, schema, name, identity, columns })
}

fn tuple(bytes: &mut Bytes) -> Result<Tuple, DecodeError> {
    let count = count(i64::from(bytes.try_get_i16()?))?;
    let mut values = Vec::with_capacity(count.min(bytes.remaining()));
    for _ in 0..count {
        values.push(match bytes.try_get_u8()? {
            b'n' => Value::Null,
            b'u' => Value::Unchanged,
            b't' => Value::Text(sized(bytes)?),
            b'b' => Value::Binary(sized(bytes)?),
            byte => return Err(DecodeError::Unknown { what: "kind of value follows", byte }),
        });
    }
    Ok(Tuple(values))
}

fn lsn(bytes: &mut Bytes) -> Result<Lsn, DecodeError> {
    Ok(Lsn(bytes.try_get_u64()?))
}

/// A text up to its NUL.
fn text(bytes: &mut Bytes) -> Result<String, DecodeError> {
    let end = bytes.iter().position(|byte| *byte == 0).ok_or(DecodeError::Truncated)?;
    let text = bytes.split_to(end);
    bytes.advance(1);
    std::str::from_utf8(&text).map(str::to_owned).map_err(|_| DecodeError::Name)
}

/// Bytes behind their length.
fn sized(bytes: &mut Bytes) -> Result<Bytes, DecodeError> {
    let length = count(i64::from(bytes.try_get_i32()?))?;
    if length > bytes.remaining() { Err(DecodeError::Truncated) } else { Ok(bytes.split_to(length)) }
}

fn count(count: i64) -> Result<usize, DecodeError> {
    usize::try_from(count).map_err(|_| DecodeError::Count { count })
}

/// Tables and types that a session described.
#[derive(Debug, Default)]
pub struct Relations {
    tables: HashMap<u32, Arc<Relation>>,
    types: HashMap<u32, TypeName>,
}

impl Relations {
    /// Remembers a table; true if it is new, or other than it was.
    pub fn learn(&mut self, relation: Relation) -> bool {
        let same = self.tables.get(&relation.id).is_some_and(|known| **known == relation);
        if !same {
            self.tables.insert(relation.id, Arc::new(relation));
        }
        !same
    }

    /// Remembers what a type is called.
    pub fn learn_type(&mut self, name: TypeName) {
        self.types.insert(name.oid, name);
    }

    /// A table that a change names.
    ///
    /// # Errors
    /// [`DecodeError::UnknownRelation`].
    pub fn table(&self, id: u32) -> Result<&Arc<Relation>, DecodeError> {
        self.tables.get(&id).ok_or(DecodeError::UnknownRelation)
    }

    /// What a type is called. `None`: it is built in.
    #[must_use]
    pub fn type_name(&self, oid: u32) -> Option<&TypeName> {
        self.types.get(&oid)
    }
}

impl Relation {
    /// Refuses a row of another shape.
    ///
    /// # Errors
    /// [`DecodeError::Shape`].
    pub fn check(&self, tuple: &Tuple) -> Result<(), DecodeError> {
        if tuple.0.len() == self.columns.len() {
            return Ok(());
        }
        Err(DecodeError::Shape {
            table: format!("{}.{}", self.schema, self.name),
            columns: self.columns.len(),
            values: tuple.0.len(),
        })
    }
}

#[cfg(test)]
mod tests;
