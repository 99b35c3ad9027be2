//! `stagesub database`: what orchestras are kept in.

use std::fmt::Write;

use serde_json::json;
use stagesub_domain::actor::Actor;
use stagesub_domain::page::Page;
use stagesub_domain::ports::databases::{
    DatabaseCheck, DatabaseRecord, Holds, NewSharedDatabase, SharedPlace,
};
use stagesub_domain::service::databases::add_shared_database;
use stagesub_tenancy::DatabaseId;
use stagesub_tenancy::clock::Clock;

use super::args::{DatabaseAddArgs, DatabaseCheckArgs, DatabaseCommand, DatabaseListArgs};
use super::{Failure, connected, output, secret};
use crate::clock::SystemClock;
use crate::config::RawConfig;
use crate::handlers::platform_databases::{AddedDatabaseBody, DatabaseBody, DatabaseCheckBody};
use crate::wiring::Platform;

/// Runs the command.
pub async fn run(command: DatabaseCommand, raw: &RawConfig) -> Result<(), Failure> {
    match command {
        DatabaseCommand::Add(arguments) => {
            let new = wanted(&arguments)?;
            connected(raw, async |platform| add(platform, &new, arguments.json).await).await
        }
        DatabaseCommand::List(arguments) => {
            connected(raw, async |platform| list(platform, &arguments).await).await
        }
        DatabaseCommand::Check(arguments) => {
            connected(raw, async |platform| check(platform, &arguments).await).await
        }
    }
}

/// What is asked for; a secret is read from stdin.
fn wanted(arguments: &DatabaseAddArgs) -> Result<NewSharedDatabase, Failure> {
    let place = if arguments.server_stdin {
        SharedPlace::Server(secret::connection_string()?)
    } else if arguments.url_stdin {
        SharedPlace::Database(secret::connection_string()?)
    } else {
        SharedPlace::Beside
    };
    Ok(NewSharedDatabase { place, name: arguments.name.clone(), adopt_logins: arguments.adopt_logins })
}

async fn add(platform: &Platform, new: &NewSharedDatabase, as_json: bool) -> Result<(), Failure> {
    let databases = platform.databases().as_ref();
    let added = add_shared_database(databases, &Actor::system(), new, None, SystemClock.now()).await?;
    if as_json {
        return output::json(&AddedDatabaseBody::new(added));
    }
    let did = if added.is_again { "was there already" } else { "can be used now, on every node" };
    let mut text = format!("The shared database {} ({}) {did}.", place(&added.record), added.record.id);
    for partial in &added.partial {
        // Writing to a String does not fail.
        let _ = write!(text, "\npartial: {partial}; `stagesub doctor` has the SQL that mends it");
    }
    output::line(&text)
}

async fn list(platform: &Platform, arguments: &DatabaseListArgs) -> Result<(), Failure> {
    let all = all(platform).await?;
    if arguments.json {
        return output::json(&all.into_iter().map(DatabaseBody::new).collect::<Vec<_>>());
    }
    let rows = all.iter().map(|record| {
        [
            record.holds.as_str().to_owned(),
            if record.is_ready { "ready" } else { "creating" }.to_owned(),
            place(record),
            record.tenants.to_string(),
            record.size_bytes.map_or_else(|| "?".to_owned(), size),
            record.holds.tenant().map_or_else(|| "-".to_owned(), |tenant| tenant.to_string()),
            record.id.to_string(),
        ]
    });
    let heading = ["KIND", "STATUS", "PLACE", "TENANTS", "SIZE", "WHOSE", "ID"];
    output::line(&output::table(heading, rows).to_string())
}

