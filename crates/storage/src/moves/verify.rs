//! Whether both sides hold the same rows of a tenant, and which ones differ.
//!
//! A row is compared as the text that Postgres writes of it, all columns in the plan's order, computed ones too. That
//! text tells apart what equality does not: `1.0` from `1.00`, `-0` from `0`, NULL from `'NULL'`. The sessions fix
//! everything that could make two servers write it differently.
//!
//! Of a chunk each side answers with the number of rows and, for two seeds, the sum of their 64-bit hashes, in whole
//! numbers that do not wrap. The key is part of the text, so rows that have exchanged their contents change the sum;
//! the order in which rows are read does not. Two chunks that differ pass for equal if both sums agree by chance,
//! about once in 2^128: unless somebody chooses rows to that end, for the hash is no cryptographic one. It guards against
//! a copy that went wrong, not against whoever may write to the target. A row whose text would be longer than a gigabyte
//! is an error, since Postgres cannot write it.
//!
//! Chunks follow the key: each begins after the last key of the one before, found through the index of the primary key,
//! and the last has no end, so a row that the target has too much is in one of them wherever it is. Where chunks
//! differ, their rows' hashes are fetched and the keys that differ are asked for one by one. So servers that
//! order texts differently take longer and find nothing that is not there.

mod keys;
mod statements;
mod walk;

use std::collections::BTreeMap;
use std::fmt;
use std::num::{NonZeroU32, NonZeroUsize};

use stagesub_tenancy::TenantId;

use crate::catalogue::TableName;
use crate::moves::pace::Pace;
use crate::moves::plan::MovePlan;
use crate::moves::session::{MoverSession, SessionError, Site};

pub use keys::keys;

/// How a verification goes.
#[derive(Debug, Clone)]
pub struct VerifySettings {
    /// Rows of a chunk. Also what is fetched to find out which of them differ, and what passes before the pace is asked.
    pub chunk_rows: NonZeroU32,
    /// So many differences are told; after them the verification ends.
    pub most_differences: NonZeroUsize,
    /// How fast each side may be read, in bytes of rows as text.
    pub pace: Pace,
}

impl VerifySettings {
    /// The usual ones at a pace. Where there is one, chunks are small: while one is read nobody waits, and both sides'
    /// processors have that to do and nothing else.
    #[must_use]
    pub fn at(pace: Pace) -> Self {
        let rows = if pace.is_limited() { 999 } else { 4_999 };
        Self {
            chunk_rows: NonZeroU32::MIN.saturating_add(rows),
            most_differences: NonZeroUsize::MIN.saturating_add(99),
            pace,
        }
    }
}

impl Default for VerifySettings {
    fn default() -> Self {
        Self::at(Pace::unlimited())
    }
}

/// Which side failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Where the tenant is served until the decision.
    Source,
    /// Where it goes.
    Target,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "source",
            Self::Target => "target",
        })
    }
}

/// Why nothing is known.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// A session could not be had.
    #[error("a session of the verification could not be had")]
    Session(#[source] SessionError),
    /// A side did not answer.
    #[error("the {side} did not say what it holds")]
    Side {
        /// Which.
        side: Side,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
    /// A key names a table that is not moved, or has another number of columns than the table's.
    #[error("{0} is no key of a table that is moved")]
    NoKey(RowKey),
}

/// A row of the tenant that is verified.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowKey {
    /// Its table.
    pub table: TableName,
    /// The columns of [`TablePlan::key`](crate::moves::plan::TablePlan::key), in that order, as text.
    pub values: Vec<String>,
}

impl fmt::Display for RowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.table, self.values.join(", "))
    }
}

/// What is wrong with a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The source has it, the target does not.
    Missing,
    /// The target has it, the source does not.
    Extra,
    /// Both have it, with other contents.
    Changed,
}

/// A row that is not the same on both sides. Its text shows the key, which may be somebody's data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Which row.
    pub row: RowKey,
    /// What is wrong with it.
    pub fault: Fault,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fault = match self.fault {
            Fault::Missing => "is missing on the target",
            Fault::Extra => "is on the target alone",
            Fault::Changed => "differs on the target",
        };
        write!(f, "{} {fault}", self.row)
    }
}

