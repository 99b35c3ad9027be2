//! The ways that are compared.

use std::net::SocketAddr;
use std::sync::Arc;

use sqlx::postgres::PgPoolOptions;
use sqlx::{PgConnection, PgPool};
use stagesub_domain::page::Page;
use stagesub_domain::ports::musicians::MusicianFilter;
use stagesub_domain::ports::{HotLists, Units};
use stagesub_storage::one_message::PreparedRead;
use stagesub_storage::one_write::PreparedWrite;
use stagesub_storage::repo::PgHotLists;
use stagesub_storage::target::ConnectionTarget;
use stagesub_storage::unit::PgUnitOfWorkFactory;
use stagesub_tenancy::Access;
use stagesub_tests::bench::ground::{Ground, options};
use stagesub_tests::bench::lean;
use stagesub_tests::bench::plain::{LIST, Listed};
use stagesub_tests::bench::rounds::Candidate;
use uuid::Uuid;

use super::CONNECTIONS;

pub(crate) const DEFAULT_READ: &str = "read, unfenced, sqlx's default pool";
pub(crate) const CLASSIC_READ: &str = "read, BEGIN set_config query COMMIT, sqlx";
pub(crate) const FENCED_READ: &str = "read, fenced, ordinary";
pub(crate) const HOT_READ: &str = "read, fenced, one message";
pub(crate) const PORT_READ: &str = "read, fenced, ordinary, to the domain";
pub(crate) const PORT_HOT_READ: &str = "read, fenced, one message, to the domain";
pub(crate) const DEFAULT_WRITE: &str = "write, unfenced, sqlx's default pool";
pub(crate) const CLASSIC_WRITE: &str = "write, BEGIN set_config query COMMIT, sqlx";
pub(crate) const FENCED_WRITE: &str = "write, fenced, ordinary";
pub(crate) const HOT_WRITE: &str = "write, fenced, one message";
pub(crate) const DEFAULT_CHANGE: &str = "change and audit, unfenced, sqlx's default pool";
pub(crate) const CLASSIC_CHANGE: &str = "change and audit, BEGIN set_config .. COMMIT, sqlx";
pub(crate) const FENCED_CHANGE: &str = "change and audit, fenced, ordinary";

/// Rows of the page.
const ROWS: usize = 20;
/// What is read to know whether there are more.
pub(crate) const LIMIT: i64 = 21;
const UPDATE: &str =
    "UPDATE tenant.musician SET local_residence = $3, updated_at = now() WHERE tenant_id = $1 AND no = $2";
/// What the product writes beside each change.
const AUDIT: &str = "INSERT INTO tenant.audit
        (tenant_id, id, actor, user_id, action, model, record_id, changes, created_at, updated_at)
    VALUES ($1, $2, 'user', $2, 'update', 'musician', $3, '{\"localResidence\": true}', now(), now())";
const BIND: &str = "SELECT set_config('app.tenant_id', $1, true)";

/// All of them, from so far away.
pub(crate) async fn all(
    ground: &Ground,
    [bound, classic]: &[ConnectionTarget; 2],
    through: Option<SocketAddr>,
) -> Vec<Candidate> {
    let pool = async |login: &ConnectionTarget, pings: bool| {
        PgPoolOptions::new()
            .max_connections(CONNECTIONS)
            .test_before_acquire(pings)
            .connect_with(options(login, through))
            .await
            .expect("the pool opens")
    };
    let tenant = ground.scopes[0].tenant_id().as_uuid();
    let default = pool(bound, true).await;
    let no_ping = pool(bound, false).await;
    let classic = pool(classic, true).await;
    let unfenced = lean::pool(options(bound, through), CONNECTIONS as usize, "SELECT 1");
    let unfenced_writes = unfenced.clone();
    let mut candidates = Vec::new();

    let (reads, changes) = (default.clone(), default.clone());
    candidates.push(Candidate::new(DEFAULT_READ, move |_| unfenced_read(reads.clone(), tenant)));
    candidates.push(Candidate::new("read, unfenced, sqlx's pool, no ping", move |_| {
        unfenced_read(no_ping.clone(), tenant)
    }));
    candidates.push(Candidate::new("read, unfenced, lean pool", move |_| {
        let pool = unfenced.clone();
        async move {
            let mut connection = pool.get().await.expect("a connection");
            read(&mut connection, tenant).await;
        }
    }));
    candidates.push(Candidate::new(DEFAULT_WRITE, move |task| {
        let pool = default.clone();
        async move {
            let done = update(tenant, task).execute(&pool).await.expect("it is written");
            assert_eq!(done.rows_affected(), 1);
        }
    }));
    candidates.push(Candidate::new(DEFAULT_CHANGE, move |task| {
        let pool = changes.clone();
        async move {
            #[expect(clippy::disallowed_methods, reason = "it is what the product is compared with")]
            let mut tx = pool.begin().await.expect("it begins");
            update(tenant, task).execute(&mut *tx).await.expect("it is written");
            audit(tenant, task).execute(&mut *tx).await.expect("it is noted");
            tx.commit().await.expect("it commits");
        }
    }));
    candidates.push(Candidate::new("write, unfenced, lean pool", move |task| {
        let pool = unfenced_writes.clone();
        async move {
            let mut connection = pool.get().await.expect("a connection");
            let done = update(tenant, task).execute(&mut *connection).await.expect("it is written");
            assert_eq!(done.rows_affected(), 1);
        }
    }));
    candidates.extend(classics(ground, &classic));
    candidates.extend(products(ground, through));
    candidates
}

