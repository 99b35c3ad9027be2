//! Tenant transactions as the product has them, and the same with the clean-up removed: what a storm runs on.

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use sqlx::postgres::{PgQueryResult, PgRow, PgStatement, PgTypeInfo};
use sqlx::{Either, Execute, Executor, Postgres, SqlStr};
use stagesub_sabotage as sabotage;
use stagesub_storage::error::CommitError;
use stagesub_storage::one_message::{PreparedRead, ReadError};
use stagesub_storage::one_write::{PreparedWrite, WriteError};
use stagesub_storage::{factory, tx};
use stagesub_tenancy::{Access, BeginError, TenantId, TenantScope};

/// Begins tenant transactions.
pub enum Db {
    /// The product.
    Sound(factory::TenantDb),
    /// The product without the clean-up of connections whose owner went away.
    Unclean(sabotage::factory::TenantDb),
}

/// A tenant transaction.
#[derive(Debug)]
pub enum Tx {
    /// The product's.
    Sound(tx::TenantTx),
    /// One whose connection nobody cleans up.
    Unclean(sabotage::tx::TenantTx),
}

impl Db {
    /// Begins a transaction for the scope's tenant.
    ///
    /// # Errors
    /// As the product's.
    pub async fn begin(&self, scope: &TenantScope, access: Access) -> Result<Tx, BeginError> {
        match self {
            Self::Sound(db) => db.begin(scope, access).await.map(Tx::Sound),
            Self::Unclean(db) => db.begin(scope, access).await.map(Tx::Unclean),
        }
    }

    /// Owner and name of the scope's instruments that are numbered up to `most`, in one message, which raises where
    /// `one` is 0.
    ///
    /// # Errors
    /// As the product's.
    pub async fn names(&self, scope: &TenantScope, most: i64, one: i64) -> Result<Vec<PgRow>, ReadError> {
        const SQL: &str = "SELECT tenant_id, name FROM tenant.instrument
            WHERE tenant_id = $1 AND no <= $2 AND 1 / $3 = 1";
        static SOUND: PreparedRead = PreparedRead::new("storm_names", SQL, 2);
        static UNCLEAN: sabotage::one_message::PreparedRead =
            sabotage::one_message::PreparedRead::new("storm_names", SQL, 2);
        match self {
            Self::Sound(db) => db.read_in_one_message(scope, &SOUND, &[most, one]).await,
            Self::Unclean(db) => {
                db.read_in_one_message(scope, &UNCLEAN, &[most, one]).await.map_err(|error| match error {
                    sabotage::one_message::ReadError::Begin(error) => ReadError::Begin(error),
                    sabotage::one_message::ReadError::Unprepared(error) => ReadError::Unprepared(error),
                    sabotage::one_message::ReadError::Statement(error) => ReadError::Statement(error),
                    other => ReadError::Statement(sqlx::Error::Protocol(other.to_string())),
                })
            }
        }
    }
}

impl Db {
    /// Changes the place of the instrument `no` in the order, in one message; how many were changed.
    ///
    /// # Errors
    /// What the product gives.
    pub async fn reorder(&self, scope: &TenantScope, no: i64, order: i64) -> Result<u64, WriteError> {
        const SQL: &str = "UPDATE tenant.instrument SET display_order = $3 WHERE tenant_id = $1 AND no = $2";
        const SOUND: PreparedWrite = PreparedWrite::new("storm_reorder", SQL, 2);
        const UNCLEAN: sabotage::one_write::PreparedWrite =
            sabotage::one_write::PreparedWrite::new("storm_reorder", SQL, 2);
        match self {
            Self::Sound(db) => {
                let written = db.write_in_one_message(scope, &SOUND, &[no.into(), order.into()]).await?;
                Ok(written.affected)
            }
            Self::Unclean(db) => {
                let values = [no.into(), order.into()];
                let written = db.write_in_one_message(scope, &UNCLEAN, &values).await;
                written.map(|written| written.affected).map_err(|error| match error {
                    sabotage::one_write::WriteError::Begin(error) => WriteError::Begin(error),
                    sabotage::one_write::WriteError::Statement(error) => WriteError::Statement(error),
                    sabotage::one_write::WriteError::Unknown(error) => WriteError::Unknown(error),
                    other => WriteError::Unknown(other.to_string().into()),
                })
            }
        }
    }
}

impl Tx {
    /// Whose it is.
    #[must_use]
    pub fn tenant(&self) -> TenantId {
        match self {
            Self::Sound(tx) => tx.tenant(),
            Self::Unclean(tx) => tx.tenant(),
        }
    }

    /// Commits.
    ///
    /// # Errors
    /// As the product's.
    pub async fn commit(self) -> Result<(), CommitError> {
        match self {
            Self::Sound(tx) => tx.commit().await,
            Self::Unclean(tx) => tx.commit().await.map_err(|error| match error {
                sabotage::error::CommitError::Refused(source) => CommitError::Refused(source),
                sabotage::error::CommitError::Unknown(source) => CommitError::Unknown(source),
                other => CommitError::Unknown(Box::new(other)),
            }),
        }
    }
}

impl<'c> Executor<'c> for &'c mut Tx {
    type Database = Postgres;

    fn fetch_many<'e, 'q, E>(
        self,
        query: E,
    ) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, sqlx::Error>>
    where
        'c: 'e,
        E: Execute<'q, Self::Database>,
        'q: 'e,
        E: 'q,
    {
        match self {
            Tx::Sound(tx) => tx.fetch_many(query),
            Tx::Unclean(tx) => tx.fetch_many(query),
        }
    }

    fn fetch_optional<'e, 'q, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>>
    where
        'c: 'e,
        E: Execute<'q, Self::Database>,
        'q: 'e,
        E: 'q,
    {
        match self {
            Tx::Sound(tx) => tx.fetch_optional(query),
            Tx::Unclean(tx) => tx.fetch_optional(query),
        }
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, sqlx::Error>>
    where
        'c: 'e,
    {
        match self {
            Tx::Sound(tx) => tx.prepare_with(sql, parameters),
            Tx::Unclean(tx) => tx.prepare_with(sql, parameters),
        }
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<sqlx::Describe<Self::Database>, sqlx::Error>>
    where
        'c: 'e,
    {
        match self {
            Tx::Sound(tx) => tx.describe(sql),
            Tx::Unclean(tx) => tx.describe(sql),
        }
    }
}
