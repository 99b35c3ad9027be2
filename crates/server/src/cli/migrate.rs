//! `stagesub migrate`: the databases' schemas and the platform's logins.

use std::fmt::Write;

use serde_json::{Value, json};
use stagesub_storage::migrate::{MigrateOptions, MigrateReport, migrate};

use super::args::MigrateArgs;
use super::{Failure, output};
use crate::config::{MigrateSettings, RawConfig};
use crate::problem::error_chain;

/// Runs the command.
pub async fn run(arguments: MigrateArgs, raw: &RawConfig) -> Result<(), Failure> {
    let settings = MigrateSettings::from_raw(raw)?;
    let options = MigrateOptions { adopt_logins: arguments.adopt_logins, ..settings.options() };
    let report = migrate(&options, &settings.databases.keys).await.map_err(|error| Failure::of(&error))?;
    if arguments.json {
        output::json(&to_json(&report))?;
    } else {
        output::line(&to_text(&report))?;
    }
    if report.is_complete() {
        Ok(())
    } else {
        Err(Failure::new("not every database could be brought to this version's schema; the others were"))
    }
}

fn to_json(report: &MigrateReport) -> Value {
    let databases: Vec<Value> = report
        .databases
        .iter()
        .map(|database| {
            json!({
                "id": database.id,
                "kind": database.kind.as_str(),
                "place": database.place,
                "applied": database.outcome.as_ref().ok(),
                "error": database.outcome.as_ref().err().map(|error| error_chain(error)),
            })
        })
        .collect();
    let partial: Vec<Value> = report
        .partial
        .iter()
        .map(|part| json!({ "name": part.name, "why": part.why, "sql": part.sql }))
        .collect();
    json!({
        "complete": report.is_complete(),
        "createdRoles": report.created_roles,
        "databases": databases,
        "partial": partial,
    })
}

fn to_text(report: &MigrateReport) -> String {
    let rows = report.databases.iter().map(|database| {
        let outcome = match &database.outcome {
            Ok(applied) if applied.is_empty() => "up to date".to_owned(),
            Ok(applied) => format!("applied {}", applied.len()),
            Err(error) => error_chain(error),
        };
        [database.place.clone(), database.kind.to_string(), outcome]
    });
    let mut text = output::table(["DATABASE", "HOLDS", "OUTCOME"], rows).to_string();
    if !report.created_roles.is_empty() {
        text.push_str("\nRoles made: ");
        text.push_str(&report.created_roles.join(", "));
    }
    for part in &report.partial {
        // Writing to a String does not fail.
        let _ = write!(
            text,
            "\n\nPartial: {} ({}). A superuser mends it with:\n{}",
            part.name, part.why, part.sql
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use stagesub_storage::marker::DatabaseKind;
    use stagesub_storage::migrate::{DatabaseReport, MigrateError, Partial};
    use stagesub_tenancy::DatabaseId;
    use uuid::Uuid;

    use super::*;

    fn report(outcome: Result<Vec<i64>, MigrateError>) -> MigrateReport {
        MigrateReport {
            created_roles: vec!["stagesub_app".to_owned()],
            databases: vec![DatabaseReport {
                id: DatabaseId::from_uuid(Uuid::from_u128(1)),
                kind: DatabaseKind::Registry,
                place: "db.example:5432/registry".to_owned(),
                outcome,
            }],
            partial: vec![Partial {
                name: "moves and backups".to_owned(),
                why: "no superuser".to_owned(),
                sql: "ALTER ROLE stagesub_mover BYPASSRLS REPLICATION;".to_owned(),
            }],
        }
    }

    #[test]
    fn what_was_done_and_what_a_superuser_has_to_mend_is_told() {
        let text = to_text(&report(Ok(vec![20_261_123_090_000])));
        for part in ["db.example:5432/registry", "applied 1", "stagesub_app", "ALTER ROLE stagesub_mover"] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn a_database_that_failed_is_in_the_answer_for_programs() {
        let value = to_json(&report(Err(MigrateError::NoShared)));
        assert_eq!(value["complete"], false);
        assert_eq!(value["databases"][0]["error"], "the registry knows no shared database; run `migrate`");
    }
}
