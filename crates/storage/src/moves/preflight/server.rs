//! What a server of a move and the mover's login on one of its databases are, and what they lack.

use sqlx::PgConnection;
use stagesub_tenancy::moves::MovePath;
use uuid::Uuid;

use super::{PreflightError, asking};
use crate::moves::plan::Checks;
use crate::moves::progress::Direction;
use crate::moves::session::MoverSession;
use crate::moves::slot::stream_name;

/// Age of a transaction, in seconds, from which on it is told: a slot is made once all that were open have ended.
const LONG_SECS: f64 = 60.0;
/// The same, in transactions that began since, where the server does not say when one began.
const LONG_XIDS: i32 = 10_000;
/// Least log that a slot has to be allowed to keep, in mebibytes: what is written while a tenant is copied.
const LEAST_LOG_MIB: i64 = 1024;
/// Connections that a move takes of each side's server, and a few to spare.
const CONNECTIONS: i64 = 8;
/// Shortest time that a session may be idle: the mover's wait for each other.
const IDLE_MS: i64 = 300_000;

/// What a move asks of a server.
pub(super) struct Needed {
    pub(super) path: MovePath,
    /// How many streams begin here.
    pub(super) streams: i64,
}

/// A server and the mover's login on one of its databases.
#[derive(Debug, Clone, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of the catalogue, and none excludes another"
)]
pub(super) struct Server {
    database: String,
    identifier: String,
    wal_level: String,
    slots: i64,
    /// Names of the slots that there are.
    slots_used: Vec<String>,
    senders: i64,
    senders_used: i64,
    /// In mebibytes; less than none: as much as there is.
    keeps_log: i64,
    connections: i64,
    connections_used: i64,
    standby: bool,
    read_only: bool,
    idle_ms: i64,
    transaction_ms: i64,
    snapshot_minutes: i64,
    replication: bool,
    bypasses: bool,
    owner: bool,
    creates: bool,
    marks: bool,
    terminates: bool,
    locks: bool,
    fences: bool,
    skips_checks: bool,
    /// How old transactions are that are open: in seconds, where that is told, and in transactions.
    open: Vec<(Option<f64>, i32)>,
}

impl Server {
    /// Both, as the mover finds them.
    pub(super) async fn read(session: &mut MoverSession) -> Result<Self, PreflightError> {
        let (asked, database) = (asking(session), session.describe().to_owned());
        let server = Self::read_as_another(session.conn(), &database).await.map_err(&asked)?;
        let skips_checks = session.may_skip_checks().await?;
        let row = sqlx::query!(
            r#"SELECT
                current_setting('default_transaction_read_only')::boolean AS "read_only!",
                (SELECT setting::bigint FROM pg_catalog.pg_settings WHERE name = 'idle_session_timeout') AS "idle_ms!",
                coalesce((SELECT setting::bigint FROM pg_catalog.pg_settings WHERE name = 'transaction_timeout'), 0)
                    AS "transaction_ms!",
                r.rolreplication OR r.rolsuper AS "replication!",
                r.rolbypassrls OR r.rolsuper AS "bypasses!",
                EXISTS (SELECT FROM pg_catalog.pg_roles AS o
                    WHERE o.rolname = 'stagesub_owner' AND pg_catalog.pg_has_role(o.oid, 'USAGE')) AS "owner!",
                pg_catalog.has_database_privilege(current_database(), 'CREATE') AS "creates!",
                pg_catalog.has_function_privilege('pg_catalog.pg_logical_emit_message(boolean, text, text)', 'EXECUTE')
                    AS "marks!",
                pg_catalog.has_function_privilege('pg_catalog.pg_terminate_backend(integer, bigint)', 'EXECUTE')
                    AS "terminates!",
                pg_catalog.has_function_privilege('pg_catalog.pg_advisory_lock(bigint)', 'EXECUTE') AS "locks!",
                (SELECT coalesce(bool_and(pg_catalog.has_table_privilege(t.oid, p.word)), false)
                    FROM pg_catalog.pg_class AS t, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS p (word)
                    WHERE t.relnamespace = pg_catalog.to_regnamespace('app')
                        AND t.relname IN ('tenant_fence', 'move_progress')) AS "fences!"
            FROM pg_catalog.pg_roles AS r WHERE r.rolname = current_user"#
        )
        .fetch_one(session.conn())
        .await
        .map_err(&asked)?;
        let open = sqlx::query!(
            r#"SELECT extract(epoch FROM clock_timestamp() - xact_start)::float8 AS seconds,
                pg_catalog.age(backend_xid) AS "xids!"
            FROM pg_catalog.pg_stat_activity
            WHERE backend_xid IS NOT NULL
                -- Another tenant's copy ends by itself, and the slot is tried for again.
                AND NOT (usename = current_user AND starts_with(application_name, 'stagesub-move:'))
            UNION ALL
            SELECT extract(epoch FROM clock_timestamp() - prepared)::float8, pg_catalog.age(transaction)
            FROM pg_catalog.pg_prepared_xacts"#
        )
        .fetch_all(session.conn())
        .await
        .map_err(&asked)?;
        Ok(Self {
            read_only: row.read_only,
            idle_ms: row.idle_ms,
            transaction_ms: row.transaction_ms,
            replication: row.replication,
            bypasses: row.bypasses,
            owner: row.owner,
            creates: row.creates,
            marks: row.marks,
            terminates: row.terminates,
            locks: row.locks,
            fences: row.fences,
            skips_checks,
            open: open.into_iter().map(|row| (row.seconds, row.xids)).collect(),
            ..server
        })
    }

