//! Every database of a registry: what its records say, and what each database says of itself.

use std::time::{Duration, Instant};

use stagesub_storage::databases::DedicatedDatabases;
use stagesub_storage::doctor::{Bounds, Expectations, Finding, Level, examine_platform};
use stagesub_storage::migrate::{DatabaseTargets, MigrateOptions};
use stagesub_tenancy::{DatabaseId, TenantId};
use stagesub_tests::database::{connect, store_login};
use tokio::net::TcpListener;
use uuid::Uuid;

use crate::registry::Server;

/// A registry, a shared database, and two tenants with databases of their own.
struct Fixture {
    server: Server,
    tenants: [TenantId; 2],
    databases: [DatabaseId; 2],
}

impl Fixture {
    async fn new() -> Self {
        let server = Server::installed().await;
        let dedicated = DedicatedDatabases::new(server.open().await, server.keys.clone());
        let [a, b] = [tenant(&server, "AAA").await, tenant(&server, "BBB").await];
        let databases = [dedicated.create(a).await.unwrap(), dedicated.create(b).await.unwrap()];
        let fixture = Self { server, tenants: [a, b], databases };
        assert_eq!(fixture.found().await, [], "a platform that was set up is sound");
        fixture
    }

    async fn found(&self) -> Vec<Finding> {
        self.found_within(Bounds::default()).await
    }

    async fn found_within(&self, bounds: Bounds) -> Vec<Finding> {
        let url = self.server.admin("reg");
        let report = examine_platform(&url, &self.server.keys, &Expectations::default(), bounds).await;
        report.expect("the registry can be examined").into_iter().collect()
    }

    fn name(&self, n: usize) -> String {
        format!("stagesub_t_{}", self.tenants[n].as_uuid().as_simple())
    }

    /// Makes a hole with `sql`, sees it found alone, mends it with what is printed and sees nothing left.
    async fn found_and_mended(&self, lint: &str, level: Level, database: &str, sql: &str) -> Finding {
        self.server.run(database, sql).await;
        let found = self.found().await;
        let told: Vec<&Finding> = found.iter().filter(|finding| finding.lint == lint).collect();
        let [told] = told.as_slice() else { panic!("{lint}: {found:#?}") };
        assert_eq!(told.level, level, "{told}");
        assert!(told.database.ends_with(&format!("/{database}")), "{told}");
        super::mend(&self.server, database, told).await;
        assert_eq!(self.found().await, [], "{lint}: not mended by\n{}", told.mend);
        (*told).clone()
    }
}

pub(super) async fn tenant(server: &Server, code: &str) -> TenantId {
    let id = Uuid::now_v7();
    let sql = format!(
        "INSERT INTO registry.codes (code, tenant_id) VALUES ('{code}', '{id}');
        INSERT INTO registry.tenants (id, code, name, subdomain, subscription, status, version)
        VALUES ('{id}', '{code}', '{code}', lower('{code}'), 'institution', 'provisioning', 0)"
    );
    server.run("reg", &sql).await;
    TenantId::from_uuid(id)
}

