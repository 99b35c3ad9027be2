//! The PostgreSQL of this test process, and the templates that each test's databases are copied from.
//!
//! Without `TEST_DATABASE_URL` it is a throw-away cluster of our own, which a helper process removes however
//! this process ends. With it, it is a server that is there for tests alone: the platform's roles belong to
//! the whole server, and templates of an earlier run are used again. Either way the templates are named by a
//! hash of the migrations.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use sqlx::PgConnection;
use stagesub_storage::embedded::{self, ClusterOptions};
use stagesub_storage::migrate::{MigrateOptions, migrate};
use stagesub_storage::seal::KeyRing;
use stagesub_storage::target::ConnectionTarget;

use crate::database::{connect, run};

/// Every test's connection strings are sealed with it. Not a secret: what it opens lives as long as a test.
const KEYS: &str = "test:c3RhZ2VzdWItdGVzdHMtc3RhZ2VzdWItdGVzdHMtc3Q=";

/// Lets one process at a time make templates. Any number that nobody else uses.
const TEMPLATE_LOCK: i64 = 0x5445_5354_5445_4d50;

/// The server that tests run on.
#[derive(Debug)]
pub struct Cluster {
    admin: ConnectionTarget,
    registry_template: String,
    shared_template: String,
    /// Kept for as long as this is.
    postgres: Option<embedded::Cluster>,
    _runtime: Option<tokio::runtime::Runtime>,
}

static CLUSTER: OnceLock<Cluster> = OnceLock::new();

