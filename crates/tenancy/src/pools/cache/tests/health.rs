//! What users of open pools say of their databases, and a budget that changes.

use super::*;

const BREAKER: BreakerSettings = BreakerSettings { failures: 3, open_for: Duration::from_secs(5) };

fn fixture() -> Fixture {
    Fixture::new(PoolSettings { breaker: BREAKER, ..PoolSettings::default() })
}

async fn silent(fixture: &Fixture, target: PoolTarget, times: u32) {
    for _ in 0..times {
        fixture.lease(target).await.silent();
    }
}

#[tokio::test(start_paused = true)]
async fn a_database_that_keeps_silent_trips_its_own_breaker_and_no_other() {
    for target in [dedicated(1), shared(1)] {
        let fixture = fixture();
        let others = [fixture.lease(dedicated(2)).await, fixture.lease(shared(2)).await];
        silent(&fixture, target, 3).await;
        let refused = fixture.pools.lease(target).await;
        assert!(
            matches!(refused, Err(OpenError::BreakerOpen { retry_after }) if retry_after == BREAKER.open_for)
        );
        fixture.closed(1).await;
        for other in &others {
            assert!(!fixture.lease(other.target()).await.is_closed());
        }
        assert_eq!(fixture.factory.stats().begun, 3, "the others' pools are the ones they had");

        tokio::time::advance(BREAKER.open_for).await;
        assert!(fixture.pools.lease(target).await.is_ok(), "tried again with a new pool");
        silent(&fixture, target, 2).await;
        assert!(fixture.pools.lease(target).await.is_ok(), "the count began anew");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_in_between_forgives_what_was_before() {
    let fixture = fixture();
    for _ in 0..5 {
        silent(&fixture, dedicated(1), 2).await;
        fixture.lease(dedicated(1)).await.answered();
    }
    assert_eq!(fixture.factory.stats().begun, 1);
}

#[tokio::test(start_paused = true)]
async fn late_news_of_a_pool_that_was_dropped_does_not_count_against_the_next() {
    let fixture = fixture();
    let old = fixture.lease(dedicated(1)).await;
    silent(&fixture, dedicated(1), 3).await;
    tokio::time::advance(BREAKER.open_for).await;
    let new = fixture.lease(dedicated(1)).await;
    for _ in 0..10 {
        old.silent();
    }
    assert!(!fixture.lease(dedicated(1)).await.is_closed());
    drop(old);
    fixture.closed(1).await;
    assert!(!new.is_closed());
}

#[tokio::test(start_paused = true)]
async fn a_shared_database_that_refuses_is_asked_again_at_once() {
    let fixture = fixture();
    for target in [dedicated(1), shared(2)] {
        for _ in 0..3 {
            fixture.lease(target).await.lost();
        }
    }
    assert!(matches!(fixture.pools.lease(dedicated(1)).await, Err(OpenError::BreakerOpen { .. })));
    assert!(fixture.pools.lease(shared(2)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_smaller_budget_closes_idle_pools_and_then_those_that_become_idle() {
    let fixture = Fixture::new(PoolSettings { connection_budget: 16, ..PoolSettings::default() });
    let leases = [fixture.lease(dedicated(1)).await, fixture.lease(dedicated(2)).await];
    drop(fixture.lease(dedicated(3)).await);
    drop(fixture.lease(dedicated(4)).await);
    assert_eq!(fixture.pools.stats().connections, 16);

    fixture.pools.set_connection_budget(4);
    fixture.closed(2).await;
    assert_eq!((fixture.pools.stats().connections, fixture.pools.stats().leased), (8, 2));
    drop(leases);
    fixture.pools.set_connection_budget(4);
    fixture.closed(3).await;
    assert_eq!(fixture.pools.stats().connections, 4);

    fixture.pools.set_connection_budget(16);
    for tenant in 1..=4 {
        fixture.lease(dedicated(tenant)).await;
    }
    assert_eq!(fixture.pools.stats().connections, 16);
    assert_eq!(fixture.factory.stats().max_connections, 16);
}

#[tokio::test(start_paused = true)]
async fn open_pools_of_shared_databases_can_be_reached() {
    let fixture = fixture();
    fixture.lease(shared(1)).await;
    fixture.lease(dedicated(1)).await;
    let pools: Vec<_> = fixture.pools.shared_pools().iter().map(|pool| pool.target()).collect();
    assert_eq!(pools, [shared(1)]);
}
