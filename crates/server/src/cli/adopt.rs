//! `stagesub adopt`: a schema that is there already, put behind the fence.

use std::fmt::Write;

use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use stagesub_storage::adopt::{self, AdoptError, Adoption, Plan};
use stagesub_storage::target::ConnectionTarget;

use super::args::AdoptArgs;
use super::{Failure, output};
use crate::config::{MigrateSettings, RawConfig};
use crate::problem::error_chain;

/// Runs the command.
pub async fn run(arguments: AdoptArgs, raw: &RawConfig) -> Result<(), Failure> {
    let target = match &arguments.database_url {
        Some(url) => named(url)?,
        None => shared_admin(raw)?,
    };
    let adoption = adoption(&arguments);
    let done = if arguments.apply {
        adopt::adopt_on(&target, &adoption).await
    } else {
        adopt::plan_on(&target, &adoption).await
    };
    match done {
        Ok(plan) => tell(&arguments, &plan),
        Err(error) => {
            let failure = refused(&error);
            if arguments.json {
                output::json(&json!({
                    "applied": false,
                    "error": error_chain(&error),
                    "refused": match &error { AdoptError::Refused(refused) => Some(refused), _ => None },
                    "decisions": match &error { AdoptError::Undecided(asked) => Some(asked), _ => None },
                }))?;
            }
            Err(failure)
        }
    }
}

/// The database that was named. What is wrong with the text is told without the text: a password may be in it.
pub(super) fn named(url: &SecretString) -> Result<ConnectionTarget, Failure> {
    ConnectionTarget::parse(url.expose_secret())
        .map_err(|error| Failure::wrong_use(format!("--database-url is not usable: {}", error_chain(&error))))
}

/// Where tenants' data is, as an administrator.
fn shared_admin(raw: &RawConfig) -> Result<ConnectionTarget, Failure> {
    let MigrateSettings { registry_admin, shared_admin, .. } = MigrateSettings::from_raw(raw)?;
    Ok(shared_admin.unwrap_or(registry_admin))
}

fn adoption(arguments: &AdoptArgs) -> Adoption {
    let mut adoption = Adoption::of(&arguments.schema);
    for table in &arguments.reference_table {
        adoption = adoption.reference_table(table);
    }
    for role in &arguments.trusted_role {
        adoption = adoption.trusted_role(role);
    }
    if let Some(column) = &arguments.tenant_column {
        adoption = adoption.tenant_column(column);
    }
    if let Some(tenant) = arguments.tenant {
        adoption = adoption.tenant(tenant);
    }
    adoption.lock_timeout(std::time::Duration::from_millis(arguments.lock_timeout_ms))
}

/// The SQL on stdout, nothing where there is nothing to do.
fn tell(arguments: &AdoptArgs, plan: &Plan) -> Result<(), Failure> {
    if arguments.json {
        return output::json(&json!({
            "applied": arguments.apply && !plan.is_empty(),
            "schema": arguments.schema,
            "steps": plan.steps,
            "decisions": plan.decisions,
        }));
    }
    let sql = plan.to_sql();
    if sql.is_empty() { Ok(()) } else { output::line(sql.trim_end()) }
}

/// Everything that is in the way, so that one run tells all of it.
fn refused(error: &AdoptError) -> Failure {
    let (mut text, things): (String, Vec<String>) = match error {
        AdoptError::Refused(refused) => (
            "the schema is not adopted as it is; nothing was changed".to_owned(),
            refused.iter().map(|one| format!("{}: {}\n  {}", one.object, one.why, one.remedy)).collect(),
        ),
        AdoptError::Undecided(asked) => (
            "somebody has to decide; nothing was changed".to_owned(),
            asked.iter().map(|one| format!("{}: {}", one.table, one.question)).collect(),
        ),
        error => (error_chain(error), Vec::new()),
    };
    for thing in things {
        // Writing to a String does not fail.
        let _ = write!(text, "\n- {thing}");
    }
    Failure::new(text)
}
