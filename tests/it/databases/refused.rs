//! What is refused before anything is made: no role, no database, no row.

use secrecy::SecretString;
use stagesub_storage::databases::{AllowedHosts, DedicatedDatabases, Home, HostRefused, Looked};
use stagesub_storage::doctor::Expectations;
use stagesub_storage::migrate::MigrateError;
use stagesub_storage::target::ConnectionTarget;
use stagesub_tenancy::TenantId;
use uuid::Uuid;

use super::{Ground, name};

impl Ground {
    async fn refused(&self, tenant: TenantId, home: &Home) -> MigrateError {
        let before = (self.recorded().await, self.roles().await);
        let looked = self.dedicated.look_at(tenant, home).await.unwrap_err();
        let refused = self.dedicated.create_at(tenant, home).await.unwrap_err();
        assert_eq!(looked.to_string(), refused.to_string(), "who looks is told what who makes it would be");
        assert_eq!((self.recorded().await, self.roles().await), before, "{refused}");
        // A sentence with what to do.
        assert!(
            refused.to_string().contains(';') || refused.to_string().contains("another installation"),
            "{refused}"
        );
        refused
    }
}

fn database(url: ConnectionTarget) -> Home {
    Home::Database(url)
}

#[tokio::test]
async fn a_server_that_is_not_listed_is_not_even_connected_to() {
    let ground = Ground::new().await;
    let tenant = ground.tenant("AAA").await;
    // Nobody answers there: a connection would fail otherwise than this does.
    let nobody = ground.other.admin("postgres").with_user("nobody", SecretString::from("x"));
    let unlisted = DedicatedDatabases::new(ground.registry.clone(), ground.ours.keys.clone());
    let refused = unlisted.create_at(tenant, &Home::Server(nobody.clone())).await;
    assert!(matches!(refused, Err(MigrateError::NotAllowed(HostRefused::NoList { .. }))), "{refused:?}");
    let elsewhere: AllowedHosts = "db.example, /run/other".parse().unwrap();
    let unlisted = unlisted.naming(elsewhere, Expectations::default());
    let refused = unlisted.create_at(tenant, &Home::Server(nobody)).await;
    assert!(matches!(refused, Err(MigrateError::NotAllowed(HostRefused::NotListed { .. }))), "{refused:?}");
    assert_eq!(ground.recorded().await, [""; 0]);
}

#[tokio::test]
async fn what_is_anybodys_is_refused_by_what_it_says_of_itself() {
    let ground = Ground::new().await;
    let (tenant, neighbour) = (ground.tenant("BBB").await, ground.tenant("CCC").await);
    ground.dedicated.create_at(neighbour, &Home::Beside).await.unwrap();
    for known in ["reg", "shr", &name(neighbour)] {
        let refused = ground.refused(tenant, &database(ground.ours.admin(known))).await;
        assert!(matches!(refused, MigrateError::Known { .. }), "{known}: {refused}");
    }
    // A copy of a database that the platform has, and of one that it has not, on a server it does not know.
    let mark = |id: &str| {
        format!(
            "CREATE SCHEMA app;
            CREATE TABLE app.marker (one_row boolean DEFAULT true, role text, database_id uuid, tenant_id uuid, demo boolean);
            INSERT INTO app.marker (role, database_id, demo) VALUES ('shared', '{id}', false)"
        )
    };
    let shared = ground.ours.texts("shr", "SELECT database_id::text FROM app.marker").await;
    ground.other.create("copied").await;
    ground.other.run("copied", &mark(&shared[0])).await;
    let refused = ground.refused(tenant, &database(ground.other.admin("copied"))).await;
    assert!(matches!(refused, MigrateError::Known { .. }), "{refused}");
    ground.other.create("stranger").await;
    ground.other.run("stranger", &mark(&Uuid::now_v7().to_string())).await;
    let refused = ground.refused(tenant, &database(ground.other.admin("stranger"))).await;
    assert!(matches!(refused, MigrateError::Foreign { .. }), "{refused}");
    // A registry of somebody's.
    ground.other.create("theirs").await;
    ground
        .other
        .run(
            "theirs",
            "CREATE SCHEMA registry; CREATE TABLE registry.marker (database_id uuid, demo boolean);
            INSERT INTO registry.marker VALUES (gen_random_uuid(), false)",
        )
        .await;
    let refused = ground.refused(tenant, &database(ground.other.admin("theirs"))).await;
    assert!(matches!(refused, MigrateError::Foreign { .. }), "{refused}");
}

#[tokio::test]
async fn what_cannot_be_used_is_refused() {
    let ground = Ground::new().await;
    let tenant = ground.tenant("DDD").await;
    let other = &ground.other;
    other.create("used").await;
    other.run("used", "CREATE TABLE public.something (name text)").await;
    let refused = ground.refused(tenant, &database(other.admin("used"))).await;
    assert!(matches!(refused, MigrateError::NotEmpty { .. }), "{refused}");

    other.create("begun").await;
    other.run("begun", "CREATE SCHEMA tenant").await;
    let refused = ground.refused(tenant, &database(other.admin("begun"))).await;
    assert!(matches!(refused, MigrateError::SchemaTaken { .. }), "{refused}");

    // Where a server is named, a database of the name that would be made counts.
    other.create(&name(tenant)).await;
    other.run(&name(tenant), "CREATE TABLE public.something (name text)").await;
    let refused = ground.refused(tenant, &Home::Server(other.admin("postgres"))).await;
    assert!(matches!(refused, MigrateError::NotEmpty { .. }), "{refused}");

    other.run("postgres", "CREATE DATABASE ascii TEMPLATE template0 ENCODING 'SQL_ASCII'").await;
    let refused = ground.refused(tenant, &database(other.admin("ascii"))).await;
    assert!(matches!(refused, MigrateError::Encoding { .. }), "{refused}");

    let absent = ground.refused(tenant, &database(other.admin("absent"))).await;
    assert!(matches!(absent, MigrateError::Unreachable { .. }), "{absent}");
    let wrong = other.admin("postgres").with_user("postgres", SecretString::from("wrong"));
    let refused = ground.refused(tenant, &Home::Server(wrong)).await;
    assert!(matches!(refused, MigrateError::Unreachable { .. }), "{refused}");
}