async fn unfenced_read(pool: PgPool, tenant: Uuid) {
    let rows = sqlx::query(LIST).bind(tenant).bind(0_i64).bind(LIMIT).fetch_all(&pool).await;
    listed(&rows.expect("it is read"));
}

/// The read on one connection.
pub(crate) async fn read(connection: &mut PgConnection, tenant: Uuid) {
    let rows = sqlx::query(LIST).bind(tenant).bind(0_i64).bind(LIMIT).fetch_all(connection).await;
    listed(&rows.expect("it is read"));
}

/// Reads the rows' values, as the product does.
pub(crate) fn listed(rows: &[sqlx::postgres::PgRow]) {
    let page: Vec<Listed> =
        rows.iter().map(|row| Listed::read(row).expect("it is a row of the list")).collect();
    assert_eq!(page.len(), ROWS + 1);
}

/// Each task has a row of its own.
fn row_of(task: usize) -> i64 {
    i64::try_from(task).expect("few tasks") + 1
}

fn update(
    tenant: Uuid,
    task: usize,
) -> sqlx::query::Query<'static, sqlx::Postgres, sqlx::postgres::PgArguments> {
    sqlx::query(UPDATE).bind(tenant).bind(row_of(task)).bind(true)
}

/// What it says of that in the audit.
fn audit(
    tenant: Uuid,
    task: usize,
) -> sqlx::query::Query<'static, sqlx::Postgres, sqlx::postgres::PgArguments> {
    sqlx::query(AUDIT).bind(tenant).bind(Uuid::now_v7()).bind(format!("GOT-MUS-{:03}", row_of(task)))
}

/// What a unit of work does.
#[derive(Debug, Clone, Copy)]
enum Work {
    Read,
    Write,
    /// A write, and what the audit says of it.
    Change,
}

/// What most services do: four statements, each with its answer; five where there is an audit.
fn classics(ground: &Ground, pool: &PgPool) -> [Candidate; 3] {
    let tenants: Arc<[Uuid]> = ground.scopes.iter().map(|scope| scope.tenant_id().as_uuid()).collect();
    let of = move |work: Work| {
        let (pool, tenants) = (pool.clone(), Arc::clone(&tenants));
        move |task: usize| {
            let (pool, tenant) = (pool.clone(), tenants[task % tenants.len()]);
            async move {
                #[expect(clippy::disallowed_methods, reason = "it is what the product is compared with")]
                let mut tx = pool.begin().await.expect("it begins");
                sqlx::query(BIND).bind(tenant.to_string()).execute(&mut *tx).await.expect("it is bound");
                match work {
                    Work::Read => read(&mut tx, tenant).await,
                    Work::Write | Work::Change => {
                        update(tenant, task).execute(&mut *tx).await.expect("it is written");
                    }
                }
                if let Work::Change = work {
                    audit(tenant, task).execute(&mut *tx).await.expect("it is noted");
                }
                tx.commit().await.expect("it commits");
            }
        }
    };
    [
        Candidate::new(CLASSIC_READ, of(Work::Read)),
        Candidate::new(CLASSIC_WRITE, of(Work::Write)),
        Candidate::new(CLASSIC_CHANGE, of(Work::Change)),
    ]
}

/// The list in one message.
static HOT_LIST: PreparedRead = PreparedRead::new("bench_list", LIST, 2);
/// The change in one message.
const HOT_UPDATE: PreparedWrite = PreparedWrite::new("bench_update", UPDATE, 2);

