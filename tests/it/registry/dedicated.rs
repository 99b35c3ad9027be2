//! Databases of one tenant's own.

use stagesub_storage::databases::DedicatedDatabases;
use stagesub_storage::logins::{DatabaseLogins, LoginRole};
use stagesub_storage::migrate::MigrateError;
use stagesub_storage::registry::RegistryPools;
use stagesub_storage::registry::logins::PgDatabaseLogins;
use stagesub_tenancy::TenantId;
use uuid::Uuid;

use super::{Server, refusal};

struct Fixture {
    server: Server,
    registry: RegistryPools,
    databases: DedicatedDatabases,
}

impl Fixture {
    async fn new() -> Self {
        let server = Server::installed().await;
        let registry = server.open().await;
        let databases = DedicatedDatabases::new(registry.clone(), server.keys.clone());
        Self { server, registry, databases }
    }

    /// A tenant that is recorded and has no data yet.
    async fn tenant(&self, code: &str) -> TenantId {
        let id = Uuid::now_v7();
        let sql = format!(
            "INSERT INTO registry.codes (code, tenant_id) VALUES ('{code}', '{id}');
            INSERT INTO registry.tenants (id, code, name, subdomain, subscription, status, version)
            VALUES ('{id}', '{code}', '{code}', lower('{code}'), 'institution', 'provisioning', 0)"
        );
        self.server.run("reg", &sql).await;
        TenantId::from_uuid(id)
    }
}

fn name(tenant: TenantId) -> String {
    format!("stagesub_t_{}", tenant.as_uuid().as_simple())
}

#[tokio::test]
async fn callers_at_once_make_one_database_and_it_is_fenced_like_a_shared_one() {
    let fixture = Fixture::new().await;
    let tenant = fixture.tenant("AAA").await;
    let create = || fixture.databases.create(tenant);
    let (a, b, c) = tokio::join!(create(), create(), create());
    let id = a.unwrap();
    assert_eq!((b.unwrap(), c.unwrap()), (id, id));

    let server = &fixture.server;
    let marker = "SELECT concat_ws(' ', role, database_id, tenant_id) FROM app.marker";
    assert_eq!(server.texts(&name(tenant), marker).await, [format!("dedicated {id} {tenant}")]);
    let logins = PgDatabaseLogins::new(fixture.registry.clone(), server.keys.clone());
    let app = logins.find_login(id, LoginRole::App).await.unwrap().unwrap();
    assert_eq!(app.database(), name(tenant));
    // Bound to nobody, taken from PUBLIC by way of the template, and closed to other databases' users.
    for (sql, code) in [
        ("SELECT count(*) FROM tenant.musician", "42704"),
        ("SELECT set_config('app.tenant_id', 'x', false)", "42501"),
        ("SELECT pg_advisory_lock(1)", "42501"),
        ("CREATE TEMPORARY TABLE t ()", "42501"),
    ] {
        assert_eq!(refusal(&app, sql).await, code, "{sql}");
    }
    let open = "SELECT privilege_type FROM pg_database, aclexplode(datacl)
        WHERE datname = current_database() AND grantee = 0";
    assert_eq!(server.texts(&name(tenant), open).await, [""; 0]);
    assert_eq!(
        server
            .texts(
                &name(tenant),
                "SELECT datdba::regrole::text FROM pg_database WHERE datname = current_database()"
            )
            .await,
        ["stagesub_owner"]
    );
}

#[tokio::test]
async fn database_that_was_begun_is_finished() {
    let fixture = Fixture::new().await;
    let server = &fixture.server;
    // The registry knows it and nothing is there; then it is there and empty; then it is made and not ready.
    let tenant = fixture.tenant("BBB").await;
    let id = fixture.databases.create(tenant).await.unwrap();
    let unready = format!("UPDATE registry.databases SET status = 'creating' WHERE id = '{id}'");
    for undo in [
        vec![format!("DROP DATABASE {}", name(tenant))],
        vec![
            format!("DROP DATABASE {}", name(tenant)),
            format!("CREATE DATABASE {} OWNER stagesub_owner TEMPLATE template0", name(tenant)),
        ],
        vec![],
    ] {
        server.run("reg", &unready).await;
        for sql in undo {
            server.run("postgres", &sql).await;
        }
        assert_eq!(fixture.databases.create(tenant).await.unwrap(), id);
    }
}

#[tokio::test]
async fn database_that_is_somebody_elses_is_not_touched() {
    let fixture = Fixture::new().await;
    let server = &fixture.server;
    let (ours, theirs) = (fixture.tenant("CCC").await, fixture.tenant("DDD").await);
    fixture.databases.create(theirs).await.unwrap();
    let copy = format!("CREATE DATABASE {} OWNER stagesub_owner TEMPLATE {}", name(ours), name(theirs));
    server.run("postgres", &copy).await;
    let refused = fixture.databases.create(ours).await;
    assert!(matches!(refused, Err(MigrateError::NameTaken { .. })), "{refused:?}");

    let (unmarked, unowned) = (fixture.tenant("EEE").await, fixture.tenant("FFF").await);
    server.run("postgres", &format!("CREATE DATABASE {} OWNER stagesub_owner", name(unmarked))).await;
    server.run(&name(unmarked), "CREATE TABLE public.something (name text)").await;
    server.run("postgres", &format!("CREATE DATABASE {}", name(unowned))).await;
    for tenant in [unmarked, unowned] {
        let refused = fixture.databases.create(tenant).await;
        assert!(matches!(refused, Err(MigrateError::NameTaken { .. })), "{refused:?}");
        assert_eq!(
            server.texts(&name(tenant), "SELECT nspname::text FROM pg_namespace WHERE nspname = 'app'").await,
            [""; 0]
        );
    }
}

#[tokio::test]
async fn a_place_that_is_recorded_for_another_is_refused() {
    let fixture = Fixture::new().await;
    let (ours, theirs) = (fixture.tenant("JJJ").await, fixture.tenant("KKK").await);
    let recorded = format!(
        "INSERT INTO registry.databases (id, kind, tenant_id, status, server_identifier, host, port, name)
         SELECT gen_random_uuid(), 'dedicated', '{theirs}', 'creating', server_identifier, host, port, '{}'
         FROM registry.databases WHERE kind = 'shared'",
        name(ours)
    );
    fixture.server.run("reg", &recorded).await;
    let refused = fixture.databases.create(ours).await;
    assert!(matches!(refused, Err(MigrateError::NameTaken { .. })), "{refused:?}");
}

#[tokio::test]
async fn upgrade_reaches_every_database_and_one_that_fails_does_not_stop_the_rest() {
    let fixture = Fixture::new().await;
    let server = &fixture.server;
    let (gone, fine) = (fixture.tenant("GGG").await, fixture.tenant("HHH").await);
    let gone_id = fixture.databases.create(gone).await.unwrap();
    let fine_id = fixture.databases.create(fine).await.unwrap();
    server.run("postgres", &format!("DROP DATABASE {} WITH (FORCE)", name(gone))).await;
    let report = server.migrate(&server.options()).await.unwrap();
    let outcome = |id| &report.databases.iter().find(|database| database.id == id).unwrap().outcome;
    assert!(matches!(outcome(gone_id), Err(MigrateError::Unreachable { .. })));
    assert!(outcome(fine_id).is_ok());
    assert!(!report.is_complete());
}
