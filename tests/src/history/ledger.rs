//! The tables that clients write to: entries, a count of each writer's entries, and rows that were there before.
//!
//! Each write makes an entry, adds one to its writer's count and touches one of the rows, in one statement. So an entry
//! that is there twice, a change that was made twice, and one that was made on an older state than the last show in
//! the end, each in another place.

use std::collections::BTreeMap;

use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row as _};
use stagesub_storage::moves::plan::Contents;
use stagesub_storage::one_message::PreparedRead;
use stagesub_storage::one_write::PreparedWrite;
use stagesub_tenancy::TenantId;

use super::record::{Entry, Found};
use crate::database::run;

/// Schemas that a tenant's rows are in: the product's and this one.
pub const SCHEMAS: [&str; 2] = ["tenant", "ledger"];

/// How many writers a tenant has counts for.
pub const WRITERS: i32 = 16;

/// What the tables are. They belong to the owner and stand behind the fence, as a service's own do.
const SCHEMA: &str = "
    SET ROLE stagesub_owner;
    CREATE SCHEMA ledger;
    CREATE TABLE ledger.counter (
        tenant_id uuid NOT NULL, writer integer NOT NULL, total bigint NOT NULL,
        CONSTRAINT counter_pkey PRIMARY KEY (tenant_id, writer));
    CREATE TABLE ledger.entry (
        tenant_id uuid NOT NULL, id uuid NOT NULL DEFAULT gen_random_uuid(), writer integer NOT NULL,
        number bigint NOT NULL, written_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT entry_pkey PRIMARY KEY (tenant_id, id),
        CONSTRAINT entry_counter_fkey FOREIGN KEY (tenant_id, writer) REFERENCES ledger.counter (tenant_id, writer));
    CREATE INDEX entry_number_idx ON ledger.entry (tenant_id, writer, number);
    CREATE TABLE ledger.page (
        tenant_id uuid NOT NULL, no bigint NOT NULL, touched bigint NOT NULL DEFAULT 0, amount numeric NOT NULL,
        placed timestamptz NOT NULL, doc jsonb, words text[], note text,
        CONSTRAINT page_pkey PRIMARY KEY (tenant_id, no));
    CALL app.protect('ledger.counter'); CALL app.protect('ledger.entry'); CALL app.protect('ledger.page');
    GRANT USAGE ON SCHEMA ledger TO stagesub_app, stagesub_mover;
    GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA ledger TO stagesub_app;
    GRANT UPDATE (total) ON ledger.counter TO stagesub_app;
    GRANT UPDATE (touched) ON ledger.page TO stagesub_app;
    RESET ROLE";

/// One write: the entry, its writer's count, and one row touched. `$1` tenant, `$2` writer, `$3` number, `$4` the row.
pub(super) const WRITE: &str = "
    WITH made AS (
        INSERT INTO ledger.entry (tenant_id, writer, number) VALUES ($1, $2, $3)
    ), touched AS (
        UPDATE ledger.page SET touched = touched + 1 WHERE tenant_id = $1 AND no = $4
    )
    UPDATE ledger.counter SET total = total + 1 WHERE tenant_id = $1 AND writer = $2
    RETURNING current_database()::text";

/// The same in one message.
pub(super) const WRITE_AT_ONCE: PreparedWrite = PreparedWrite::new("history_made", WRITE, 3);

/// The last entry and the count of each writer.
pub(super) const READ: &str = "
    SELECT c.writer, c.total, current_database()::text AS served,
        coalesce((SELECT max(e.number) FROM ledger.entry AS e WHERE e.tenant_id = $1 AND e.writer = c.writer), 0) AS last
    FROM ledger.counter AS c WHERE c.tenant_id = $1";

/// The same in one message.
pub(super) static READ_AT_ONCE: PreparedRead = PreparedRead::new("history_seen", READ, 0);

/// What is moved of a tenant who has them.
#[must_use]
pub fn contents() -> Contents {
    Contents { schemas: SCHEMAS.map(str::to_owned).to_vec(), reference_tables: Vec::new() }
}

/// Makes the tables, as an administrator.
pub async fn make(conn: &mut PgConnection) {
    run(conn, SCHEMA).await;
}

/// Gives a tenant its writers, numbered from 1, and so many rows to touch, as an administrator.
pub async fn fill(conn: &mut PgConnection, tenant: TenantId, rows: i64) {
    let sql = format!(
        "INSERT INTO ledger.counter (tenant_id, writer, total)
        SELECT '{tenant}', n, 0 FROM generate_series(1, {WRITERS}) AS n;
        INSERT INTO ledger.page (tenant_id, no, amount, placed, doc, words, note)
        SELECT '{tenant}', n, n / 7.0, timestamptz '2026-01-01' + n * interval '1 second',
            jsonb_build_object('n', n, 'text', md5(n::text)), ARRAY[md5(n::text), 'two'],
            CASE WHEN n % 4 = 0 THEN repeat('x', 60) END
        FROM generate_series(1, {rows}) AS n;
        ANALYZE ledger.counter, ledger.entry, ledger.page"
    );
    run(conn, &sql).await;
}

/// What is there of a tenant, as the administrator sees it.
pub async fn found(conn: &mut PgConnection, tenant: TenantId) -> Found {
    let entries: Vec<(i32, i64, i64)> = sqlx::query_as(
        "SELECT writer, number, count(*) FROM ledger.entry WHERE tenant_id = $1 GROUP BY writer, number",
    )
    .bind(tenant.as_uuid())
    .fetch_all(&mut *conn)
    .await
    .expect("the entries can be read");
    let counted: Vec<(i32, i64)> =
        sqlx::query_as("SELECT writer, total FROM ledger.counter WHERE tenant_id = $1")
            .bind(tenant.as_uuid())
            .fetch_all(&mut *conn)
            .await
            .expect("the counts can be read");
    let touched: i64 =
        sqlx::query_scalar("SELECT coalesce(sum(touched), 0)::bigint FROM ledger.page WHERE tenant_id = $1")
            .bind(tenant.as_uuid())
            .fetch_one(conn)
            .await
            .expect("the rows can be read");
    let entry = |(writer, number, times): (i32, i64, i64)| {
        (Entry { writer, number }, usize::try_from(times).expect("a count"))
    };
    Found {
        entries: entries.into_iter().map(entry).collect(),
        counted: counted.into_iter().collect(),
        touched: Some(touched),
    }
}

/// What [`READ`] says: by which database, the last entries, the counts. Of a writer that it does not mention, nothing
/// is there.
pub(super) fn seen(rows: &[PgRow]) -> (Option<String>, BTreeMap<i32, i64>, BTreeMap<i32, i64>) {
    let none: BTreeMap<i32, i64> = (1..=WRITERS).map(|writer| (writer, 0)).collect();
    let (mut last, mut counted) = (none.clone(), none);
    for row in rows {
        let writer = row.get("writer");
        last.insert(writer, row.get("last"));
        counted.insert(writer, row.get("total"));
    }
    (rows.first().map(|row| row.get("served")), last, counted)
}
