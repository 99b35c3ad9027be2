//! `stagesub doctor`: what is wrong with the databases, and the SQL that mends it.

use std::fmt::Write;

use stagesub_storage::doctor::{Bounds, Expectations, Finding, Level, Report, examine_database};

use super::args::DoctorArgs;
use super::{CLOSING, Failure, output};
use crate::config::{DatabaseSettings, RawConfig, Settings, expectations, reference_table};
use crate::doctor;
use crate::problem::error_chain;
use crate::routes::build_router;
use crate::wiring::Platform;

/// Runs the command. It needs no server and disturbs none that runs.
pub async fn run(arguments: DoctorArgs, raw: &RawConfig) -> Result<(), Failure> {
    let expected = expected(&arguments, raw)?;
    let report = match &arguments.database_url {
        Some(url) => examine_database(&super::adopt::named(url)?, &expected)
            .await
            .map_err(|error| Failure::of(&error))?,
        None => examine_platform(&expected, raw).await?,
    };
    if arguments.json {
        output::json(&report)?;
    } else {
        output::line(&to_text(&report))?;
    }
    match report.count(Level::Hole) {
        0 => Ok(()),
        1 => Err(Failure::new("there is a hole; the server does not serve until it is mended")),
        holes => Err(Failure::new(format!(
            "there are {holes} holes; the server does not serve until they are mended"
        ))),
    }
}

/// Every database that the platform knows, and the guards before them.
async fn examine_platform(expected: &Expectations, raw: &RawConfig) -> Result<Report, Failure> {
    let databases = DatabaseSettings::from_raw(raw)?;
    let mut report = doctor::examine(&databases.database_url, &databases.keys, expected, Bounds::default())
        .await
        .map_err(|error| Failure::of(&error))?;
    match Settings::for_serve(raw) {
        Ok(settings) => try_guards(&mut report, settings).await,
        // Whoever looks after the databases alone has no secret that tokens are signed with.
        Err(error) => report.add(doctor::not_probed(Level::Note, &error_chain(&error))),
    }
    Ok(report)
}

/// What is there on purpose: as it is configured, and as it was asked.
fn expected(arguments: &DoctorArgs, raw: &RawConfig) -> Result<Expectations, Failure> {
    let schemas: Vec<&str> = arguments.schema.iter().map(String::as_str).collect();
    let mut expected = expectations(raw)?;
    for schema in &schemas {
        expected = expected.data_schema(schema);
    }
    for table in &arguments.reference_table {
        let (schema, name) = reference_table(&schemas, table)
            .map_err(|reason| Failure::wrong_use(format!("--reference-table is not usable: {reason}")))?;
        expected = expected.reference_table(schema, name);
    }
    Ok(arguments.trusted_role.iter().fold(expected, |all, role| all.trusted_role(role)))
}

/// Wires the server that these settings make and tries its guards, without serving.
async fn try_guards(report: &mut Report, settings: Settings) {
    let Settings { databases, serving } = settings;
    let platform = match Platform::open(databases, serving.hosts.clone()).await {
        Ok(platform) => platform,
        Err(error) => return report.add(doctor::not_probed(Level::Partial, &error_chain(&error))),
    };
    match platform.state(&serving) {
        Ok(state) => doctor::probe_guards(report, &platform, &serving, build_router(state)).await,
        Err(error) => report.add(doctor::not_probed(Level::Partial, &error_chain(&error))),
    }
    platform.close(CLOSING).await;
}

/// A table for each database, and under it the SQL, in the order it is to be run in.
fn to_text(report: &Report) -> String {
    if report.findings().is_empty() {
        return "Nothing was found: every fence stands, in every database.".to_owned();
    }
    let mut databases: Vec<&str> = Vec::new();
    for finding in report.findings() {
        if !databases.contains(&finding.database.as_str()) {
            databases.push(&finding.database);
        }
    }
    let mut text = String::new();
    for database in databases {
        let here = || report.findings().iter().filter(|finding| finding.database == database);
        let rows = here().map(|finding| {
            [finding.level.as_str(), finding.lint, finding.object.as_str(), finding.why.as_str()]
                .map(str::to_owned)
        });
        let table = output::table(["LEVEL", "LINT", "WHAT", "WHY"], rows);
        let mends = here().map(mend).collect::<Vec<_>>().join("\n");
        // Writing to a String does not fail.
        let _ = write!(text, "{database}\n{table}\n\nTo mend it, as an administrator there:\n\n{mends}\n\n");
    }
    let [holes, partials, notes] =
        [Level::Hole, Level::Partial, Level::Note].map(|level| report.count(level));
    let _ = write!(text, "holes: {holes}, partial: {partials}, notes: {notes}");
    text
}

fn mend(finding: &Finding) -> String {
    format!("-- {}: {}\n{}", finding.lint, finding.object, finding.mend)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(level: Level, database: &str, object: &str) -> Finding {
        Finding {
            level,
            lint: "rls-not-forced",
            database: database.to_owned(),
            object: object.to_owned(),
            why: "the owner passes by".to_owned(),
            mend: format!("ALTER TABLE {object} FORCE ROW LEVEL SECURITY;"),
        }
    }

    #[test]
    fn each_database_has_its_table_and_its_sql() {
        let report = Report::from_iter([
            finding(Level::Hole, "db:5432/one", "tenant.musician"),
            finding(Level::Partial, "db:5432/two", "tenant.project"),
        ]);
        let text = to_text(&report);
        let [one, two] = ["db:5432/one", "db:5432/two"].map(|name| text.find(name).expect(name));
        let sql = text.find("ALTER TABLE tenant.musician FORCE").expect("the SQL");
        assert!(one < sql && sql < two, "{text}");
        assert!(text.ends_with("holes: 1, partial: 1, notes: 0"), "{text}");
        assert!(text.contains("the owner passes by"), "{text}");
    }

    #[test]
    fn nothing_found_is_said() {
        assert!(to_text(&Report::default()).starts_with("Nothing was found"));
    }
}
