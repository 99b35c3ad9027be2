//! Whether a database's tables are as they were when they were read: cheap enough to be asked while the tenant waits.

use std::fmt;

use stagesub_tenancy::moves::{MoveId, PlaneError};

use super::error;
use crate::moves::change_log;
use crate::moves::session::MoverSession;

/// The versions of everything in the catalogue that says how the tables of some schemas are made. Each change of one of
/// them is a new version, statistics aside, and what logs the changes of other moves. Says nothing to another database, or
/// to another time of this one after a restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stamp(String);

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Types and what belongs to them below this number came with the server.
const FIRST_OF_USERS: i64 = 16_384;

/// Asks a database for a move. A table's own row gets a new version with its first trigger, so what it says is read.
pub(super) async fn read(
    session: &mut MoverSession,
    schemas: &[String],
    moved: MoveId,
) -> Result<Stamp, PlaneError> {
    let stamp = sqlx::query_scalar!(
        r#"WITH t AS MATERIALIZED (
               SELECT c.oid, concat_ws(' ', c.relname, c.relkind, c.relfilenode, c.relpersistence, c.relrowsecurity,
                       c.relforcerowsecurity, c.relreplident, c.relowner, c.relnatts, c.relchecks, c.relhasrules,
                       c.relispartition, c.relacl, c.reloptions, c.relpartbound::text) AS said
               FROM pg_catalog.pg_class AS c
               JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
               WHERE n.nspname = ANY($1::text[]) AND c.relkind <> 'i'),
           others AS (
               SELECT p.oid FROM pg_catalog.pg_proc AS p
               JOIN pg_catalog.pg_namespace AS f ON f.oid = p.pronamespace
               WHERE f.nspname = 'app' AND p.proname ~ $3 AND NOT starts_with(p.proname::text, $4))
           SELECT md5(coalesce(string_agg(v, ',' ORDER BY v), '')) AS "stamp!" FROM (
               SELECT concat('c', oid, ' ', said) AS v FROM t
               UNION ALL SELECT concat('a', attrelid, '.', attnum, ' ', xmin) FROM pg_catalog.pg_attribute
                   WHERE attrelid IN (SELECT oid FROM t) AND attnum > 0
               UNION ALL SELECT concat('d', oid, ' ', xmin) FROM pg_catalog.pg_attrdef
                   WHERE adrelid IN (SELECT oid FROM t)
               UNION ALL SELECT concat('k', oid, ' ', xmin) FROM pg_catalog.pg_constraint
                   WHERE conrelid IN (SELECT oid FROM t)
               UNION ALL SELECT concat('i', indexrelid, ' ', xmin) FROM pg_catalog.pg_index
                   WHERE indrelid IN (SELECT oid FROM t)
               UNION ALL SELECT concat('g', oid, ' ', xmin) FROM pg_catalog.pg_trigger
                   WHERE tgrelid IN (SELECT oid FROM t) AND NOT tgisinternal
                       AND tgfoid NOT IN (SELECT oid FROM others)
               UNION ALL SELECT concat('e', oid, ' ', xmin) FROM pg_catalog.pg_enum
               UNION ALL SELECT concat('y', oid, ' ', xmin) FROM pg_catalog.pg_type
                   WHERE oid >= $2::bigint::oid AND typtype IN ('d', 'e', 'r')) AS versions"#,
        schemas,
        FIRST_OF_USERS,
        change_log::NAMES,
        format!("stagesub_move_{}_", moved.as_uuid().simple())
    )
    .fetch_one(session.conn())
    .await
    .map_err(error::sql("asking whether the tables are as they were"))?;
    Ok(Stamp(stamp))
}
