//! What moves have made in schema `app` and on tenant tables to follow changes without logical decoding
//! ([`change_log`](crate::moves::change_log)): it is there by design for as long as its move lives, and for no longer.
//!
//! A database does not say which moves live; the registry does. Who has no registry is told of every log.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::guards::Nature;
use super::report::{Finding, Level};
use crate::migrate::MigrateError;
use crate::migrate::error::during;
use crate::moves::change_log::{NAMES, move_of, trigger_body};

const LINT: &str = "move-log";

/// Every log, as a note. Whether its move lives is for [`judge`].
pub(super) async fn findings(conn: &mut PgConnection, database: &str) -> Result<Vec<Finding>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"WITH logs AS (
            SELECT c.relname::text AS name FROM pg_catalog.pg_class AS c
            JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
            WHERE n.nspname = 'app' AND c.relkind = 'r' AND c.relname ~ $1
            UNION
            SELECT p.proname::text FROM pg_catalog.pg_proc AS p
            JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
            WHERE n.nspname = 'app' AND p.proname ~ $1
        )
        SELECT l.name AS "name!",
            concat(
                (SELECT string_agg(format(E'DROP TRIGGER %I ON %I.%I;\n', t.tgname, n.nspname, c.relname), ''
                     ORDER BY n.nspname, c.relname, t.tgname)
                 FROM pg_catalog.pg_trigger AS t
                 JOIN pg_catalog.pg_class AS c ON c.oid = t.tgrelid
                 JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
                 JOIN pg_catalog.pg_proc AS p ON p.oid = t.tgfoid
                 JOIN pg_catalog.pg_namespace AS f ON f.oid = p.pronamespace
                 WHERE f.nspname = 'app' AND p.proname = l.name),
                format(E'DROP FUNCTION IF EXISTS app.%I();\nDROP TABLE IF EXISTS app.%I, app.%I;',
                    l.name, l.name, l.name || '_batches')) AS "mend!"
        FROM logs AS l ORDER BY l.name"#,
        NAMES
    )
    .fetch_all(conn)
    .await?;
    let of = |name: String, mend: String| Finding {
        level: Level::Note,
        lint: LINT,
        database: database.to_owned(),
        object: format!("app.{name}"),
        why: "a move logs changes of a tenant's rows in it, and removes it when it has ended".to_owned(),
        mend: format!("-- If that move has ended:\n{mend}"),
    };
    Ok(rows.into_iter().map(|row| of(row.name, row.mend)).collect())
}

/// Whether a routine of schema `app` is what a log's triggers call, unchanged.
pub(super) fn is_its_function(name: &str, nature: &Nature) -> bool {
    let made = || Nature {
        is_procedure: false,
        language: "plpgsql".to_owned(),
        volatility: "v".to_owned(),
        parallel: "u".to_owned(),
        definer: true,
        leakproof: false,
        strict: false,
        configured: true,
        body: trigger_body(name),
    };
    move_of(name).is_some() && *nature == made()
}

/// The registry's time.
pub(super) async fn now(registry: &mut PgConnection) -> Result<DateTime<Utc>, MigrateError> {
    sqlx::query_scalar!(r#"SELECT now() AS "now!""#)
        .fetch_one(registry)
        .await
        .map_err(during("asking the registry for the time"))
}

/// The moves that have lived at some time since.
pub(super) async fn living(
    registry: &mut PgConnection,
    since: DateTime<Utc>,
) -> Result<HashSet<Uuid>, MigrateError> {
    let moves =
        sqlx::query_scalar!("SELECT id FROM registry.moves WHERE ended_at IS NULL OR ended_at >= $1", since)
            .fetch_all(registry)
            .await
            .map_err(during("reading which moves live"))?;
    Ok(moves.into_iter().collect())
}

/// Leaves out the logs of moves that live. Those of no such move were left behind.
pub(super) fn judge(found: Vec<Finding>, living: &HashSet<Uuid>) -> Vec<Finding> {
    let judged = |finding: Finding| {
        if finding.lint != LINT {
            return Some(finding);
        }
        let owner = finding.object.strip_prefix("app.").and_then(move_of);
        if owner.is_some_and(|owner| living.contains(&owner)) {
            return None;
        }
        let why = "no move lives that it belongs to: it slows writers down, and keeps what they wrote";
        Some(Finding { level: Level::Partial, why: why.to_owned(), ..finding })
    };
    found.into_iter().filter_map(judged).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::moves::progress::Direction;
    use crate::moves::slot::stream_name;

    fn finding(lint: &'static str, object: String) -> Finding {
        Finding {
            level: Level::Note,
            lint,
            database: "db".to_owned(),
            object,
            why: String::new(),
            mend: String::new(),
        }
    }

    #[test]
    fn a_log_is_told_of_when_its_move_lives_no_more() {
        let [living, gone] = [1, 2].map(Uuid::from_u128);
        let log = |id| finding(LINT, format!("app.{}", stream_name(id, Direction::Forward)));
        let other = finding("setting", "app.x".to_owned());
        let judged = judge(vec![log(living), other.clone(), log(gone)], &HashSet::from([living]));
        assert_eq!(judged.len(), 2);
        assert_eq!(judged[0], other);
        assert_eq!((judged[1].level, &judged[1].object), (Level::Partial, &log(gone).object));
    }

    #[test]
    fn a_function_that_is_only_called_like_one_is_somebody_elses() {
        let name = stream_name(Uuid::from_u128(1), Direction::Reverse);
        let mut nature = Nature {
            is_procedure: false,
            language: "plpgsql".to_owned(),
            volatility: "v".to_owned(),
            parallel: "u".to_owned(),
            definer: true,
            leakproof: false,
            strict: false,
            configured: true,
            body: trigger_body(&name),
        };
        assert!(is_its_function(&name, &nature));
        assert!(!is_its_function("enter", &nature));
        let other = stream_name(Uuid::from_u128(2), Direction::Reverse);
        assert!(!is_its_function(&other, &nature), "it writes into another log");
        nature.body.push(' ');
        assert!(!is_its_function(&name, &nature));
    }
}
