//! Whether given rows are the same on both sides.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::try_join;
use sqlx::{AssertSqlSafe, PgConnection};
use stagesub_tenancy::TenantId;

use super::statements::by_keys;
use super::{Difference, Hashes, RowKey, Side, VerifyError, compare};
use crate::moves::plan::{MovePlan, TablePlan};
use crate::moves::session::MoverSession;

/// Compares rows by their keys: one message to each side, both at once, whatever tables they belong to. A row that
/// neither side has is the same on both. The differences are in the order of tables.
///
/// Each side is read as it is at that moment, so it says something about two moments unless nobody writes.
///
/// # Errors
/// [`VerifyError`]; [`VerifyError::NoKey`] before anything is asked.
///
/// # Cancel safety
/// Nothing is written. A session whose answer was not waited for is to be dropped.
pub async fn keys(
    source: &mut MoverSession,
    target: &mut MoverSession,
    plan: &MovePlan,
    tenant: TenantId,
    keys: &[RowKey],
) -> Result<Vec<Difference>, VerifyError> {
    let asked = Asked::of(plan, keys)?;
    for session in [&mut *source, &mut *target] {
        session.keep_to_indexes().await.map_err(VerifyError::Session)?;
    }
    compare_asked(source.conn(), target.conn(), tenant, &asked).await
}

/// The same for rows of one table, on sessions that keep to indexes.
pub(super) async fn of_table(
    source: &mut PgConnection,
    target: &mut PgConnection,
    table: &TablePlan,
    tenant: TenantId,
    keys: BTreeSet<Vec<String>>,
) -> Result<Vec<Difference>, VerifyError> {
    let asked = Asked { tables: vec![(0, table, keys.into_iter().collect())] };
    compare_asked(source, target, tenant, &asked).await
}

/// Keys by table, each once.
struct Asked<'p> {
    tables: Vec<(i32, &'p TablePlan, Vec<Vec<String>>)>,
}

impl<'p> Asked<'p> {
    fn of(plan: &'p MovePlan, keys: &[RowKey]) -> Result<Self, VerifyError> {
        let mut by_table: BTreeMap<usize, BTreeSet<&Vec<String>>> = BTreeMap::new();
        for key in keys {
            let place = plan.tables.iter().position(|table| table.name == key.table);
            let place = place.filter(|&place| plan.tables[place].key.len() == key.values.len());
            let place = place.ok_or_else(|| VerifyError::NoKey(key.clone()))?;
            by_table.entry(place).or_default().insert(&key.values);
        }
        let tables = (0_i32..).zip(by_table).map(|(number, (place, keys))| {
            (number, &plan.tables[place], keys.into_iter().cloned().collect())
        });
        Ok(Self { tables: tables.collect() })
    }

    fn statement(&self) -> String {
        let tables: Vec<(i32, &TablePlan)> =
            self.tables.iter().map(|(number, table, _)| (*number, *table)).collect();
        by_keys(&tables)
    }
}

async fn compare_asked(
    source: &mut PgConnection,
    target: &mut PgConnection,
    tenant: TenantId,
    asked: &Asked<'_>,
) -> Result<Vec<Difference>, VerifyError> {
    if asked.tables.is_empty() {
        return Ok(Vec::new());
    }
    let sql = asked.statement();
    let (here, there) =
        try_join(async { hashes(source, tenant, asked, &sql).await.map_err(failed(Side::Source)) }, async {
            hashes(target, tenant, asked, &sql).await.map_err(failed(Side::Target))
        })
        .await?;
    let differences = compare(&here, &there).into_iter().filter_map(|((number, place), fault)| {
        let (_, table, keys) = asked.tables.iter().find(|(of, _, _)| *of == number)?;
        let values = keys.get(usize::try_from(place - 1).ok()?)?.clone();
        Some(Difference { row: RowKey { table: table.name.clone(), values }, fault })
    });
    let mut differences: Vec<Difference> = differences.collect();
    let place = |row: &RowKey| asked.tables.iter().position(|(_, table, _)| table.name == row.table);
    differences.sort_by(|a, b| (place(&a.row), &a.row).cmp(&(place(&b.row), &b.row)));
    Ok(differences)
}

/// What rows hash to, by the number of their table and the place of their key, from 1 on.
async fn hashes(
    conn: &mut PgConnection,
    tenant: TenantId,
    asked: &Asked<'_>,
    sql: &str,
) -> Result<BTreeMap<(i32, i64), Hashes>, sqlx::Error> {
    let mut query = sqlx::query_as::<_, (i32, i64, i64, i64)>(AssertSqlSafe(sql)).bind(tenant.as_uuid());
    for (_, table, keys) in &asked.tables {
        for column in 0..table.key.len() {
            query = query.bind(keys.iter().map(|key| key[column].clone()).collect::<Vec<String>>());
        }
    }
    let rows = query.fetch_all(conn).await?;
    Ok(rows.into_iter().map(|(table, place, first, second)| ((table, place), (first, second))).collect())
}

/// The failure of one side.
pub(super) fn failed(side: Side) -> impl Fn(sqlx::Error) -> VerifyError + Copy {
    move |source| VerifyError::Side { side, source }
}