#[tokio::test(flavor = "multi_thread")]
async fn holes_in_each_database_are_found_where_they_are() {
    let fixture = Fixture::new().await;
    for database in ["shr", &fixture.name(0), &fixture.name(1)] {
        let unforce = "ALTER TABLE tenant.musician NO FORCE ROW LEVEL SECURITY";
        fixture.found_and_mended("rls-not-forced", Level::Hole, database, unforce).await;
    }
    let wide =
        "GRANT SELECT ON registry.users TO stagesub_app; GRANT DELETE ON registry.users TO stagesub_control";
    fixture.server.run("reg", wide).await;
    let found = fixture.found().await;
    assert_eq!(found.len(), 2, "{found:#?}");
    for finding in &found {
        assert_eq!((finding.lint, finding.level), ("grant-beyond", Level::Hole));
        super::mend(&fixture.server, "reg", finding).await;
    }
    assert_eq!(fixture.found().await, []);
    // What is the server's is told once, not once a database.
    let role = "ALTER ROLE stagesub_app CREATEROLE";
    fixture.found_and_mended("role-attribute", Level::Hole, "reg", role).await;
    let setting = "ALTER ROLE stagesub_app SET row_security = off";
    fixture.found_and_mended("setting", Level::Hole, "reg", setting).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn markers_versions_and_rows_are_those_of_the_database_and_its_tenant() {
    let fixture = Fixture::new().await;
    let (own, stranger) = (fixture.name(0), fixture.tenants[1]);
    let other = format!("UPDATE app.marker SET database_id = '{}'", Uuid::now_v7());
    fixture.found_and_mended("marker-wrong", Level::Hole, &own, &other).await;
    let theirs = format!("UPDATE app.marker SET tenant_id = '{stranger}'");
    fixture.found_and_mended("marker-wrong", Level::Hole, &own, &theirs).await;
    fixture.found_and_mended("marker-missing", Level::Hole, "shr", "DELETE FROM app.marker").await;

    let fence =
        format!("INSERT INTO app.tenant_fence (tenant_id, state, epoch) VALUES ('{stranger}', 'active', 1)");
    let told = fixture.found_and_mended("rows-of-others", Level::Hole, &own, &fence).await;
    assert_eq!(told.object, "app.tenant_fence");
    let row =
        format!("INSERT INTO tenant.id_counter (tenant_id, kind, last) VALUES ('{stranger}', 'MUS', 1)");
    let told = fixture.found_and_mended("rows-of-others", Level::Hole, &own, &row).await;
    assert_eq!(told.object, "tenant.id_counter");

    // One that lags or differs concerns its own tenant.
    let differs = "UPDATE app.migrations SET checksum = '' WHERE version = 20261123100000";
    fixture.found_and_mended("schema-differs", Level::Partial, &own, differs).await;
    fixture.found_and_mended("schema-differs", Level::Hole, "shr", differs).await;

    // A mover that policies hold sees no strangers, and says so.
    fixture.server.run("shr", "ALTER ROLE stagesub_mover NOBYPASSRLS").await;
    let found = fixture.found().await;
    let blind = found.iter().find(|finding| finding.lint == "not-examined").expect("it is told");
    assert_eq!((blind.level, blind.object.as_str()), (Level::Partial, "rows of other tenants"));
    super::mend(&fixture.server, &own, blind).await;
    assert_eq!(fixture.found().await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_the_registry_contradict_neither_each_other_nor_the_databases() {
    let fixture = Fixture::new().await;
    let [a, b] = fixture.tenants;
    let [_, database_of_b] = fixture.databases;
    let placed = format!(
        "INSERT INTO registry.directory (tenant_id, database_id, placement, epoch) VALUES ('{a}', '{database_of_b}', 'dedicated', 1)"
    );
    let told = fixture.found_and_mended("directory-wrong", Level::Hole, "reg", &placed).await;
    assert!(told.object.contains(&a.to_string()) && told.why.contains(&b.to_string()), "{told}");

    let c = tenant(&fixture.server, "CCC").await;
    let id = Uuid::now_v7();
    let twice = format!(
        "INSERT INTO registry.databases (id, kind, tenant_id, status, server_identifier, host, port, name)
        SELECT '{id}', 'dedicated', '{c}', 'creating', 'elsewhere', host, port, name FROM registry.databases WHERE kind = 'shared'"
    );
    fixture.found_and_mended("database-twice", Level::Hole, "reg", &twice).await;

    let unfinished =
        format!("UPDATE registry.databases SET status = 'creating' WHERE id = '{database_of_b}'");
    fixture.server.run("reg", &unfinished).await;
    let found = fixture.found().await;
    assert_eq!(
        found.iter().map(|f| (f.lint, f.level)).collect::<Vec<_>>(),
        [("database-unfinished", Level::Note)]
    );
    DedicatedDatabases::new(fixture.server.open().await, fixture.server.keys.clone())
        .create(b)
        .await
        .unwrap();
    assert_eq!(fixture.found().await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_away_or_hangs_is_told_within_its_bound() {
    let fixture = Fixture::new().await;
    let name = fixture.name(0);
    let closed = async |database: &str, level| {
        let allow = |allowed| format!("ALTER DATABASE {database} ALLOW_CONNECTIONS {allowed}");
        fixture.server.run("postgres", &allow(false)).await;
        let found = fixture.found().await;
        assert_eq!(
            found.iter().map(|f| (f.lint, f.level)).collect::<Vec<_>>(),
            [("unreachable", level)],
            "{found:#?}"
        );
        assert!(
            found[0].database.ends_with(database) && found[0].why.contains("nothing of it was looked at")
        );
        fixture.server.run("postgres", &allow(true)).await;
        assert_eq!(fixture.found().await, []);
    };
    closed(&name, Level::Partial).await;
    closed("shr", Level::Hole).await;

    // Something listens and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address =
        format!("postgres://stagesub_mover:x@{}/{name}?sslmode=disable", silent.local_addr().unwrap());
    let silent_login = stagesub_storage::target::ConnectionTarget::parse(&address).unwrap();
    let place = (fixture.databases[0].as_uuid(), "stagesub_mover", Some(fixture.tenants[0].as_uuid()));
    store_login(&mut connect(&fixture.server.admin("reg")).await, &fixture.server.keys, place, &silent_login)
        .await;
    let bounds = Bounds { database: Duration::from_millis(700), ..Bounds::default() };
    let begun = Instant::now();
    let found = fixture.found_within(bounds).await;
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!(
        found.iter().map(|f| (f.lint, f.level)).collect::<Vec<_>>(),
        [("unreachable", Level::Partial)],
        "{found:#?}"
    );

    // No time at all for dedicated ones: each of them is told.
    let none = Bounds { dedicated: Some(Duration::ZERO), ..Bounds::default() };
    let found = fixture.found_within(none).await;
    assert_eq!(found.iter().map(|f| f.lint).collect::<Vec<_>>(), ["not-examined"; 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_database_for_all_is_sound_and_its_reader_is_expected() {
    let server = Server::start().await;
    server.create("reg").await;
    server.run("postgres", "CREATE ROLE serving LOGIN PASSWORD 's'").await;
    let serving = server.login("reg", "serving", "s");
    let targets = DatabaseTargets { admin: server.admin("reg"), address: serving.clone() };
    server.migrate(&MigrateOptions::new(targets)).await.unwrap();
    let examine = async |url| {
        let report = examine_platform(url, &server.keys, &Expectations::default(), Bounds::default()).await;
        report.expect("it can be examined").into_iter().collect::<Vec<_>>()
    };
    assert_eq!(examine(&serving).await, []);
    // To anybody else it is a stranger who reads the sealed connection strings.
    let admin = server.admin("reg");
    let found = examine(&admin).await;
    assert!(
        found
            .iter()
            .any(|f| f.level == Level::Hole && f.object == "SELECT on registry.database_logins for serving"),
        "{found:#?}"
    );
    server.run("reg", "GRANT SELECT ON registry.users TO serving").await;
    let found = examine(&serving).await;
    assert_eq!(
        found.iter().map(|f| f.object.as_str()).collect::<Vec<_>>(),
        ["SELECT on registry.users for serving"]
    );

    // Both halves of the one database are looked at.
    server.run("reg", "REVOKE SELECT ON registry.users FROM serving; ALTER TABLE tenant.project DISABLE ROW LEVEL SECURITY").await;
    let found = examine(&serving).await;
    assert_eq!(found.iter().map(|f| f.lint).collect::<Vec<_>>(), ["rls-off"]);
}