/// Settings of the throw-away server that somebody asked for before it was started.
static SETTINGS: Mutex<Vec<(&'static str, String)>> = Mutex::new(Vec::new());

impl Cluster {
    /// Asks for a setting of the throw-away server, before anybody asks for the server. One that is there
    /// already (`TEST_DATABASE_URL`) is as its owner set it.
    pub fn set(name: &'static str, value: &str) {
        assert!(CLUSTER.get().is_none(), "the server is started with its settings");
        SETTINGS.lock().expect("nobody panics with it").push((name, value.to_owned()));
    }

    /// The server, which the first call starts. A PostgreSQL that cannot be had fails the test.
    pub async fn get() -> &'static Self {
        // It outlives the test that happened to be first, so it has threads of its own.
        tokio::task::spawn_blocking(|| CLUSTER.get_or_init(Self::start))
            .await
            .unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }

    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("cluster")
            .enable_all()
            .build()
            .expect("the operating system gives a thread");
        let (admin, postgres, registry_template, shared_template) = runtime.block_on(async {
            let (admin, postgres) = server().await;
            let (registry, shared) = templates(&admin).await;
            (admin, postgres, registry, shared)
        });
        Self { admin, registry_template, shared_template, postgres, _runtime: Some(runtime) }
    }

    /// A server apart from every other test's, for one that restarts it. It runs on the caller's threads.
    pub async fn apart() -> Self {
        Self::apart_with(&[]).await
    }

    /// The same, which flushes what it acknowledges, as a server does that tenants live on.
    pub async fn apart_and_durable() -> Self {
        Self::apart_with(&["fsync", "synchronous_commit", "full_page_writes"].map(|name| (name, "on"))).await
    }

    /// The same, with settings of its own.
    pub async fn apart_with(settings: &[(&'static str, &str)]) -> Self {
        let (admin, postgres) = throwaway(settings).await;
        let (registry_template, shared_template) = templates(&admin).await;
        Self { admin, registry_template, shared_template, postgres: Some(postgres), _runtime: None }
    }

    /// Ends this server as `pg_ctl stop -m immediate` does, and waits until it was started again and has recovered.
    pub async fn crash(&self) {
        let mut pid = self.postgres().watch_pid();
        let before = self.postgres().pid().expect("it runs");
        kill(Pid::from_raw(before), Signal::SIGQUIT).expect("a server of the test's own can be ended");
        let again = pid.wait_for(|pid| pid.is_some_and(|pid| pid != before)).await;
        assert!(again.is_ok(), "it is started again");
    }

    /// The Postgres of a server that the tests started themselves.
    #[must_use]
    pub fn postgres(&self) -> &embedded::Cluster {
        self.postgres.as_ref().expect("this server was started by the tests")
    }

    /// The administrator's connection string on the database that nothing is kept in.
    #[must_use]
    pub fn admin(&self) -> &ConnectionTarget {
        &self.admin
    }

    /// The name of the migrated registry to copy.
    #[must_use]
    pub fn registry_template(&self) -> &str {
        &self.registry_template
    }

    /// The name of the migrated shared database to copy.
    #[must_use]
    pub fn shared_template(&self) -> &str {
        &self.shared_template
    }
}

/// The keys that tests seal with, as `STAGESUB_KEYS` has them.
#[must_use]
pub fn keys_text() -> SecretString {
    SecretString::from(KEYS)
}

/// The keys that tests seal with.
#[must_use]
pub fn keys() -> KeyRing {
    KeyRing::parse(keys_text().expose_secret()).expect("the test's keys are well formed")
}

async fn server() -> (ConnectionTarget, Option<embedded::Cluster>) {
    match std::env::var("TEST_DATABASE_URL") {
        Ok(url) if !url.is_empty() => {
            let admin = ConnectionTarget::parse(&url).expect("TEST_DATABASE_URL is a connection string");
            (admin, None)
        }
        _ => {
            let (admin, postgres) = throwaway(&[]).await;
            (admin, Some(postgres))
        }
    }
}

async fn throwaway(own: &[(&'static str, &str)]) -> (ConnectionTarget, embedded::Cluster) {
    let mut settings = SETTINGS.lock().expect("nobody panics with it").clone();
    settings.extend(own.iter().map(|(name, value)| (*name, (*value).to_owned())));
    let options =
        settings.iter().fold(ClusterOptions::throwaway().max_connections(400), |options, (name, value)| {
            options.setting(name, value)
        });
    let postgres = embedded::Cluster::start(options)
        .await
        .unwrap_or_else(|error| panic!("the tests need a PostgreSQL: {}", chain(&error)));
    (postgres.admin().clone(), postgres)
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

async fn templates(admin: &ConnectionTarget) -> (String, String) {
    let hash = hash_of_migrations();
    let registry = format!("stagesub_test_{hash}_registry");
    let shared = format!("stagesub_test_{hash}_shared");
    let mut conn = connect(admin).await;
    run(&mut conn, &format!("SELECT pg_advisory_lock({TEMPLATE_LOCK})")).await;
    drop_leftovers(&mut conn, admin).await;
    if !is_template(&mut conn, &registry).await || !is_template(&mut conn, &shared).await {
        for name in [&registry, &shared] {
            drop_database(&mut conn, name).await;
            run(&mut conn, &format!("CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")).await;
        }
        let mut options = MigrateOptions::new(admin.with_database(&registry));
        options.shared = Some(admin.with_database(&shared).into());
        // Roles that an earlier run made belong to the tests too.
        options.adopt_logins = true;
        let report = migrate(&options, &keys()).await.unwrap_or_else(|error| panic!("{}", chain(&error)));
        assert!(report.databases.iter().all(|database| database.outcome.is_ok()), "{report:?}");
        for name in [&registry, &shared] {
            run(&mut conn, &format!("ALTER DATABASE {name} IS_TEMPLATE true")).await;
        }
    }
    run(&mut conn, &format!("SELECT pg_advisory_unlock({TEMPLATE_LOCK})")).await;
    (registry, shared)
}

async fn is_template(conn: &mut PgConnection, name: &str) -> bool {
    sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1 AND datistemplate)")
        .bind(name)
        .fetch_one(conn)
        .await
        .expect("the catalogue can be read")
}

async fn drop_database(conn: &mut PgConnection, name: &str) {
    let known: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)")
        .bind(name)
        .fetch_one(&mut *conn)
        .await
        .expect("the catalogue can be read");
    if known {
        run(conn, &format!("ALTER DATABASE \"{name}\" IS_TEMPLATE false")).await;
        run(conn, &format!("DROP DATABASE \"{name}\"")).await;
    }
}

/// On a server that outlives the tests: drops what earlier runs left and nobody is connected to. Their
/// registries name the dedicated databases that were theirs.
async fn drop_leftovers(conn: &mut PgConnection, admin: &ConnectionTarget) {
    let left: Vec<String> = sqlx::query_scalar(
        "SELECT d.datname::text FROM pg_database AS d
        WHERE d.datname LIKE 'stagesub\\_test\\_run%'
            AND NOT EXISTS (SELECT FROM pg_stat_activity AS a WHERE a.datid = d.oid)
        ORDER BY d.datname",
    )
    .fetch_all(&mut *conn)
    .await
    .expect("the catalogue can be read");
    for name in left {
        if name.ends_with("_registry") {
            let mut registry = connect(&admin.with_database(&name)).await;
            let theirs: Vec<String> =
                sqlx::query_scalar("SELECT name FROM registry.databases WHERE kind = 'dedicated'")
                    .fetch_all(&mut registry)
                    .await
                    .expect("a registry lists its databases");
            sqlx::Connection::close(registry).await.expect("the connection closes");
            for dedicated in theirs {
                drop_database(conn, &dedicated).await;
            }
        }
        drop_database(conn, &name).await;
    }
}

fn hash_of_migrations() -> String {
    let mut files = Vec::new();
    collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/storage/migrations"), &mut files);
    // What is not in SQL decides about logins and grants.
    for source in ["migrate.rs", "migrate", "roles.rs", "hardening.rs"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/storage/src").join(source);
        if path.is_dir() { collect(&path, &mut files) } else { files.push(path) }
    }
    files.sort();
    let mut hash = Sha256::new();
    for file in files {
        hash.update(std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display())));
    }
    let digest = hash.finalize();
    digest.iter().take(6).fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
    let entries = std::fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    for entry in entries {
        let path = entry.expect("a directory can be listed").path();
        if path.is_dir() { collect(&path, files) } else { files.push(path) }
    }
}