    /// The server as any login sees it; what the mover's would be is taken to be right.
    pub(super) async fn read_as_another(
        conn: &mut PgConnection,
        described: &str,
    ) -> Result<Self, sqlx::Error> {
        let row = sqlx::query!(
            r#"SELECT
                (SELECT system_identifier::text FROM pg_catalog.pg_control_system()) AS "identifier!",
                current_setting('wal_level') AS "wal_level!",
                current_setting('max_replication_slots')::bigint AS "slots!",
                ARRAY(SELECT slot_name::text FROM pg_catalog.pg_replication_slots) AS "slots_used!",
                current_setting('max_wal_senders')::bigint AS "senders!",
                (SELECT count(*) FROM pg_catalog.pg_stat_replication) AS "senders_used!",
                (SELECT setting::bigint FROM pg_catalog.pg_settings WHERE name = 'max_slot_wal_keep_size') AS "keeps_log!",
                current_setting('max_connections')::bigint
                    - current_setting('superuser_reserved_connections')::bigint AS "connections!",
                (SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE datid IS NOT NULL) AS "connections_used!",
                coalesce((SELECT setting::bigint FROM pg_catalog.pg_settings WHERE name = 'old_snapshot_threshold'), -1)
                    AS "snapshot_minutes!",
                pg_catalog.pg_is_in_recovery() AS "standby!""#
        )
        .fetch_one(conn)
        .await?;
        Ok(Self {
            database: described.to_owned(),
            identifier: row.identifier,
            wal_level: row.wal_level,
            slots: row.slots,
            slots_used: row.slots_used,
            senders: row.senders,
            senders_used: row.senders_used,
            keeps_log: row.keeps_log,
            connections: row.connections,
            connections_used: row.connections_used,
            snapshot_minutes: row.snapshot_minutes,
            standby: row.standby,
            replication: true,
            bypasses: true,
            owner: true,
            creates: true,
            marks: true,
            terminates: true,
            locks: true,
            fences: true,
            ..Self::default()
        })
    }

    /// What all databases of the server have in common.
    pub(super) fn identifier(&self) -> &str {
        &self.identifier
    }

