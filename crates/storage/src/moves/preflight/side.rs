//! What is tried and asked in one database of a move, beside what its server is.

use stagesub_tenancy::moves::MovePath;
use uuid::Uuid;

use super::{PreflightError, asking};
use crate::doctor;
use crate::moves::plan::MovePlan;
use crate::moves::progress::Direction;
use crate::moves::session::{MoverSession, Site};
use crate::moves::slot::{SlotSession, StreamError};

/// Opens a replication session, as the move would, and asks it one thing.
pub(super) async fn try_streaming(site: &Site, move_id: Uuid) -> Option<String> {
    let tried =
        async { SlotSession::open(site.login(), move_id, Direction::Forward).await?.identify().await };
    let database = site.login().describe();
    match tried.await {
        Ok(()) => None,
        Err(StreamError::Unsupported(what)) => Some(format!(
            "{database} cannot be streamed from over {what}; reach the server by another address, or move by the path `triggers`"
        )),
        Err(error) => Some(format!(
            "{database} does not open a replication session for the mover ({}); let stagesub_mover in there directly, in pg_hba.conf and past any pooler",
            chain(&error)
        )),
    }
}

/// Whether what admits transactions is what the migrations made: a fence that does not read the row anew lets writers
/// slip past.
pub(super) async fn guards(session: &mut MoverSession) -> Result<Vec<String>, PreflightError> {
    let (asked, database) = (asking(session), session.describe().to_owned());
    let findings = doctor::guard_findings(session.conn(), &database).await.map_err(asked)?;
    let tell = |finding: doctor::Finding| {
        format!(
            "{database}: {}: {}; `stagesub doctor` has the SQL that mends it",
            finding.object, finding.why
        )
    };
    Ok(findings.into_iter().map(tell).collect())
}

/// What the mover may not do with the tables. They are published and filled by members of their owner.
pub(super) async fn privileges(
    session: &mut MoverSession,
    plan: &MovePlan,
    path: MovePath,
) -> Result<Vec<String>, PreflightError> {
    let (asked, database) = (asking(session), session.describe().to_owned());
    let (schemas, names): (Vec<String>, Vec<String>) =
        plan.tables.iter().map(|table| (table.name.schema.clone(), table.name.name.clone())).unzip();
    let rows = sqlx::query!(
        r#"SELECT format('%I.%I', n.nspname, c.relname) AS "name!", c.relowner::regrole::text AS "owner!",
            pg_catalog.pg_has_role(c.relowner, 'USAGE') AS "owns!",
            ARRAY(SELECT p.word FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS p (word)
                WHERE NOT pg_catalog.has_table_privilege(c.oid, p.word)) AS "lacks!"
        FROM unnest($1::text[], $2::text[]) AS t (schema, name)
        JOIN pg_catalog.pg_namespace AS n ON n.nspname = t.schema
        JOIN pg_catalog.pg_class AS c ON c.relnamespace = n.oid AND c.relname = t.name
        ORDER BY 1"#,
        &schemas,
        &names
    )
    .fetch_all(session.conn())
    .await
    .map_err(asked)?;
    let mut found = Vec::new();
    for row in rows {
        if !row.lacks.is_empty() {
            let lacks = row.lacks.join(", ");
            found.push(format!(
                "{database} does not let the mover {lacks} in {}; GRANT {lacks} ON {} TO stagesub_mover",
                row.name, row.name
            ));
        }
        if !row.owns && path != MovePath::Short {
            found.push(format!(
                "{database} has {} of the owner {}, whom the mover is no member of; ALTER TABLE {} OWNER TO stagesub_owner",
                row.name, row.owner, row.name
            ));
        }
    }
    Ok(found)
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}
