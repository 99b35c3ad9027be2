//! One connection for setting a database up, and what its server and user are.

use std::io;
use std::time::Duration;

use sqlx::{ConnectOptions, Connection, PgConnection};

use super::error::{MigrateError, during};
use crate::target::ConnectionTarget;

/// How long one attempt to connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Oldest server that has what the schema uses (column lists of SET NULL, the strategies of CREATE DATABASE).
const MIN_SERVER_VERSION: i32 = 150_000;
/// Key of the advisory lock that lets one migration run at a time. Any number that nobody else uses.
const GATE: i64 = 0x5354_4147_4553_5542;

/// A connection with what is known of it.
pub(crate) struct Session {
    pub(crate) conn: PgConnection,
    /// User, address and database, for messages.
    pub(crate) target: String,
    pub(crate) facts: Facts,
}

/// What decides how far this user can set things up.
#[derive(Debug, Clone)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of the catalogue, and none excludes another"
)]
pub(crate) struct Facts {
    pub(crate) superuser: bool,
    pub(crate) creates_roles: bool,
    pub(crate) creates_databases: bool,
    /// It follows another server and takes no writes.
    pub(crate) standby: bool,
    /// Has the privileges of the database's owner.
    pub(crate) owns_database: bool,
    /// The same for all databases of one server, however it is addressed.
    pub(crate) server_identifier: String,
    pub(crate) database: String,
}

impl Session {
    /// Connects and checks that the server is recent enough and the database holds every text.
    pub(crate) async fn open(target: &ConnectionTarget) -> Result<Self, MigrateError> {
        let described = target.describe();
        let mut conn = connect(target)
            .await
            .map_err(|source| MigrateError::Unreachable { target: described.clone(), source })?;
        let row = sqlx::query!(
            r#"SELECT
                r.rolsuper AS "superuser!",
                r.rolcreaterole AS "creates_roles!",
                r.rolcreatedb AS "creates_databases!",
                pg_is_in_recovery() AS "standby!",
                pg_has_role(d.datdba, 'USAGE') AS "owns_database!",
                d.datname::text AS "database!",
                pg_encoding_to_char(d.encoding)::text AS "encoding!",
                current_setting('server_version') AS "version!",
                current_setting('server_version_num')::int AS "version_num!",
                (SELECT system_identifier::text FROM pg_control_system()) AS "server_identifier!"
            FROM pg_catalog.pg_roles AS r, pg_catalog.pg_database AS d
            WHERE r.rolname = current_user AND d.datname = current_database()"#
        )
        .fetch_one(&mut conn)
        .await
        .map_err(during("reading what the server is"))?;
        if row.version_num < MIN_SERVER_VERSION {
            return Err(MigrateError::OldServer { target: described, version: row.version });
        }
        if row.encoding != "UTF8" {
            return Err(MigrateError::Encoding { target: described, encoding: row.encoding });
        }
        let facts = Facts {
            superuser: row.superuser,
            creates_roles: row.creates_roles,
            creates_databases: row.creates_databases,
            standby: row.standby,
            owns_database: row.owns_database || row.superuser,
            server_identifier: row.server_identifier,
            database: row.database,
        };
        Ok(Self { conn, target: described, facts })
    }

    /// From here on everything made belongs to the owner.
    pub(crate) async fn become_owner(&mut self) -> Result<(), MigrateError> {
        self.run("SET ROLE stagesub_owner", "acting as the owner").await
    }

    /// Back to the user that connected.
    pub(crate) async fn become_self(&mut self) -> Result<(), MigrateError> {
        self.run("RESET ROLE", "acting as oneself").await
    }

    /// Runs a fixed statement.
    pub(crate) async fn run(&mut self, sql: &'static str, doing: &'static str) -> Result<(), MigrateError> {
        sqlx::raw_sql(sql).execute(&mut self.conn).await.map_err(during(doing))?;
        Ok(())
    }

    /// What this session needs and its user lacks.
    pub(crate) fn lacks(&self, lacks: &'static str) -> MigrateError {
        MigrateError::NotPrivileged { target: self.target.clone(), lacks }
    }

    /// Ends the connection in good order.
    pub(crate) async fn close(self) -> Result<(), MigrateError> {
        self.conn.close().await.map_err(during("closing the connection"))
    }
}

/// Connects, within a bound. The driver's own log of statements is off, at every level: the statement that
/// gives a role its login carries the password as text.
pub(crate) async fn connect(target: &ConnectionTarget) -> Result<PgConnection, sqlx::Error> {
    let options = target.to_connect_options().disable_statement_logging();
    match tokio::time::timeout(CONNECT_TIMEOUT, PgConnection::connect_with(&options)).await {
        Ok(connected) => connected,
        Err(elapsed) => Err(sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, elapsed))),
    }
}

/// Lets one caller at a time set databases up. Held by an open transaction of its own, so that it works
/// without the privilege to take session locks and ends with its connection.
pub(crate) struct Gate(PgConnection);

impl Gate {
    /// Waits for whoever is inside. `key` tells gates in one database apart.
    pub(crate) async fn enter(target: &ConnectionTarget, key: i64) -> Result<Self, MigrateError> {
        let mut conn = connect(target)
            .await
            .map_err(|source| MigrateError::Unreachable { target: target.describe(), source })?;
        sqlx::raw_sql("BEGIN").execute(&mut conn).await.map_err(during("waiting for another migration"))?;
        sqlx::query!("SELECT pg_advisory_xact_lock($1)", GATE ^ key)
            .execute(&mut conn)
            .await
            .map_err(during("waiting for another migration"))?;
        Ok(Self(conn))
    }

    /// Lets the next one in.
    pub(crate) async fn leave(self) -> Result<(), MigrateError> {
        self.0.close().await.map_err(during("closing the connection"))
    }
}