    /// Whether both databases are on one server.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.is_called(&other.identifier)
    }

    /// Whether it is the server of this identifier.
    pub(super) fn is_called(&self, identifier: &str) -> bool {
        self.identifier == identifier
    }

    /// Whether it writes its log so that changes can be streamed.
    pub(super) fn decodes(&self) -> bool {
        self.wal_level == "logical"
    }

    /// What holds here while rows are written for a move.
    pub(super) const fn checks(&self) -> Checks {
        if self.skips_checks { Checks::Skipped } else { Checks::Kept }
    }

    /// Whether it is worth trying to stream from here: what is known to be missing is told already.
    pub(super) fn may_stream(&self) -> bool {
        self.replication && self.decodes() && self.senders_used < self.senders
    }

    /// Whether the mover sees the rows of every tenant, and the fence.
    pub(super) const fn reads_rows(&self) -> bool {
        self.bypasses && self.fences
    }

    /// Everything that is missing.
    pub(super) fn obstacles(&self, needed: &Needed, move_id: Uuid) -> Vec<String> {
        let mut found = Found { database: &self.database, all: Vec::new() };
        if self.standby {
            found.add(
                "is a standby, which takes no writes; correct the connection strings to name the primary",
            );
            return found.all;
        }
        found.unless(!self.read_only, "begins transactions READ ONLY; reset default_transaction_read_only");
        self.settings(needed, &mut found);
        self.login(&mut found);
        if needed.path == MovePath::Stream {
            self.streaming(needed, move_id, &mut found);
        }
        found.all
    }

    fn settings(&self, needed: &Needed, found: &mut Found<'_>) {
        let free = self.connections - self.connections_used;
        // A server that is both sides has a stream of each, and the sessions of each.
        let takes = CONNECTIONS * needed.streams;
        found.unless(
            free >= takes,
            &format!("has {free} connections left and a move takes up to {takes}; raise max_connections, or end some"),
        );
        found.unless(
            self.idle_ms == 0 || self.idle_ms >= IDLE_MS,
            &format!(
                "ends sessions that are idle for {} ms, as the mover's may be; ALTER ROLE stagesub_mover SET idle_session_timeout = 0",
                self.idle_ms
            ),
        );
        found.unless(
            self.transaction_ms == 0,
            &format!(
                "ends transactions after {} ms, and copying a tenant is one; ALTER ROLE stagesub_mover SET transaction_timeout = 0",
                self.transaction_ms
            ),
        );
        found.unless(
            self.snapshot_minutes < 0,
            "takes snapshots away that are old, and a tenant is copied in one; set old_snapshot_threshold = -1 and restart it",
        );
    }

    fn login(&self, found: &mut Found<'_>) {
        found.unless(
            self.bypasses,
            "has a mover that row-level security binds, which would copy nothing; ALTER ROLE stagesub_mover BYPASSRLS",
        );
        found.unless(
            self.owner,
            "has a mover that is no member of the tables' owner; GRANT stagesub_owner TO stagesub_mover",
        );
        found.unless(
            self.creates,
            &format!(
                "does not let the mover make anything in the database; {}",
                "GRANT CREATE ON DATABASE to stagesub_owner there, or run `stagesub migrate`"
            ),
        );
        found.unless(
            self.terminates,
            "does not let the mover end sessions of a mover that is gone; GRANT EXECUTE ON FUNCTION pg_terminate_backend(integer, bigint) TO stagesub_mover",
        );
        found.unless(
            self.locks,
            "does not let the mover take a tenant's lock; GRANT EXECUTE ON FUNCTION pg_advisory_lock(bigint) TO stagesub_owner",
        );
        found.unless(
            self.fences,
            "does not let the mover write app.tenant_fence and app.move_progress; run `stagesub migrate`, and `stagesub doctor` for what was taken away",
        );
    }

    fn streaming(&self, needed: &Needed, move_id: Uuid, found: &mut Found<'_>) {
        found.unless(
            self.decodes(),
            &format!(
                "runs with wal_level = {}, and streaming needs `logical`; set it and restart the server, or move by the path `triggers`",
                self.wal_level
            ),
        );
        found.unless(
            self.replication,
            "has a mover that may not stream; ALTER ROLE stagesub_mover REPLICATION",
        );
        found.unless(
            self.marks,
            "does not let the mover mark its transactions; GRANT EXECUTE ON FUNCTION pg_logical_emit_message(boolean, text, text) TO stagesub_mover",
        );
        let own = [Direction::Forward, Direction::Reverse].map(|way| stream_name(move_id, way));
        let used = self.slots_used.iter().filter(|slot| !own.contains(slot)).count();
        let free = self.slots - i64::try_from(used).unwrap_or(i64::MAX);
        found.unless(
            free >= needed.streams,
            &format!(
                "has {} of {} replication slots left and the move needs {}; raise max_replication_slots, or drop a slot that nobody reads",
                free.max(0), self.slots, needed.streams
            ),
        );
        let free = self.senders - self.senders_used;
        found.unless(
            free >= needed.streams,
            &format!(
                "has {} of {} WAL senders left and the move needs {}; raise max_wal_senders",
                free.max(0),
                self.senders,
                needed.streams
            ),
        );
        found.unless(
            !(0..LEAST_LOG_MIB).contains(&self.keeps_log),
            &format!(
                "lets a slot keep {} MiB of its log, which other tenants may write while one is copied; set max_slot_wal_keep_size to {LEAST_LOG_MIB} MiB at least",
                self.keeps_log
            ),
        );
    }

    /// Transactions that have been open for so long that they would hold a slot up.
    pub(super) fn long_transactions(&self) -> Vec<String> {
        let long = |(seconds, xids): &&(Option<f64>, i32)| match seconds {
            Some(seconds) => *seconds > LONG_SECS,
            None => *xids > LONG_XIDS,
        };
        let tell = |(seconds, xids): &(Option<f64>, i32)| {
            let age = match seconds {
                Some(seconds) => format!("{seconds:.0} s"),
                None => format!("{xids} transactions"),
            };
            format!(
                "{} has a transaction that has been open for {age}, and a slot is made only once it has ended; end it, or wait for it",
                self.database
            )
        };
        self.open.iter().filter(long).map(tell).collect()
    }
}

/// Sentences about one database.
struct Found<'a> {
    database: &'a str,
    all: Vec<String>,
}

