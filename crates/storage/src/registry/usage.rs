//! What tenants used, in the registry.

use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use stagesub_tenancy::usage::{HOURS_KEPT, TenantUsage, Usage, UsageBy, UsageLedger, UsageReport, UsageSums};
use stagesub_tenancy::{DirectoryError, TenantId};
use uuid::Uuid;

use crate::registry::{RegistryPools, corrupt, unavailable};

/// [`UsageLedger`] on `registry.tenant_usage`.
#[derive(Debug, Clone)]
pub struct PgUsageLedger {
    registry: RegistryPools,
}

impl PgUsageLedger {
    /// Over the registry.
    #[must_use]
    pub fn new(registry: RegistryPools) -> Self {
        Self { registry }
    }
}

/// Sums as columns, in one order for all nodes: two that add at once then wait for each other and do not deadlock.
#[derive(Default)]
struct Columns {
    tenant: Vec<Option<Uuid>>,
    database_us: Vec<i64>,
    pool_wait_us: Vec<i64>,
    transactions: Vec<i64>,
    statements: Vec<i64>,
    rows: Vec<i64>,
}

impl Columns {
    fn of(sums: &UsageSums) -> Self {
        let mut tenants: Vec<(Option<Uuid>, Usage)> =
            sums.tenants.iter().map(|(tenant, usage)| (Some(tenant.as_uuid()), *usage)).collect();
        tenants.sort_unstable_by_key(|(tenant, _)| *tenant);
        if sums.others != Usage::default() {
            tenants.push((None, sums.others));
        }
        let mut columns = Self::default();
        for (tenant, usage) in tenants {
            columns.tenant.push(tenant);
            columns.database_us.push(micros(usage.database_time));
            columns.pool_wait_us.push(micros(usage.pool_wait));
            columns.transactions.push(count(usage.transactions));
            columns.statements.push(count(usage.statements));
            columns.rows.push(count(usage.rows));
        }
        columns
    }
}

#[async_trait]
impl UsageLedger for PgUsageLedger {
    async fn add(&self, sums: &UsageSums) -> Result<(), DirectoryError> {
        if sums.is_empty() {
            return Ok(());
        }
        let columns = Columns::of(sums);
        // A tenant that is gone by now leaves its sums to the others. Old hours that another node is removing at this
        // moment are left to it. `HOURS_KEPT` is written out: with a parameter a plan for any number reads them all.
        sqlx::query!(
            "WITH gone AS (
                DELETE FROM registry.tenant_usage WHERE ctid = ANY (ARRAY(
                    SELECT ctid FROM registry.tenant_usage
                    WHERE hour <= date_trunc('hour', now(), 'UTC') - make_interval(hours => 48)
                    FOR UPDATE SKIP LOCKED
                ))
            )
            INSERT INTO registry.tenant_usage AS kept
                (hour, tenant_id, database_us, pool_wait_us, transactions, statements, rows)
            SELECT date_trunc('hour', now(), 'UTC'), t.id, sum(a.database_us), sum(a.pool_wait_us),
                sum(a.transactions), sum(a.statements), sum(a.rows)
            FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[])
                AS a (tenant_id, database_us, pool_wait_us, transactions, statements, rows)
            LEFT JOIN registry.tenants AS t ON t.id = a.tenant_id
            GROUP BY t.id
            ORDER BY t.id
            ON CONFLICT (hour, tenant_id) DO UPDATE SET
                database_us = kept.database_us + excluded.database_us,
                pool_wait_us = kept.pool_wait_us + excluded.pool_wait_us,
                transactions = kept.transactions + excluded.transactions,
                statements = kept.statements + excluded.statements,
                rows = kept.rows + excluded.rows,
                updated_at = now()",
            &columns.tenant as &[Option<Uuid>],
            &columns.database_us,
            &columns.pool_wait_us,
            &columns.transactions,
            &columns.statements,
            &columns.rows
        )
        .execute(self.registry.control())
        .await
        .map_err(unavailable)?;
        Ok(())
    }

    async fn top(&self, by: UsageBy, hours: u32, limit: u32) -> Result<UsageReport, DirectoryError> {
        let hours = i32::try_from(hours.clamp(1, HOURS_KEPT)).unwrap_or(i32::MAX);
        // The first row is the total: whatever is listed, it is read with it.
        // OFFSET 0: how many are listed is not known when it is planned, and all tenants would be read to join them.
        let rows = sqlx::query_as!(
            Row,
            r#"WITH used AS (
                SELECT tenant_id, sum(database_us)::bigint AS database_us, sum(pool_wait_us)::bigint AS pool_wait_us,
                    sum(transactions)::bigint AS transactions, sum(statements)::bigint AS statements,
                    sum(rows)::bigint AS rows
                FROM registry.tenant_usage
                WHERE hour > date_trunc('hour', now(), 'UTC') - make_interval(hours => $1)
                GROUP BY tenant_id
            ), listed AS (
                SELECT u.*, CASE $2 WHEN 'rows' THEN u.rows WHEN 'poolWait' THEN u.pool_wait_us ELSE u.database_us END
                    AS most
                FROM used AS u
                WHERE u.tenant_id IS NOT NULL
                ORDER BY most DESC, u.tenant_id
                LIMIT $3
            )
            SELECT date_trunc('hour', now(), 'UTC') - make_interval(hours => $1 - 1) AS "since!",
                'total' AS "kind!", NULL::uuid AS id, NULL AS code, NULL AS subdomain, 0::bigint AS "most!",
                coalesce(sum(database_us), 0)::bigint AS "database_us!",
                coalesce(sum(pool_wait_us), 0)::bigint AS "pool_wait_us!",
                coalesce(sum(transactions), 0)::bigint AS "transactions!",
                coalesce(sum(statements), 0)::bigint AS "statements!", coalesce(sum(rows), 0)::bigint AS "rows!"
            FROM used
            UNION ALL
            SELECT now(), 'others', NULL, NULL, NULL, 0, database_us, pool_wait_us, transactions, statements, rows
            FROM used WHERE tenant_id IS NULL
            UNION ALL
            SELECT now(), 'tenant', t.id, t.code, t.subdomain, l.most, l.database_us, l.pool_wait_us, l.transactions,
                l.statements, l.rows
            FROM listed AS l
            CROSS JOIN LATERAL (SELECT id, code, subdomain FROM registry.tenants WHERE id = l.tenant_id OFFSET 0) AS t
            ORDER BY 2 DESC, 6 DESC, 3"#,
            hours,
            by.as_str(),
            i64::from(limit)
        )
        .fetch_all(self.registry.control())
        .await
        .map_err(unavailable)?;
        report(rows)
    }
}