#[tokio::test]
async fn a_login_that_could_not_go_on_to_the_end_is_told_what_it_lacks() {
    let ground = Ground::new().await;
    let tenant = ground.tenant("EEE").await;
    let manager = ground.manager("").await;
    let server = Home::Server(manager.clone());
    let own = database(manager.with_database("theirs"));
    ground.other.run("postgres", "CREATE DATABASE theirs OWNER manager").await;
    let lacks = |refused: &MigrateError, what: &str| {
        assert!(matches!(refused, MigrateError::NamedLacks { .. }), "{refused}");
        assert!(refused.to_string().contains(what), "{refused}");
    };
    lacks(&ground.refused(tenant, &server).await, "CREATEDB");
    lacks(&ground.refused(tenant, &own).await, "CREATEROLE");
    ground.other.run("postgres", "ALTER ROLE manager CREATEDB").await;
    lacks(&ground.refused(tenant, &server).await, "CREATEROLE");
    ground
        .other
        .run("postgres", "ALTER ROLE manager CREATEROLE; ALTER DATABASE theirs OWNER TO postgres")
        .await;
    lacks(&ground.refused(tenant, &own).await, "own the database");
}

#[tokio::test]
async fn a_server_of_another_installation_keeps_its_passwords() {
    let ground = Ground::new().await;
    let tenant = ground.tenant("FFF").await;
    let (theirs, keys) = (&ground.other, &ground.other.keys);
    theirs.create("reg").await;
    let options = stagesub_storage::migrate::MigrateOptions::new(theirs.admin("reg"));
    stagesub_storage::migrate::migrate(&options, keys).await.unwrap();
    let refused = ground.refused(tenant, &Home::Server(theirs.admin("postgres"))).await;
    assert!(matches!(refused, MigrateError::LoginExists { .. }), "{refused}");
    stagesub_storage::migrate::migrate(&options, keys).await.expect("the other installation is as it was");
}

#[tokio::test]
async fn a_tenant_has_one_database_of_its_own() {
    let ground = Ground::new().await;
    let (here, there) = (ground.tenant("GGG").await, ground.tenant("HHH").await);
    let elsewhere = Home::Server(ground.other.admin("postgres"));
    let beside = ground.dedicated.create_at(here, &Home::Beside).await.unwrap();
    let refused = ground.refused(here, &elsewhere).await;
    assert!(matches!(&refused, MigrateError::HasOwn { known } if known.ends_with(&name(here))), "{refused}");
    assert_eq!(ground.dedicated.create_at(here, &Home::Beside).await.unwrap(), beside);

    let own = ground.dedicated.create_at(there, &elsewhere).await.unwrap();
    let refused = ground.refused(there, &Home::Beside).await;
    assert!(matches!(refused, MigrateError::HasOwn { .. }), "{refused}");
    assert_eq!(ground.dedicated.create_at(there, &elsewhere).await.unwrap(), own);
}

#[tokio::test]
async fn where_a_database_is_to_be_is_looked_at_and_nothing_is_made() {
    let ground = Ground::new().await;
    let tenant = ground.tenant("FFF").await;
    let identifier = "SELECT system_identifier::text FROM pg_control_system()";
    let before = (ground.recorded().await, ground.roles().await);
    for (home, server) in
        [(Home::Beside, &ground.ours), (Home::Server(ground.other.admin("postgres")), &ground.other)]
    {
        let looked = ground.dedicated.look_at(tenant, &home).await.unwrap();
        let Looked::ToBeMade(target) = looked else { panic!("nothing is there: {looked:?}") };
        assert_eq!(vec![target.server_identifier], server.texts("postgres", identifier).await);
        let decodes = server.texts("postgres", "SHOW wal_level").await == ["logical"];
        assert_eq!(
            (target.decodes, target.streaming.is_empty()),
            (decodes, decodes),
            "{:?}",
            target.streaming
        );
        assert_eq!(target.obstacles, [""; 0]);
    }
    assert_eq!((ground.recorded().await, ground.roles().await), before);

    let made = ground.dedicated.create_at(tenant, &Home::Beside).await.unwrap();
    let looked = ground.dedicated.look_at(tenant, &Home::Beside).await.unwrap();
    assert!(matches!(looked, Looked::Ready(id) if id == made), "{looked:?}");
    let elsewhere = ground.refused(tenant, &Home::Server(ground.other.admin("postgres"))).await;
    assert!(matches!(elsewhere, MigrateError::HasOwn { .. }), "{elsewhere}");
}

#[tokio::test]
async fn a_database_of_the_name_that_is_not_the_tenants_is_told_by_who_looks() {
    let ground = Ground::new().await;
    let tenant = ground.tenant("GGG").await;
    ground.ours.create(&name(tenant)).await;
    ground.ours.run(&name(tenant), "CREATE TABLE public.something (name text)").await;
    let looked = ground.dedicated.look_at(tenant, &Home::Beside).await.unwrap_err();
    let refused = ground.dedicated.create_at(tenant, &Home::Beside).await.unwrap_err();
    for refused in [looked, refused] {
        assert!(matches!(refused, MigrateError::NameTaken { .. }), "{refused}");
        assert!(refused.to_string().contains(&name(tenant)), "{refused}");
    }
}