/// What the product does: the same statements and rows as the others, and the reads by the ports that handlers use as
/// well, which make musicians of them.
fn products(ground: &Ground, through: Option<SocketAddr>) -> [Candidate; 7] {
    let db = || Arc::new(ground.tenants(CONNECTIONS, through));
    let page = Page::new(None, u32::try_from(ROWS).expect("a page")).expect("a page");
    let scopes: Arc<[_]> = ground.scopes.clone().into();

    let (tenants, own) = (db(), Arc::clone(&scopes));
    let ordinary = Candidate::new(FENCED_READ, move |task| {
        let (db, scopes) = (Arc::clone(&tenants), Arc::clone(&own));
        async move {
            let mut tx = db.begin(&scopes[task % scopes.len()], Access::Read).await.expect("it begins");
            let tenant = tx.tenant().as_uuid();
            let rows = sqlx::query(LIST).bind(tenant).bind(0_i64).bind(LIMIT).fetch_all(&mut tx).await;
            tx.commit().await.expect("it commits");
            listed(&rows.expect("it is read"));
        }
    });

    let (tenants, own) = (db(), Arc::clone(&scopes));
    let hot = Candidate::new(HOT_READ, move |task| {
        let (db, scopes) = (Arc::clone(&tenants), Arc::clone(&own));
        async move {
            let scope = &scopes[task % scopes.len()];
            let rows = db.read_in_one_message(scope, &HOT_LIST, &[0, LIMIT]).await.expect("it is read");
            listed(&rows);
        }
    });

    let units: Units = Arc::new(PgUnitOfWorkFactory::new(ground.tenants(CONNECTIONS, through)));
    let own = Arc::clone(&scopes);
    let by_port = Candidate::new(PORT_READ, move |task| {
        let (units, scopes) = (Arc::clone(&units), Arc::clone(&own));
        async move {
            let mut unit = units.begin(&scopes[task % scopes.len()], Access::Read).await.expect("it begins");
            let page = unit.musicians().list(&MusicianFilter::unasked(), page).await.expect("it is read");
            unit.commit().await.expect("it commits");
            assert_eq!(page.items.len(), ROWS);
        }
    });

    let lists = Arc::new(PgHotLists::new(ground.tenants(CONNECTIONS, through), true));
    let own = Arc::clone(&scopes);
    let hot_by_port = Candidate::new(PORT_HOT_READ, move |task| {
        let (lists, scopes) = (Arc::clone(&lists), Arc::clone(&own));
        async move {
            let page = lists.musicians(&scopes[task % scopes.len()], page).await.expect("it is read");
            assert_eq!(page.items.len(), ROWS);
        }
    });

    let (tenants, own) = (db(), Arc::clone(&scopes));
    let write = Candidate::new(FENCED_WRITE, move |task| {
        let (db, scopes) = (Arc::clone(&tenants), Arc::clone(&own));
        async move {
            let mut tx = db.begin(&scopes[task % scopes.len()], Access::Write).await.expect("it begins");
            let done = update(tx.tenant().as_uuid(), task).execute(&mut tx).await.expect("it is written");
            tx.commit().await.expect("it commits");
            assert_eq!(done.rows_affected(), 1);
        }
    });

    let (tenants, own) = (db(), Arc::clone(&scopes));
    let change = Candidate::new(FENCED_CHANGE, move |task| {
        let (db, scopes) = (Arc::clone(&tenants), Arc::clone(&own));
        async move {
            let mut tx = db.begin(&scopes[task % scopes.len()], Access::Write).await.expect("it begins");
            let tenant = tx.tenant().as_uuid();
            update(tenant, task).execute(&mut tx).await.expect("it is written");
            audit(tenant, task).execute(&mut tx).await.expect("it is noted");
            tx.commit().await.expect("it commits");
        }
    });

    let tenants = db();
    let hot_write = Candidate::new(HOT_WRITE, move |task| {
        let (db, scopes) = (Arc::clone(&tenants), Arc::clone(&scopes));
        async move {
            let values = [row_of(task).into(), true.into()];
            let scope = &scopes[task % scopes.len()];
            let done = db.write_in_one_message(scope, &HOT_UPDATE, &values).await.expect("it is written");
            assert_eq!(done.affected, 1);
        }
    });
    [ordinary, hot, by_port, hot_by_port, write, change, hot_write]
}
