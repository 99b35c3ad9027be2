//! The decision beside others who change what it changes, and those who are told of it.

use std::time::Duration;

use sqlx::postgres::{PgListener, PgPoolOptions};
use stagesub_storage::registry::changes::PgChangeFeed;
use stagesub_tenancy::ChangeFeed;
use stagesub_tenancy::moves::{Decision, MoveRegistry, MoveState};
use stagesub_tests::cluster::Cluster;
use stagesub_tests::database::{connect, run};
use tokio::time::timeout;

use super::registry::{Desk, made};
use crate::tenant_tx::lab::{scalar, until};

const DEADLINE: Duration = Duration::from_mins(1);

/// Somebody has the move's row, and commits while the decision waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_move_says_when_the_decision_gets_it_is_what_counts() {
    let mut desk = Desk::new().await;
    let database: String = scalar(&mut desk.admin, "SELECT current_database()").await;
    let mut looking = connect(&Cluster::get().await.admin().with_database(&database)).await;
    for (code, change, is_made) in [
        ("ABO", "wanted = 'abort'", false),
        ("LEA", "lease_until = now() + interval '9 hours'", true),
        ("OWN", "token = token + 1", false),
    ] {
        let held = desk.fenced(code).await;
        let version: i64 = scalar(&mut desk.admin, "SELECT version FROM registry.version").await;
        let id = held.moved.id;
        run(&mut desk.admin, &format!("BEGIN; UPDATE registry.moves SET {change} WHERE id = '{id}'")).await;
        let deciding = tokio::spawn({
            let (moves, held) = (desk.moves.clone(), held.clone());
            async move { moves.decide(&held).await }
        });
        let waits = "SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND wait_event_type = 'Lock'";
        until("the decision waits", async || scalar::<i64>(&mut looking, waits).await == 1).await;
        run(&mut desk.admin, "COMMIT").await;
        let decided = deciding.await.unwrap().unwrap();
        assert_eq!(matches!(decided, Decision::Made(_)), is_made, "{change}: {decided:?}");
        let located = desk.located(held.moved.tenant).await;
        assert_eq!(located, if is_made { held.moved.decided() } else { held.moved.undecided() }, "{change}");
        let after: i64 = scalar(&mut desk.admin, "SELECT version FROM registry.version").await;
        assert_eq!(after, version + i64::from(is_made), "{change}");
        let kept =
            format!("SELECT lease_until > now() + interval '8 hours' FROM registry.moves WHERE id = '{id}'");
        assert_eq!(
            scalar::<bool>(&mut desk.admin, &kept).await,
            is_made,
            "{change}: nothing else is overwritten"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_told_of_a_decision_and_of_none_that_was_not_made() {
    let mut desk = Desk::new().await;
    let database: String = scalar(&mut desk.admin, "SELECT current_database()").await;
    let options = Cluster::get().await.admin().with_database(&database).to_connect_options();
    let pool = PgPoolOptions::new().max_connections(1).connect_lazy_with(options);
    let held = desk.fenced("GOT").await;
    let mut listener = PgListener::connect_with(&pool).await.unwrap();
    listener.listen("stagesub_registry").await.unwrap();
    run(&mut desk.admin, "UPDATE registry.directory SET epoch = epoch + 50").await;
    assert_eq!(desk.moves.decide(&held).await.unwrap(), Decision::Lost);
    run(&mut desk.admin, "UPDATE registry.directory SET epoch = epoch - 50").await;
    assert!(matches!(desk.moves.decide(&held).await.unwrap(), Decision::Made(_)));
    let version: i64 = scalar(&mut desk.admin, "SELECT version FROM registry.version").await;
    let told = timeout(DEADLINE, listener.recv()).await.expect("it is told").unwrap();
    assert_eq!(told.payload(), version.to_string(), "the first that is told is the decision that was made");
}

#[tokio::test(flavor = "multi_thread")]
async fn getting_ready_for_a_decision_decides_nothing_and_tells_nobody() {
    let mut desk = Desk::new().await;
    let held = desk.fenced("GOT").await;
    let (tenant, log) = (held.moved.tenant, desk.log(held.moved.tenant).await);
    let feed = PgChangeFeed::new(&desk.pools);
    let before = feed.current().await.unwrap();
    // The second time on the connection of the first, the third on a new one.
    for kept in [true, true, false] {
        if !kept {
            let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE application_name = 'stagesub decide' AND datname = current_database()";
            run(&mut desk.admin, cut).await;
        }
        desk.moves.get_ready(&held).await.unwrap();
        assert_eq!(desk.located(tenant).await, held.moved.undecided());
        assert_eq!(desk.moves.find(held.moved.id).await.unwrap(), Some(held.moved.clone()));
        assert_eq!((feed.current().await.unwrap(), desk.log(tenant).await), (before.clone(), log.clone()));
    }
    // Another move gets ready meanwhile: each has a connection of its own, and one stays.
    let other = desk.fenced("MAL").await;
    desk.moves.get_ready(&other).await.unwrap();
    let both = desk.deciding().await;
    assert_eq!(both.len(), 2);
    for (held, left) in [(&held, 2), (&other, 1)] {
        let decided = made(desk.moves.decide(held).await);
        assert_eq!(
            (decided.state, desk.located(decided.tenant).await),
            (MoveState::Decided, held.moved.decided())
        );
        assert_eq!(desk.log(decided.tenant).await.last().unwrap(), "system move_decide move 6 decided");
        until("those that are not needed are closed", async || desk.deciding().await.len() == left).await;
    }
    let third = desk.fenced("UME").await;
    desk.moves.get_ready(&third).await.unwrap();
    let [kept] = desk.deciding().await[..] else { panic!("the one that is there is used") };
    assert!(both.contains(&kept));
}
