//! What belongs to a move: how far its copies are, and what it has to remove.

use std::time::Duration;

use sqlx::PgConnection;
use stagesub_tenancy::DatabaseId;
use stagesub_tenancy::moves::record::Object;
use stagesub_tenancy::moves::{Cleanup, Held, MoveId, MoveRegistryError, MoveState, TableProgress};
use uuid::Uuid;

use super::{PgMoveRegistry, commit, undo};
use crate::registry::{corrupt, unavailable};

/// How far the copies are.
pub(super) async fn tables(
    registry: &PgMoveRegistry,
    id: MoveId,
) -> Result<Vec<TableProgress>, MoveRegistryError> {
    let rows = sqlx::query!(
        "SELECT schema_name, table_name, rows, bytes, done FROM registry.move_tables
        WHERE move_id = $1
        ORDER BY place, schema_name, table_name",
        id.as_uuid()
    )
    .fetch_all(registry.registry.control())
    .await
    .map_err(unavailable)?;
    let tables = rows.into_iter().map(|row| TableProgress {
        schema: row.schema_name,
        table: row.table_name,
        rows: row.rows.unsigned_abs(),
        bytes: row.bytes.unsigned_abs(),
        done: row.done,
    });
    Ok(tables.collect())
}

/// How far behind the other side was.
pub(super) async fn lag(
    registry: &PgMoveRegistry,
    id: MoveId,
) -> Result<Option<Duration>, MoveRegistryError> {
    let lag = sqlx::query_scalar!("SELECT lag_us FROM registry.moves WHERE id = $1", id.as_uuid())
        .fetch_optional(registry.registry.control())
        .await
        .map_err(unavailable)?;
    Ok(lag.flatten().map(|micros| Duration::from_micros(micros.unsigned_abs())))
}

/// Writes down how far behind it is. That is no change of the move.
pub(super) async fn record_lag(
    registry: &PgMoveRegistry,
    held: &Held,
    lag: Duration,
) -> Result<bool, MoveRegistryError> {
    let recorded = sqlx::query!(
        "UPDATE registry.moves SET lag_us = $4
        WHERE id = $1 AND owner = $2 AND token = $3 AND ended_at IS NULL",
        held.moved.id.as_uuid(),
        held.node.as_uuid(),
        held.token.0,
        i64::try_from(lag.as_micros()).unwrap_or(i64::MAX)
    )
    .execute(registry.registry.control())
    .await
    .map_err(unavailable)?
    .rows_affected();
    Ok(recorded == 1)
}

/// How many moves there are in each state.
pub(super) async fn count_live(
    registry: &PgMoveRegistry,
) -> Result<Vec<(MoveState, u64)>, MoveRegistryError> {
    let rows = sqlx::query!(
        r#"SELECT state, count(*) AS "moves!" FROM registry.moves
        WHERE ended_at IS NULL
        GROUP BY state
        ORDER BY state"#
    )
    .fetch_all(registry.registry.control())
    .await
    .map_err(unavailable)?;
    let counted = rows.into_iter().map(|row| {
        let state = row.state.parse().map_err(|source| corrupt("state of a move", source))?;
        Ok((state, row.moves.unsigned_abs()))
    });
    counted.collect()
}

/// Writes down how far they are.
pub(super) async fn record_tables(
    registry: &PgMoveRegistry,
    held: &Held,
    tables: Vec<TableProgress>,
) -> Result<bool, MoveRegistryError> {
    let mut tx = registry.start().await?;
    if !is_held(&mut tx, held).await? {
        undo(tx).await?;
        return Ok(false);
    }
    let count = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let rows: Vec<i64> = tables.iter().map(|table| count(table.rows)).collect();
    let bytes: Vec<i64> = tables.iter().map(|table| count(table.bytes)).collect();
    let done: Vec<bool> = tables.iter().map(|table| table.done).collect();
    let (schemas, names): (Vec<String>, Vec<String>) =
        tables.into_iter().map(|table| (table.schema, table.table)).unzip();
    sqlx::query!(
        "INSERT INTO registry.move_tables AS kept
            (move_id, schema_name, table_name, place, rows, bytes, done)
        SELECT $1, t.schema_name, t.table_name, t.place - 1, t.rows, t.bytes, t.done
        FROM unnest($2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::boolean[])
            WITH ORDINALITY AS t (schema_name, table_name, rows, bytes, done, place)
        ON CONFLICT (move_id, schema_name, table_name) DO UPDATE
        SET place = excluded.place, rows = excluded.rows, bytes = excluded.bytes, done = excluded.done,
            updated_at = now()",
        held.moved.id.as_uuid(),
        &schemas,
        &names,
        &rows,
        &bytes,
        &done
    )
    .execute(&mut *tx)
    .await
    .map_err(unavailable)?;
    commit(tx).await?;
    Ok(true)
}