impl Found<'_> {
    fn add(&mut self, what: &str) {
        self.all.push(format!("{} {what}", self.database));
    }

    fn unless(&mut self, holds: bool, what: &str) {
        if !holds {
            self.add(what);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that everything can be moved on.
    fn fit() -> Server {
        Server {
            database: "db".to_owned(),
            wal_level: "logical".to_owned(),
            slots: 10,
            senders: 10,
            keeps_log: -1,
            connections: 97,
            snapshot_minutes: -1,
            replication: true,
            bypasses: true,
            owner: true,
            creates: true,
            marks: true,
            terminates: true,
            locks: true,
            fences: true,
            ..Server::default()
        }
    }

    fn told(server: &Server, path: MovePath, streams: i64) -> Vec<String> {
        server.obstacles(&Needed { path, streams }, Uuid::nil())
    }

    #[test]
    fn nothing_stands_in_the_way_on_a_fit_server() {
        for path in MovePath::ALL {
            assert_eq!(told(&fit(), path, 2), [""; 0]);
        }
        assert!(fit().may_stream());
    }

    #[test]
    fn everything_that_is_missing_is_told_at_once_with_what_to_do() {
        let bare = Server {
            bypasses: false,
            owner: false,
            creates: false,
            marks: false,
            terminates: false,
            ..fit()
        };
        let bare = Server {
            locks: false,
            fences: false,
            replication: false,
            wal_level: "replica".to_owned(),
            ..bare
        };
        let found = told(&bare, MovePath::Stream, 1);
        assert_eq!(found.len(), 9, "{found:#?}");
        assert!(
            found.iter().all(|sentence| sentence.starts_with("db ") && sentence.contains(';')),
            "{found:#?}"
        );
        assert!(!bare.may_stream());
    }

    #[test]
    fn a_path_without_streams_asks_for_none() {
        let plain = Server {
            wal_level: "minimal".to_owned(),
            slots: 0,
            senders: 0,
            replication: false,
            marks: false,
            ..fit()
        };
        assert_eq!(told(&plain, MovePath::Triggers, 2), [""; 0]);
        assert_eq!(told(&plain, MovePath::Short, 2), [""; 0]);
        assert!(told(&plain, MovePath::Stream, 2).len() >= 4);
    }

    #[test]
    fn slots_are_counted_without_the_moves_own() {
        let own = stream_name(Uuid::nil(), Direction::Forward);
        let server = Server { slots: 2, slots_used: vec![own, "other".to_owned()], ..fit() };
        assert_eq!(told(&server, MovePath::Stream, 1), [""; 0]);
        let found = told(&server, MovePath::Stream, 2);
        assert!(found.len() == 1 && found[0].contains("1 of 2 replication slots"), "{found:?}");
        let server = Server { connections_used: 97 - CONNECTIONS, ..fit() };
        assert_eq!(told(&server, MovePath::Stream, 1), [""; 0]);
        let found = told(&server, MovePath::Stream, 2);
        assert!(
            found.len() == 1 && found[0].contains("8 connections left and a move takes up to 16"),
            "{found:?}"
        );
    }

    #[test]
    fn a_bound_on_the_log_a_snapshot_or_a_session_is_told_with_its_figure() {
        for (server, word) in [
            (Server { keeps_log: 64, ..fit() }, "64 MiB"),
            (Server { snapshot_minutes: 60, ..fit() }, "old_snapshot_threshold"),
            (Server { idle_ms: 1000, ..fit() }, "1000 ms"),
            (Server { transaction_ms: 5000, ..fit() }, "5000 ms"),
            (Server { connections_used: 95, ..fit() }, "2 connections left"),
            (Server { read_only: true, ..fit() }, "READ ONLY"),
            (Server { senders_used: 10, ..fit() }, "WAL senders"),
        ] {
            let found = told(&server, MovePath::Stream, 1);
            assert!(found.len() == 1 && found[0].contains(word), "{word}: {found:?}");
        }
        assert_eq!(told(&Server { keeps_log: 1024, ..fit() }, MovePath::Stream, 1), [""; 0]);
    }

    #[test]
    fn a_standby_is_told_and_nothing_else_of_it() {
        let found = told(&Server { standby: true, bypasses: false, ..fit() }, MovePath::Stream, 1);
        assert!(found.len() == 1 && found[0].contains("standby"), "{found:?}");
    }

    #[test]
    fn a_transaction_is_named_by_its_age_in_time_or_in_transactions() {
        let open = vec![(Some(59.0), 90_000), (Some(61.4), 2), (None, 10_000), (None, 10_001)];
        let found = Server { open, ..fit() }.long_transactions();
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("61 s") && found[1].contains("10001 transactions"), "{found:?}");
    }
}
