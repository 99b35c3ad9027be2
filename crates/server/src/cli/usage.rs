//! `stagesub usage`: who uses how much of the databases.

use stagesub_tenancy::usage::{Usage, UsageReport};

use super::args::UsageArgs;
use super::{Failure, connected, output};
use crate::config::RawConfig;
use crate::handlers::platform_usage::UsageBody;

/// Runs the command.
pub async fn run(arguments: UsageArgs, raw: &RawConfig) -> Result<(), Failure> {
    connected(raw, async |platform| {
        let UsageArgs { by, hours, limit, json } = arguments;
        let report = platform.usage().top(by, hours, limit).await.map_err(|error| Failure::of(&error))?;
        if json { output::json(&UsageBody::new(by, report)) } else { show(&report) }
    })
    .await
}

fn show(report: &UsageReport) -> Result<(), Failure> {
    let row = |code: &str, subdomain: &str, usage: &Usage| {
        [
            code.to_owned(),
            subdomain.to_owned(),
            milliseconds(usage.database_time),
            milliseconds(usage.pool_wait),
            usage.rows.to_string(),
            usage.statements.to_string(),
            usage.transactions.to_string(),
        ]
    };
    let tenants = report
        .tenants
        .iter()
        .map(|tenant| row(tenant.code.as_str(), tenant.subdomain.as_str(), &tenant.usage));
    let others = (report.others != Usage::default()).then(|| row("", "(others)", &report.others));
    let rows = tenants.chain(others).chain([row("", "(all)", &report.total)]);
    let heading = ["CODE", "SUBDOMAIN", "DATABASE MS", "POOL WAIT MS", "ROWS", "STATEMENTS", "TRANSACTIONS"];
    output::line(&format!("Since {}", report.since.to_rfc3339()))?;
    output::line(&output::table(heading, rows).to_string())
}

fn milliseconds(time: std::time::Duration) -> String {
    format!("{:.1}", time.as_secs_f64() * 1e3)
}
