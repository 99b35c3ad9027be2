//! What opening a pool is: one connection, which has read the marker and stays.

use sqlx::PgConnection;
use stagesub_storage::factory::TenantDb;
use stagesub_storage::pool::{BoundsBy, TenantPoolSettings};
use stagesub_tenancy::{
    Access, BeginError, OpenError, PoolFactory as _, PoolTarget, RouteError, TenantScope,
};
use stagesub_tests::database::{connect, run};

use crate::tenant_tx::lab::{Lab, scalar};

const PID: &str = "SELECT pg_backend_pid()";

/// The processes that serve the application in the lab's database.
async fn serving(admin: &mut PgConnection) -> Vec<i32> {
    sqlx::query_scalar(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND usename = 'stagesub_app'",
    )
    .fetch_all(admin)
    .await
    .unwrap()
}

/// What was said of the database when no pool was opened on it.
async fn refused(db: &TenantDb, scope: &TenantScope) -> String {
    match db.begin(scope, Access::Read).await {
        Err(BeginError::Route(RouteError::Open(error))) => match error.root() {
            OpenError::WrongDatabase { detail } => detail.clone(),
            other => panic!("refused for another reason: {other:?}"),
        },
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_connection_that_read_the_marker_is_the_one_that_is_used() {
    let lab = Lab::start(2).await;
    let mut admin = connect(&lab.admin).await;
    let [scope, _] = &lab.scopes;
    let leased = lab.router.lease(scope).await.unwrap();
    let opened = serving(&mut admin).await;
    assert_eq!((opened.len(), leased.lease.connections()), (1, 1), "one is made and stays");
    let mut tx = lab.tenants().begin(scope, Access::Read).await.unwrap();
    let used: i32 = sqlx::query_scalar(PID).fetch_one(&mut tx).await.unwrap();
    assert_eq!([used], opened[..], "and is the one that is used");
    tx.commit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_read_another_marker_is_closed_and_never_lent() {
    for (breaks, says) in [
        ("UPDATE app.marker SET database_id = gen_random_uuid()", "it is a shared database"),
        (
            "UPDATE app.marker SET role = 'dedicated', tenant_id = gen_random_uuid()",
            "it is the database of tenant",
        ),
        ("DELETE FROM app.marker", "it bears no marker"),
        ("DROP TABLE app.marker", "it bears no marker"),
    ] {
        let lab = Lab::start(2).await;
        run(&mut connect(&lab.admin).await, breaks).await;
        let detail = refused(&lab.tenants(), &lab.scopes[0]).await;
        assert!(detail.contains(says), "{breaks}: {detail}");
        lab.until_backends("true", 0).await;
        assert_eq!(lab.router.stats().live, 0, "{breaks}: no pool is left");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_further_connection_of_a_pool_reads_the_marker_too() {
    let lab = Lab::start(2).await;
    let mut admin = connect(&lab.admin).await;
    let (db, [scope, other]) = (lab.tenants(), &lab.scopes);
    let mut first = db.begin(scope, Access::Read).await.unwrap();
    // Another database answers at the address from now on.
    run(&mut admin, "CREATE TABLE public.kept AS SELECT database_id FROM app.marker").await;
    run(&mut admin, "UPDATE app.marker SET database_id = gen_random_uuid()").await;
    let refused = db.begin(other, Access::Read).await;
    let Err(BeginError::Unavailable(error)) = &refused else { panic!("{refused:?}") };
    assert!(error.to_string().contains("not the one meant"), "{error}");
    let used: i32 = sqlx::query_scalar(PID).fetch_one(&mut first).await.unwrap();
    lab.until_backends("true", 1).await;
    assert_eq!(serving(&mut admin).await, [used], "the first one is what it was");
    first.commit().await.unwrap();

    run(&mut admin, "UPDATE app.marker SET database_id = (SELECT database_id FROM public.kept)").await;
    let (one, two) =
        (db.begin(scope, Access::Read).await.unwrap(), db.begin(other, Access::Read).await.unwrap());
    lab.until_backends("true", 2).await;
    one.commit().await.unwrap();
    two.commit().await.unwrap();
}

/// Those that lie idle and were asked this last.
const WARM: &str = "state = 'idle' AND query LIKE 'BEGIN READ ONLY;%SELECT FROM tenant.% WHERE false;COMMIT'";

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_made_ahead_have_met_what_their_first_user_would_wait_for() {
    let pools = TenantPoolSettings { max_connections: 4, share: 75, ..TenantPoolSettings::default() };
    let lab = Lab::start_with(pools).await;
    let factory = lab.factory(pools);
    let target = PoolTarget::Shared(lab.database);
    let pool = factory.open(&target).await.unwrap();
    assert_eq!((pool.connections(), lab.backends(WARM).await), (1, 0));
    factory.warm(&pool).await.unwrap();
    assert_eq!((pool.connections(), lab.backends(WARM).await), (3, 3), "as many as one tenant may have");
    let mut admin = connect(&lab.admin).await;
    let last = "SELECT max(query_start)::text FROM pg_stat_activity
        WHERE datname = current_database() AND usename = 'stagesub_app'";
    let before: String = scalar(&mut admin, last).await;
    factory.warm(&pool).await.unwrap();
    assert_eq!(scalar::<String>(&mut admin, last).await, before, "once");
    factory.close(pool).await;

    // Behind a pooler the next transaction is another session's.
    let behind = TenantPoolSettings { bounds: BoundsBy::Transaction, ..pools };
    let factory = lab.factory(behind);
    let pool = factory.open(&target).await.unwrap();
    factory.warm(&pool).await.unwrap();
    assert_eq!((pool.connections(), lab.backends(WARM).await), (3, 0));
    factory.close(pool).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_could_not_be_made_ready_is_closed() {
    let pools = TenantPoolSettings { max_connections: 4, share: 75, ..TenantPoolSettings::default() };
    let lab = Lab::start_with(pools).await;
    let mut admin = connect(&lab.admin).await;
    let factory = lab.factory(pools);
    let pool = factory.open(&PoolTarget::Shared(lab.database)).await.unwrap();
    run(&mut admin, "REVOKE EXECUTE ON PROCEDURE app.enter(bigint) FROM stagesub_app").await;
    factory.warm(&pool).await.unwrap();
    assert_eq!(pool.connections(), 0);
    run(&mut admin, "GRANT EXECUTE ON PROCEDURE app.enter(bigint) TO stagesub_app").await;
    factory.warm(&pool).await.unwrap();
    assert_eq!((pool.connections(), lab.backends(WARM).await), (3, 3));
    factory.close(pool).await;
}
