//! The list of musicians as a service without tenancy reads it: the same statement, the same columns.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::postgres::PgRow;
use sqlx::{Decode, Error, Postgres, Row, Type};
use stagesub_storage::timestamp::SentTimestamp;

/// The product's own statement.
pub const LIST: &str = include_str!("../../../crates/storage/src/repo/hot_lists/musicians.sql");
/// The same as one message sends it: its times as eight bytes.
pub const LIST_SENT: &str = include_str!("../../../crates/storage/src/repo/hot_lists/musicians.sent.sql");

/// A musician as it is listed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Listed {
    /// Number.
    pub no: i64,
    /// First name.
    pub first_name: String,
    /// Last name.
    pub last_name: String,
    /// Address.
    pub email: String,
    /// Telephone number.
    pub phone: Option<String>,
    /// `sv` or `en`
    pub preferred_language: String,
    /// Whether they live where the orchestra plays.
    pub local_residence: bool,
    /// Anything else.
    pub notes: Option<String>,
    /// Whether they may be asked.
    pub is_active: bool,
    /// Since when they are put away.
    pub archived_at: Option<DateTime<Utc>>,
    /// When they were entered.
    pub created_at: DateTime<Utc>,
    /// When they were changed.
    pub updated_at: DateTime<Utc>,
    /// The positions they can play.
    pub qualifications: Vec<i64>,
}

impl Listed {
    /// Reads a row by its columns' places, as the product does.
    ///
    /// # Errors
    /// A row of another shape.
    pub fn read(row: &PgRow) -> Result<Self, Error> {
        Self::read_with::<DateTime<Utc>>(row)
    }

    /// The same of [`LIST_SENT`].
    ///
    /// # Errors
    /// A row of another shape.
    pub fn read_sent(row: &PgRow) -> Result<Self, Error> {
        Self::read_with::<SentTimestamp>(row)
    }

    fn read_with<'r, T>(row: &'r PgRow) -> Result<Self, Error>
    where
        T: Decode<'r, Postgres> + Type<Postgres> + Into<DateTime<Utc>>,
    {
        Ok(Self {
            no: row.try_get(0)?,
            first_name: row.try_get(1)?,
            last_name: row.try_get(2)?,
            email: row.try_get(3)?,
            phone: row.try_get(4)?,
            preferred_language: row.try_get(5)?,
            local_residence: row.try_get(6)?,
            notes: row.try_get(7)?,
            is_active: row.try_get(8)?,
            archived_at: row.try_get::<Option<T>, _>(9)?.map(Into::into),
            created_at: row.try_get::<T, _>(10)?.into(),
            updated_at: row.try_get::<T, _>(11)?.into(),
            qualifications: row.try_get(12)?,
        })
    }
}
