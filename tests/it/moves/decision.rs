//! The decision beside others who change what it changes, and those who are told of it.

use std::time::Duration;

use sqlx::postgres::{PgListener, PgPoolOptions};
use stagesub_tenancy::moves::{Decision, MoveRegistry};
use stagesub_tests::cluster::Cluster;
use stagesub_tests::database::{connect, run};
use tokio::time::timeout;

use super::registry::Desk;
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
