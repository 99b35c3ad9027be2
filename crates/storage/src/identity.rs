//! Whether a connection reached the database that was meant: asked on the connection itself, before anything else.
//!
//! An address says where a database was when the address was written down. The marker says what is there now, so
//! each connection that tenants' transactions run on has read it, in the one message that also tells its process.

use sqlx::postgres::{PgConnectOptions, PgRow};
use sqlx::{Connection, PgConnection, Row};
use stagesub_tenancy::{DatabaseId, OpenError, PoolTarget, TenantId};
use uuid::Uuid;

use crate::error::sqlstate;
use crate::marker::{DatabaseKind, Marker};

/// The question. One message: text, and nothing to prepare.
const WHO: &str = "SELECT pg_catalog.pg_backend_pid(), role, database_id, tenant_id, demo FROM app.marker";
/// SQLSTATEs of a schema and of a table that are not there.
const NO_SCHEMA: &str = "3F000";
const NO_TABLE: &str = "42P01";

/// The database that a connection is to reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    kind: DatabaseKind,
    database: DatabaseId,
}

impl Identity {
    /// The database that a pool is for.
    #[must_use]
    pub const fn of(target: &PoolTarget) -> Self {
        match target {
            PoolTarget::Shared(database) => Self { kind: DatabaseKind::Shared, database: *database },
            PoolTarget::Dedicated { tenant, database, .. } => {
                Self { kind: DatabaseKind::Dedicated(*tenant), database: *database }
            }
        }
    }

    /// Connects, and asks the database what it is as the login that will use it. With the connection comes the
    /// server's process that serves it. A connection to another database is closed.
    ///
    /// # Errors
    /// [`ConnectError`].
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub async fn connect(&self, options: &PgConnectOptions) -> Result<(PgConnection, i32), ConnectError> {
        let mut pg = PgConnection::connect_with(options).await.map_err(ConnectError::Database)?;
        match self.ask(&mut pg).await {
            Ok(pid) => Ok((pg, pid)),
            Err(refused) => {
                if let Err(error) = pg.close().await {
                    tracing::debug!(%error, "a connection that is not used did not close cleanly");
                }
                Err(refused)
            }
        }
    }

    async fn ask(&self, pg: &mut PgConnection) -> Result<i32, ConnectError> {
        let rows = match sqlx::raw_sql(WHO).fetch_all(pg).await {
            Ok(rows) => rows,
            Err(error) if matches!(sqlstate(&error).as_deref(), Some(NO_SCHEMA | NO_TABLE)) => Vec::new(),
            Err(error) => return Err(ConnectError::Database(error)),
        };
        // The marker's table holds one row at most.
        let Some(row) = rows.first() else {
            return Err(ConnectError::WrongDatabase { detail: "it bears no marker".to_owned() });
        };
        let answer = Answer::read(row).map_err(ConnectError::Database)?;
        self.check(&answer)?;
        Ok(answer.pid)
    }

    /// Refuses a database that is not the one meant.
    fn check(&self, answer: &Answer) -> Result<(), ConnectError> {
        let Answer { role, database, tenant, demo, .. } = answer;
        let wrong = |detail| Err(ConnectError::WrongDatabase { detail });
        let Some(kind) = DatabaseKind::from_stored(role, tenant.map(TenantId::as_uuid)) else {
            return wrong(format!("its marker is corrupt: role {role:?}, tenant {tenant:?}"));
        };
        let marker = Marker { kind, database: *database, demo: *demo };
        if (marker.kind, marker.database) == (self.kind, self.database) {
            Ok(())
        } else {
            wrong(format!("it is {marker}, not {} ({})", self.kind, self.database))
        }
    }
}

/// What the database says of itself.
struct Answer {
    pid: i32,
    role: String,
    database: DatabaseId,
    tenant: Option<TenantId>,
    demo: bool,
}

impl Answer {
    fn read(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            pid: row.try_get(0)?,
            role: row.try_get(1)?,
            database: DatabaseId::from_uuid(row.try_get(2)?),
            tenant: row.try_get::<Option<Uuid>, _>(3)?.map(TenantId::from_uuid),
            demo: row.try_get(4)?,
        })
    }
}

/// There is no connection to use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// None could be made, or the question failed.
    #[error("no connection to the database could be made")]
    Database(#[source] sqlx::Error),
    /// The database is marked as another, or not at all.
    #[error("the database is not the one meant: {detail}")]
    WrongDatabase {
        /// What the marker says.
        detail: String,
    },
}

impl From<ConnectError> for OpenError {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::WrongDatabase { detail } => Self::WrongDatabase { detail },
            ConnectError::Database(source) => Self::Unavailable(Box::new(source)),
        }
    }
}

#[cfg(test)]
mod tests {
    use stagesub_tenancy::PlacementEpoch;

    use super::*;

    fn tenant(id: u128) -> TenantId {
        TenantId::from_uuid(Uuid::from_u128(id))
    }

    fn database(id: u128) -> DatabaseId {
        DatabaseId::from_uuid(Uuid::from_u128(id))
    }

    fn answer(role: &str, tenant: Option<TenantId>, id: u128) -> Answer {
        Answer { pid: 7, role: role.to_owned(), database: database(id), tenant, demo: false }
    }

    #[test]
    fn only_the_database_that_says_it_is_the_tenants_is_used() {
        let own =
            PoolTarget::Dedicated { tenant: tenant(1), database: database(10), epoch: PlacementEpoch(1) };
        let own = Identity::of(&own);
        assert!(own.check(&answer("dedicated", Some(tenant(1)), 10)).is_ok());
        for wrong in [
            answer("dedicated", Some(tenant(2)), 10),
            answer("dedicated", Some(tenant(1)), 11),
            answer("shared", None, 10),
            answer("shared", Some(tenant(1)), 10),
            answer("dedicated", None, 10),
        ] {
            assert!(matches!(own.check(&wrong), Err(ConnectError::WrongDatabase { .. })));
        }
    }

    #[test]
    fn a_tenants_own_database_is_no_shared_one() {
        let shared = Identity::of(&PoolTarget::Shared(database(10)));
        assert!(shared.check(&answer("shared", None, 10)).is_ok());
        assert!(shared.check(&answer("shared", None, 11)).is_err());
        let refused = shared.check(&answer("dedicated", Some(tenant(1)), 10)).unwrap_err();
        assert!(refused.to_string().contains("it is the database of tenant"), "{refused}");
    }

    #[test]
    fn a_wrong_database_is_told_apart_from_one_that_is_away() {
        let wrong = ConnectError::WrongDatabase { detail: "it bears no marker".to_owned() };
        assert!(matches!(OpenError::from(wrong), OpenError::WrongDatabase { .. }));
        let away = ConnectError::Database(sqlx::Error::Io(std::io::ErrorKind::ConnectionRefused.into()));
        assert!(matches!(OpenError::from(away), OpenError::Unavailable(_)));
    }
}
