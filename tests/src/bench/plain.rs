//! The list of musicians as a service without tenancy reads it: the same statement, the same columns.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::postgres::PgRow;
use sqlx::{Error, Row};

/// The product's own statement.
pub const LIST: &str = include_str!("../../../crates/storage/src/repo/hot_lists/musicians.sql");

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
    /// Reads a row by its columns' places, without comparing their types again, as the product and the driver's macros
    /// do.
    ///
    /// # Errors
    /// A row of another shape.
    pub fn read(row: &PgRow) -> Result<Self, Error> {
        Ok(Self {
            no: row.try_get_unchecked(0)?,
            first_name: row.try_get_unchecked(1)?,
            last_name: row.try_get_unchecked(2)?,
            email: row.try_get_unchecked(3)?,
            phone: row.try_get_unchecked(4)?,
            preferred_language: row.try_get_unchecked(5)?,
            local_residence: row.try_get_unchecked(6)?,
            notes: row.try_get_unchecked(7)?,
            is_active: row.try_get_unchecked(8)?,
            archived_at: row.try_get_unchecked(9)?,
            created_at: row.try_get_unchecked(10)?,
            updated_at: row.try_get_unchecked(11)?,
            qualifications: row.try_get_unchecked(12)?,
        })
    }
}
