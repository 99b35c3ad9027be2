//! The lints of living databases: each finds the hole that is made here, on a server of the test's own, and the SQL
//! that it prints closes it.

use sqlx::{AssertSqlSafe, Connection};
use stagesub_storage::doctor::{Expectations, Finding, Level, Report, examine};

use crate::registry::Server;

mod cases;
mod embedding;
mod guards;
mod move_logs;
mod platform;

/// The database of tenants on a [`Server`].
const SHARED: &str = "shr";

/// A hole to make, and the finding that tells of it.
struct Case {
    lint: &'static str,
    level: Level,
    /// Part of what the finding is about.
    object: &'static str,
    make: &'static str,
    /// What is left to tidy up once it is mended.
    tidy: &'static str,
}

const fn hole(lint: &'static str, object: &'static str, make: &'static str) -> Case {
    Case { lint, level: Level::Hole, object, make, tidy: "" }
}

impl Case {
    const fn tidy(self, tidy: &'static str) -> Self {
        Self { tidy, ..self }
    }

    const fn at(self, level: Level) -> Self {
        Self { level, ..self }
    }

    fn is_told_by(&self, finding: &Finding) -> bool {
        finding.lint == self.lint && finding.level == self.level && finding.object.contains(self.object)
    }
}

/// A server on which nothing is to be found, with two tables to make holes in.
async fn sound() -> Server {
    let server = Server::installed().await;
    server
        .run(
            SHARED,
            "SET ROLE stagesub_owner;
            CREATE TABLE tenant.note (tenant_id uuid NOT NULL, no bigint NOT NULL, name text, during int4range,
                PRIMARY KEY (tenant_id, no));
            CALL app.protect('tenant.note');
            CREATE TABLE tenant.page (tenant_id uuid NOT NULL, no bigint NOT NULL, note_no bigint, word text,
                PRIMARY KEY (tenant_id, no));
            CALL app.protect('tenant.page');",
        )
        .await;
    assert_eq!(report(&server).await.findings(), [], "a platform that was set up is sound");
    server
}

/// Examines the database of tenants over a new connection of the administrator's.
async fn report(server: &Server) -> Report {
    let mut conn = server.connect(SHARED).await;
    let report = examine(&mut conn, &Expectations::default()).await.expect("it can be examined");
    conn.close().await.expect("the connection closes");
    report
}

/// Runs what a finding prints.
async fn mend(server: &Server, database: &str, finding: &Finding) {
    let mut conn = server.connect(database).await;
    if let Err(error) = sqlx::raw_sql(AssertSqlSafe(finding.mend.clone())).execute(&mut conn).await {
        panic!("{finding}: {error}\n{}", finding.mend);
    }
    conn.close().await.expect("the connection closes");
}

/// Makes each hole, sees it found, mends it with the printed SQL and sees it gone; and nothing else is left.
async fn each_is_found_and_mended(server: &Server, cases: &[Case]) {
    for case in cases {
        server.run(SHARED, case.make).await;
        let found = report(server).await;
        let told = found.findings().iter().find(|finding| case.is_told_by(finding));
        let told = told.unwrap_or_else(|| panic!("{} {}: {:#?}", case.lint, case.object, found.findings()));
        assert!(!told.why.is_empty() && told.database == SHARED, "{told:?}");
        mend(server, SHARED, told).await;
        let after = report(server).await;
        let left = after.findings().iter().find(|finding| case.is_told_by(finding));
        assert_eq!(left, None, "{}: not mended by\n{}", case.lint, told.mend);
        server.run(SHARED, case.tidy).await;
        assert_eq!(report(server).await.findings(), [], "{} {}: left behind", case.lint, case.object);
    }
}