async fn check(platform: &Platform, arguments: &DatabaseCheckArgs) -> Result<(), Failure> {
    let ids = match arguments.id {
        Some(id) => vec![DatabaseId::from_uuid(id)],
        None => shared(platform).await?,
    };
    let mut checked = Vec::new();
    for id in ids {
        let check = platform.databases().check(id).await?.ok_or_else(|| {
            Failure::new(format!(
                "there is no database of orchestras {id}; `stagesub database list` shows them"
            ))
        })?;
        checked.push((id, check));
    }
    let unsound = checked.iter().filter(|(_, check)| !check.is_sound()).count();
    if arguments.json {
        let told = checked
            .into_iter()
            .map(|(id, check)| json!({ "id": id, "check": DatabaseCheckBody::new(check) }))
            .collect::<Vec<_>>();
        output::json(&told)?;
    } else {
        let told: Vec<String> = checked.iter().map(|(id, check)| tell(*id, check)).collect();
        output::line(&told.join("\n\n"))?;
    }
    match unsound {
        0 => Ok(()),
        1 => Err(Failure::new("a database is not fit to serve orchestras from")),
        many => Err(Failure::new(format!("{many} databases are not fit to serve orchestras from"))),
    }
}

async fn all(platform: &Platform) -> Result<Vec<DatabaseRecord>, Failure> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = platform.databases().list(after, Page::MAX_LIMIT).await?;
        all.extend(page.items);
        after = page.next;
        if after.is_none() {
            return Ok(all);
        }
    }
}

async fn shared(platform: &Platform) -> Result<Vec<DatabaseId>, Failure> {
    let all = all(platform).await?;
    Ok(all.into_iter().filter(|record| record.holds == Holds::Shared).map(|record| record.id).collect())
}

fn tell(id: DatabaseId, check: &DatabaseCheck) -> String {
    if let Some(why) = &check.unreachable {
        return format!("{id}: not reached: {why}");
    }
    let verdict = if check.is_sound() { "sound" } else { "NOT SOUND" };
    let mut text = format!("{id}: {verdict}");
    for finding in &check.findings {
        // Writing to a String does not fail.
        let _ =
            write!(text, "\n  {}: {}: {}\n    {}", finding.level, finding.what, finding.why, finding.mend);
    }
    for obstacle in &check.obstacles {
        let _ = write!(text, "\n  no move while in use: {obstacle}");
    }
    for removed in &check.removed {
        let _ = write!(text, "\n  removed: {removed}");
    }
    text
}

fn place(record: &DatabaseRecord) -> String {
    format!("{}:{}/{}", record.host, record.port, record.name)
}

fn size(bytes: i64) -> String {
    const MIB: i64 = 1024 * 1024;
    format!("{} MiB", (bytes + MIB - 1) / MIB)
}

#[cfg(test)]
mod tests {
    use stagesub_domain::ports::databases::DatabaseFinding;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_look_is_told_with_what_mends_it() {
        let id = DatabaseId::from_uuid(Uuid::from_u128(7));
        let away = DatabaseCheck { unreachable: Some("it is away".to_owned()), ..DatabaseCheck::default() };
        assert!(tell(id, &away).contains("not reached: it is away"));
        let hole = DatabaseFinding {
            level: "hole",
            what: "tenant.musician".to_owned(),
            why: "the owner passes by".to_owned(),
            mend: "ALTER TABLE ...;".to_owned(),
        };
        let obstacles = vec!["db runs with wal_level = replica".to_owned()];
        let check = DatabaseCheck { findings: vec![hole], obstacles, ..DatabaseCheck::default() };
        let told = tell(id, &check);
        for part in ["NOT SOUND", "ALTER TABLE", "no move while in use: db runs with wal_level = replica"] {
            assert!(told.contains(part), "{told}");
        }
        assert!(tell(id, &DatabaseCheck::default()).ends_with(": sound"));
    }

    #[test]
    fn a_size_is_rounded_up() {
        assert_eq!(
            (size(0), size(1), size(8 * 1024 * 1024)),
            ("0 MiB".into(), "1 MiB".into(), "8 MiB".into())
        );
    }
}