/// What a verification found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verified {
    /// Rows that the source holds, of all tables that were read.
    pub rows: u64,
    /// Their bytes as text.
    pub bytes: u64,
    /// Rows that differ, in the order of tables.
    pub differences: Vec<Difference>,
    /// There are more, and tables behind them were not read.
    pub more: bool,
}

impl Verified {
    /// Both sides hold the same.
    #[must_use]
    pub const fn is_equal(&self) -> bool {
        self.differences.is_empty() && !self.more
    }
}

/// Compares everything that both sides hold of a tenant. `plan` is the source's.
///
/// Each chunk is read in one statement on each side, both sides at once. What is written to the source while it is read
/// may show as a difference, or may not: who follows what is written asks for those rows again, with [`keys`].
///
/// # Errors
/// [`VerifyError`].
///
/// # Cancel safety
/// Dropping the future closes the connections. Nothing is written.
pub async fn everything(
    source: &Site,
    target: &Site,
    plan: &MovePlan,
    tenant: TenantId,
    settings: &VerifySettings,
) -> Result<Verified, VerifyError> {
    VerifySessions::open(source, target).await?.everything(plan, tenant, settings).await
}

/// The sessions of a verification that is to be: whoever is in haste opens them before.
#[derive(Debug)]
pub struct VerifySessions {
    source: MoverSession,
    target: MoverSession,
}

impl VerifySessions {
    /// Opens one on each side.
    ///
    /// # Errors
    /// [`VerifyError::Session`].
    ///
    /// # Cancel safety
    /// Dropping the future closes the connections.
    pub async fn open(source: &Site, target: &Site) -> Result<Self, VerifyError> {
        let (mut source, mut target) =
            futures::future::try_join(source.open("verify"), target.open("verify"))
                .await
                .map_err(VerifyError::Session)?;
        for session in [&mut source, &mut target] {
            session.keep_to_indexes().await.map_err(VerifyError::Session)?;
        }
        Ok(Self { source, target })
    }

    /// As [`everything`].
    ///
    /// # Errors
    /// [`VerifyError::Side`].
    ///
    /// # Cancel safety
    /// As [`everything`].
    pub async fn everything(
        self,
        plan: &MovePlan,
        tenant: TenantId,
        settings: &VerifySettings,
    ) -> Result<Verified, VerifyError> {
        let mut walk = walk::Walk::new(self.source, self.target, tenant, settings);
        walk_all(&mut walk, plan).await?;
        Ok(walk.finish().await)
    }
}

async fn walk_all(walk: &mut walk::Walk<'_>, plan: &MovePlan) -> Result<(), VerifyError> {
    for table in &plan.tables {
        walk.table(table).await?;
        if walk.is_full() {
            break;
        }
    }
    Ok(())
}

/// What rows hash to, for two seeds.
type Hashes = (i64, i64);

/// What differs between two sides, given what each holds.
fn compare<K: Ord + Clone>(source: &BTreeMap<K, Hashes>, target: &BTreeMap<K, Hashes>) -> Vec<(K, Fault)> {
    let mut differences: Vec<(K, Fault)> = source
        .iter()
        .filter_map(|(key, here)| match target.get(key) {
            None => Some((key.clone(), Fault::Missing)),
            Some(there) if there != here => Some((key.clone(), Fault::Changed)),
            Some(_) => None,
        })
        .collect();
    let extra = target.keys().filter(|key| !source.contains_key(*key));
    differences.extend(extra.map(|key| (key.clone(), Fault::Extra)));
    differences
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_is_told_by_its_key() {
        let source = BTreeMap::from([(1, (1, 1)), (2, (2, 2)), (3, (3, 3)), (4, (4, 4))]);
        let target = BTreeMap::from([(1, (1, 1)), (2, (2, 9)), (3, (9, 3)), (5, (5, 5))]);
        assert_eq!(
            compare(&source, &target),
            [(2, Fault::Changed), (3, Fault::Changed), (4, Fault::Missing), (5, Fault::Extra)]
        );
        assert_eq!(compare(&source, &source), []);
    }

    #[test]
    fn a_verification_that_ended_early_is_not_one_that_found_nothing() {
        assert!(Verified::default().is_equal());
        assert!(!Verified { more: true, ..Verified::default() }.is_equal());
    }
}