/// Writes down what will have to be removed.
pub(super) async fn plan_cleanups(
    registry: &PgMoveRegistry,
    held: &Held,
    cleanups: Vec<Cleanup>,
) -> Result<bool, MoveRegistryError> {
    let mut tx = registry.start().await?;
    if !is_held(&mut tx, held).await? {
        undo(tx).await?;
        return Ok(false);
    }
    let objects: Vec<String> = cleanups.iter().map(|cleanup| cleanup.object.as_str().to_owned()).collect();
    let databases: Vec<Uuid> = cleanups.iter().map(|cleanup| cleanup.database.as_uuid()).collect();
    let names: Vec<String> = cleanups.into_iter().map(|cleanup| cleanup.name).collect();
    sqlx::query!(
        "INSERT INTO registry.move_cleanups (move_id, object, database_id, name, place)
        SELECT $1, c.object, c.database_id, c.name, c.place - 1
        FROM unnest($2::text[], $3::uuid[], $4::text[])
            WITH ORDINALITY AS c (object, database_id, name, place)
        ON CONFLICT (move_id, object, database_id, name) DO UPDATE
        SET place = excluded.place, done_at = NULL, updated_at = now()",
        held.moved.id.as_uuid(),
        &objects,
        &databases,
        &names
    )
    .execute(&mut *tx)
    .await
    .map_err(unavailable)?;
    commit(tx).await?;
    Ok(true)
}

/// What is still to be removed, the last first.
pub(super) async fn outstanding(
    registry: &PgMoveRegistry,
    id: MoveId,
) -> Result<Vec<Cleanup>, MoveRegistryError> {
    let rows = sqlx::query!(
        "SELECT object, database_id, name FROM registry.move_cleanups
        WHERE move_id = $1 AND done_at IS NULL
        ORDER BY place DESC, object, database_id, name",
        id.as_uuid()
    )
    .fetch_all(registry.registry.control())
    .await
    .map_err(unavailable)?;
    rows.into_iter()
        .map(|row| {
            let object = Object::from_stored(&row.object)
                .ok_or_else(|| corrupt("move", format!("nothing is called {}", row.object)))?;
            Ok(Cleanup { object, database: DatabaseId::from_uuid(row.database_id), name: row.name })
        })
        .collect()
}

/// Writes down that something was removed.
pub(super) async fn cleaned(
    registry: &PgMoveRegistry,
    held: &Held,
    cleanup: &Cleanup,
) -> Result<bool, MoveRegistryError> {
    let mut tx = registry.start().await?;
    if !is_held(&mut tx, held).await? {
        undo(tx).await?;
        return Ok(false);
    }
    sqlx::query!(
        "UPDATE registry.move_cleanups SET done_at = now(), updated_at = now()
        WHERE move_id = $1 AND object = $2 AND database_id = $3 AND name = $4",
        held.moved.id.as_uuid(),
        cleanup.object.as_str(),
        cleanup.database.as_uuid(),
        cleanup.name
    )
    .execute(&mut *tx)
    .await
    .map_err(unavailable)?;
    commit(tx).await?;
    Ok(true)
}

/// Whether this is who holds the move, in whatever state; then nobody else takes it before the transaction ends.
async fn is_held(conn: &mut PgConnection, held: &Held) -> Result<bool, MoveRegistryError> {
    let found = sqlx::query_scalar!(
        "SELECT id FROM registry.moves WHERE id = $1 AND owner = $2 AND token = $3 AND ended_at IS NULL
        FOR UPDATE",
        held.moved.id.as_uuid(),
        held.node.as_uuid(),
        held.token.0
    )
    .fetch_optional(conn)
    .await
    .map_err(unavailable)?;
    Ok(found.is_some())
}