struct Row {
    since: DateTime<Utc>,
    kind: String,
    id: Option<Uuid>,
    code: Option<String>,
    subdomain: Option<String>,
    #[expect(dead_code, reason = "the statement orders by it")]
    most: i64,
    database_us: i64,
    pool_wait_us: i64,
    transactions: i64,
    statements: i64,
    rows: i64,
}

impl Row {
    fn usage(&self) -> Usage {
        let time = |micros: i64| Duration::from_micros(micros.unsigned_abs());
        Usage {
            database_time: time(self.database_us),
            pool_wait: time(self.pool_wait_us),
            transactions: self.transactions.unsigned_abs(),
            statements: self.statements.unsigned_abs(),
            rows: self.rows.unsigned_abs(),
        }
    }
}

fn report(rows: Vec<Row>) -> Result<UsageReport, DirectoryError> {
    let mut report = UsageReport {
        since: DateTime::UNIX_EPOCH,
        tenants: Vec::new(),
        total: Usage::default(),
        others: Usage::default(),
    };
    for row in rows {
        let usage = row.usage();
        match (row.kind.as_str(), row.id, row.code, row.subdomain) {
            ("total", ..) => (report.since, report.total) = (row.since, usage),
            ("others", ..) => report.others = usage,
            (_, Some(id), Some(code), Some(subdomain)) => report.tenants.push(TenantUsage {
                tenant: TenantId::from_uuid(id),
                code: code.parse().map_err(|source| corrupt("tenant", source))?,
                subdomain: subdomain.parse().map_err(|source| corrupt("tenant", source))?,
                usage,
            }),
            _ => return Err(corrupt("tenant_usage", "a row without its tenant")),
        }
    }
    Ok(report)
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

fn count(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(n: u128) -> TenantId {
        TenantId::from_uuid(Uuid::from_u128(n))
    }

    #[test]
    fn all_nodes_add_in_one_order_and_the_others_come_last() {
        let usage = |rows| Usage { rows, ..Usage::default() };
        let tenants = vec![(tenant(9), usage(1)), (tenant(2), usage(2)), (tenant(5), usage(3))];
        let columns = Columns::of(&UsageSums { tenants: tenants.clone(), others: usage(4) });
        let ids = [Some(2), Some(5), Some(9), None].map(|id| id.map(Uuid::from_u128));
        assert_eq!((columns.tenant, columns.rows), (ids.to_vec(), vec![2, 3, 1, 4]));
        let columns = Columns::of(&UsageSums { tenants, others: Usage::default() });
        assert_eq!(columns.tenant.len(), 3, "nobody is no row");
    }
}
