use std::time::Duration;

use tokio::task::JoinHandle;
use uuid::Uuid;

use super::*;
use crate::placement::{DatabaseId, PlacementEpoch};
use crate::pools::settings::BreakerSettings;
use crate::tenant::TenantId;
use crate::testing::{InMemoryPool, InMemoryPoolFactory};

mod health;

type Opened = Result<Lease<InMemoryPool>, OpenError>;

struct Fixture {
    pools: PoolCache<InMemoryPoolFactory>,
    factory: Arc<InMemoryPoolFactory>,
}

impl Fixture {
    /// Pools of 4 connections.
    fn new(settings: PoolSettings) -> Self {
        let factory = Arc::new(InMemoryPoolFactory::new(4));
        Self { pools: PoolCache::new(Arc::clone(&factory), settings), factory }
    }

    async fn lease(&self, target: PoolTarget) -> Lease<InMemoryPool> {
        self.pools.lease(target).await.expect("leased")
    }

    /// Starts a caller and lets it run as far as it can.
    async fn ask(&self, target: PoolTarget) -> JoinHandle<Opened> {
        let pools = self.pools.clone();
        let asking = tokio::spawn(async move { pools.lease(target).await });
        settle().await;
        asking
    }

    /// Returns when nothing that was given up is still open.
    async fn closed(&self, pools: u64) {
        self.factory.wait_until(|stats| stats.closed == pools).await;
        settle().await;
    }
}

/// Lets every task run until it waits: the tests' runtime has one thread.
async fn settle() {
    for _ in 0..32 {
        tokio::task::yield_now().await;
    }
}

fn at_epoch(tenant: u128, epoch: i64) -> PoolTarget {
    PoolTarget::Dedicated {
        tenant: TenantId::from_uuid(Uuid::from_u128(tenant)),
        database: DatabaseId::from_uuid(Uuid::from_u128(tenant)),
        epoch: PlacementEpoch(epoch),
    }
}

fn dedicated(tenant: u128) -> PoolTarget {
    at_epoch(tenant, 1)
}

fn shared(database: u128) -> PoolTarget {
    PoolTarget::Shared(DatabaseId::from_uuid(Uuid::from_u128(database)))
}

fn capacity(capacity: usize) -> PoolSettings {
    PoolSettings { capacity, ..PoolSettings::default() }
}

#[tokio::test(start_paused = true)]
async fn pool_is_opened_once_and_lent_many_times() {
    let fixture = Fixture::new(PoolSettings::default());
    for target in [dedicated(1), shared(1)] {
        let first = fixture.lease(target).await;
        let second = fixture.lease(target).await;
        assert_eq!((first.target(), second.target()), (target, target));
    }
    assert_eq!(fixture.factory.stats().opened, 2);
}

#[tokio::test(start_paused = true)]
async fn cold_callers_share_one_opening() {
    let fixture = Fixture::new(PoolSettings::default());
    fixture.factory.hold_opens(true);
    let asking =
        [fixture.ask(dedicated(1)).await, fixture.ask(dedicated(1)).await, fixture.ask(dedicated(1)).await];
    assert_eq!(fixture.pools.stats().opening, 1);
    fixture.factory.hold_opens(false);
    for asking in asking {
        assert!(asking.await.expect("ran").is_ok());
    }
    assert_eq!(fixture.factory.stats().begun, 1);
    assert_eq!(fixture.pools.stats().leased, 0);
}

#[tokio::test(start_paused = true)]
async fn caller_who_gives_up_strands_nobody() {
    let fixture = Fixture::new(PoolSettings::default());
    fixture.factory.hold_opens(true);
    let opener = fixture.ask(dedicated(1)).await;
    let waiter = fixture.ask(dedicated(1)).await;
    opener.abort();
    settle().await;
    fixture.factory.hold_opens(false);
    assert!(!waiter.await.expect("ran").expect("leased").is_closed());
    assert_eq!(fixture.factory.stats().begun, 1);
}

#[tokio::test(start_paused = true)]
async fn opening_that_all_callers_gave_up_is_kept_for_the_next() {
    let fixture = Fixture::new(PoolSettings::default());
    fixture.factory.hold_opens(true);
    fixture.ask(dedicated(1)).await.abort();
    settle().await;
    fixture.factory.hold_opens(false);
    fixture.factory.wait_until(|stats| stats.opened == 1).await;
    settle().await;
    assert_eq!(fixture.pools.stats().leased, 0);
    let _lease = fixture.lease(dedicated(1)).await;
    assert_eq!(fixture.factory.stats().begun, 1);
}

#[tokio::test(start_paused = true)]
async fn evicted_pool_stays_open_while_leased() {
    let fixture = Fixture::new(capacity(1));
    let first = fixture.lease(dedicated(1)).await;
    let clone = first.clone();
    let _second = fixture.lease(dedicated(2)).await;
    assert_eq!((fixture.pools.stats().dedicated, fixture.pools.stats().evictions), (1, 1));
    drop(first);
    settle().await;
    assert!(!clone.is_closed());
    let closed = clone.closed();
    drop(clone);
    fixture.closed(1).await;
    assert!(closed.load(std::sync::atomic::Ordering::SeqCst));
}

#[tokio::test(start_paused = true)]
async fn least_recently_used_idle_pool_makes_room() {
    let fixture = Fixture::new(capacity(3));
    let busy = fixture.lease(dedicated(1)).await;
    let idle = fixture.lease(dedicated(2)).await.closed();
    drop(fixture.lease(dedicated(3)).await);
    drop(fixture.lease(dedicated(4)).await);
    fixture.closed(1).await;
    assert!(!busy.is_closed(), "older, but in use");
    assert!(idle.load(std::sync::atomic::Ordering::SeqCst));
    drop(fixture.lease(dedicated(3)).await);
    drop(fixture.lease(dedicated(5)).await);
    fixture.closed(2).await;
    drop(fixture.lease(dedicated(3)).await);
    assert_eq!(fixture.factory.stats().opened, 5, "the third was used last and stayed");
}

#[tokio::test(start_paused = true)]
async fn capacity_of_none_closes_each_pool_with_its_last_lease() {
    let fixture = Fixture::new(capacity(0));
    let lease = fixture.lease(dedicated(1)).await;
    assert!(!lease.is_closed());
    drop(lease);
    fixture.closed(1).await;
}

#[tokio::test(start_paused = true)]
async fn pool_is_replaced_by_age_since_opening_however_much_it_is_used() {
    let settings =
        PoolSettings { ttl: Duration::from_mins(1), connection_budget: 8, ..PoolSettings::default() };
    let fixture = Fixture::new(settings);
    let old = fixture.lease(dedicated(1)).await;
    tokio::time::advance(Duration::from_secs(59)).await;
    drop(fixture.lease(dedicated(1)).await);
    assert_eq!(fixture.factory.stats().opened, 1);
    tokio::time::advance(Duration::from_secs(1)).await;
    let new = fixture.lease(dedicated(1)).await;
    assert_eq!(fixture.factory.stats().opened, 2);
    assert!(!old.is_closed() && !new.is_closed());
    drop(old);
    fixture.closed(1).await;
}

#[tokio::test(start_paused = true)]
async fn aged_pool_gives_its_connections_to_the_one_that_replaces_it() {
    let settings =
        PoolSettings { ttl: Duration::from_mins(1), connection_budget: 4, ..PoolSettings::default() };
    let fixture = Fixture::new(settings);
    drop(fixture.lease(dedicated(1)).await);
    tokio::time::advance(Duration::from_mins(1)).await;
    let asked_at = Instant::now();
    let _new = fixture.lease(dedicated(1)).await;
    assert_eq!(asked_at.elapsed(), Duration::ZERO);
    assert_eq!(fixture.factory.stats().max_connections, 4);
}

#[tokio::test(start_paused = true)]
async fn pools_that_nobody_asks_for_close_when_they_are_too_old() {
    let fixture = Fixture::new(PoolSettings { ttl: Duration::from_mins(1), ..PoolSettings::default() });
    drop(fixture.lease(dedicated(1)).await);
    drop(fixture.lease(shared(9)).await);
    tokio::time::advance(Duration::from_secs(30)).await;
    drop(fixture.lease(dedicated(2)).await);
    tokio::time::advance(Duration::from_secs(30)).await;
    fixture.pools.evict_expired();
    fixture.closed(1).await;
    let stats = fixture.pools.stats();
    assert_eq!((stats.dedicated, stats.shared, stats.live), (1, 1, 2));
}

#[tokio::test(start_paused = true)]
async fn newer_epoch_drops_the_older_pool_and_never_the_other_way_round() {
    let fixture = Fixture::new(PoolSettings::default());
    let before = fixture.lease(at_epoch(1, 1)).await;
    let after = fixture.lease(at_epoch(1, 2)).await;
    assert_eq!(fixture.pools.stats().dedicated, 1);
    assert!(!before.is_closed());
    drop(before);
    fixture.closed(1).await;
    // A node's stale answer: served by a pool of its own, which is not kept.
    let stale = fixture.lease(at_epoch(1, 1)).await;
    drop(stale);
    fixture.closed(2).await;
    drop(after);
    drop(fixture.lease(at_epoch(1, 2)).await);
    assert_eq!((fixture.factory.stats().opened, fixture.factory.stats().closed), (3, 2));
}

#[tokio::test(start_paused = true)]
async fn failure_reaches_every_waiter_and_is_not_remembered() {
    let fixture = Fixture::new(PoolSettings::default());
    fixture.factory.set_failing(dedicated(1).database(), true);
    fixture.factory.hold_opens(true);
    let asking = [fixture.ask(dedicated(1)).await, fixture.ask(dedicated(1)).await];
    fixture.factory.hold_opens(false);
    for asking in asking {
        let error = asking.await.expect("ran").expect_err("fails");
        assert!(matches!(error.root(), OpenError::Unavailable(_)), "{error:?}");
    }
    assert_eq!(fixture.factory.stats().begun, 1);
    fixture.factory.set_failing(dedicated(1).database(), false);
    assert!(fixture.pools.lease(dedicated(1)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn breaker_leaves_a_dead_database_alone_and_its_neighbours_untouched() {
    let breaker = BreakerSettings { failures: 2, open_for: Duration::from_secs(5) };
    let fixture = Fixture::new(PoolSettings { breaker, ..PoolSettings::default() });
    fixture.factory.set_failing(dedicated(1).database(), true);
    for _ in 0..2 {
        assert!(matches!(fixture.pools.lease(dedicated(1)).await, Err(OpenError::Unavailable(_))));
    }
    let refused = fixture.pools.lease(dedicated(1)).await;
    assert!(
        matches!(refused, Err(OpenError::BreakerOpen { retry_after }) if retry_after == breaker.open_for)
    );
    assert_eq!(fixture.factory.stats().begun, 2);
    assert!(fixture.pools.lease(dedicated(2)).await.is_ok());

    fixture.factory.set_failing(dedicated(1).database(), false);
    tokio::time::advance(breaker.open_for).await;
    assert!(fixture.pools.lease(dedicated(1)).await.is_ok());
}

/// Of a registry that is away nothing is known of the databases that it names.
#[tokio::test(start_paused = true)]
async fn a_login_that_is_not_to_be_had_is_no_failure_of_its_database() {
    let breaker = BreakerSettings { failures: 2, open_for: Duration::from_secs(5) };
    let fixture = Fixture::new(PoolSettings { breaker, ..PoolSettings::default() });
    fixture.factory.set_unknown(dedicated(1).database(), true);
    for _ in 0..4 {
        assert!(matches!(fixture.pools.lease(dedicated(1)).await, Err(OpenError::Login(_))));
    }
    assert_eq!(fixture.pools.stats().failing, 0);
    fixture.factory.set_unknown(dedicated(1).database(), false);
    assert!(fixture.pools.lease(dedicated(1)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_failure_of_a_database_that_nobody_asks_for_is_forgotten() {
    let fixture = Fixture::new(PoolSettings::default());
    fixture.factory.set_failing(dedicated(1).database(), true);
    assert!(fixture.pools.lease(dedicated(1)).await.is_err());
    fixture.pools.evict_expired();
    assert_eq!(fixture.pools.stats().failing, 1);
    tokio::time::advance(Duration::from_hours(1)).await;
    fixture.pools.evict_expired();
    assert_eq!(fixture.pools.stats().failing, 0);
}

#[tokio::test(start_paused = true)]
async fn opening_is_bounded_in_time_and_gives_its_connections_back() {
    let fixture =
        Fixture::new(PoolSettings { open_timeout: Duration::from_secs(3), ..PoolSettings::default() });
    fixture.factory.hold_opens(true);
    let asked_at = Instant::now();
    assert!(matches!(fixture.pools.lease(dedicated(1)).await, Err(OpenError::Unavailable(_))));
    assert_eq!(asked_at.elapsed(), Duration::from_secs(3));
    settle().await;
    assert_eq!((fixture.pools.stats().connections, fixture.factory.stats().connections), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn short_budget_evicts_idle_pools_before_it_waits() {
    let fixture = Fixture::new(PoolSettings { connection_budget: 8, ..PoolSettings::default() });
    let busy = fixture.lease(dedicated(1)).await;
    drop(fixture.lease(dedicated(2)).await);
    let asked_at = Instant::now();
    let _third = fixture.lease(dedicated(3)).await;
    assert_eq!(asked_at.elapsed(), Duration::ZERO);
    assert!(!busy.is_closed());
    assert_eq!((fixture.factory.stats().max_connections, fixture.factory.stats().closed), (8, 1));
}

#[tokio::test(start_paused = true)]
async fn what_is_opened_ahead_closes_nobodys_pool() {
    for settings in [capacity(2), PoolSettings { connection_budget: 8, ..PoolSettings::default() }] {
        let fixture = Fixture::new(settings);
        drop(fixture.lease(dedicated(1)).await);
        for _ in 0..2 {
            fixture.pools.open_ahead(dedicated(2)).await.expect("there is room");
        }
        fixture.pools.open_ahead(dedicated(3)).await.expect("nothing is wrong where there is none");
        let stats = fixture.factory.stats();
        assert_eq!((stats.begun, stats.warmed, stats.closed), (2, 2, 0));
        // It was used by nobody for that: it is the first to go once somebody uses another.
        drop(fixture.lease(dedicated(1)).await);
        fixture.pools.open_ahead(dedicated(2)).await.expect("it is open");
        drop(fixture.lease(dedicated(3)).await);
        fixture.closed(1).await;
        drop(fixture.lease(dedicated(1)).await);
        assert_eq!(fixture.factory.stats().begun, 3, "the other stayed");
        fixture.pools.open_ahead(shared(9)).await.expect("shared databases are outside the budget");
        assert_eq!(fixture.factory.stats().begun, 4);
    }
}

#[tokio::test(start_paused = true)]
async fn connections_count_until_closing_has_returned() {
    let fixture = Fixture::new(PoolSettings { connection_budget: 4, ..PoolSettings::default() });
    drop(fixture.lease(dedicated(1)).await);
    fixture.factory.hold_closes(true);
    let asking = fixture.ask(dedicated(2)).await;
    assert_eq!(fixture.factory.stats().begun, 1, "waits for the first one's closing");
    fixture.factory.hold_closes(false);
    assert!(asking.await.expect("ran").is_ok());
    assert_eq!(fixture.factory.stats().max_connections, 4);
}

#[tokio::test(start_paused = true)]
async fn opening_that_waits_for_the_budget_gets_the_next_idle_pools_connections() {
    let fixture = Fixture::new(PoolSettings { connection_budget: 4, ..PoolSettings::default() });
    let busy = fixture.lease(dedicated(1)).await;
    let asking = fixture.ask(dedicated(2)).await;
    assert_eq!(fixture.factory.stats().begun, 1);
    drop(busy);
    assert!(asking.await.expect("ran").is_ok());
    assert_eq!(fixture.factory.stats().max_connections, 4);
}

#[tokio::test(start_paused = true)]
async fn wait_for_the_budget_is_bounded() {
    let settings =
        PoolSettings { connection_budget: 7, budget_wait: Duration::from_secs(2), ..PoolSettings::default() };
    let fixture = Fixture::new(settings);
    let _busy = fixture.lease(dedicated(1)).await;
    let asked_at = Instant::now();
    let refused = fixture.pools.lease(dedicated(2)).await;
    assert!(matches!(refused, Err(OpenError::BudgetExhausted { budget: 7 })));
    assert_eq!(asked_at.elapsed(), Duration::from_secs(2));
    assert!(fixture.pools.lease(shared(9)).await.is_ok(), "shared databases are outside the budget");
}

#[tokio::test(start_paused = true)]
async fn pool_larger_than_the_budget_is_refused_at_once() {
    let fixture = Fixture::new(PoolSettings { connection_budget: 3, ..PoolSettings::default() });
    let asked_at = Instant::now();
    assert!(matches!(fixture.pools.lease(dedicated(1)).await, Err(OpenError::BudgetExhausted { budget: 3 })));
    assert_eq!(asked_at.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn shutdown_waits_for_leases_and_refuses_new_ones() {
    let fixture = Fixture::new(PoolSettings::default());
    let lease = fixture.lease(dedicated(1)).await;
    drop(fixture.lease(shared(9)).await);
    let pools = fixture.pools.clone();
    let stopping = tokio::spawn(async move { pools.shutdown().await });
    fixture.closed(1).await;
    assert!(!lease.is_closed() && !stopping.is_finished());
    assert!(matches!(fixture.pools.lease(dedicated(2)).await, Err(OpenError::ShutDown)));
    drop(lease);
    stopping.await.expect("stopped");
    assert_eq!((fixture.factory.stats().closed, fixture.pools.stats().live), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn opening_that_began_before_the_shutdown_is_closed_by_it() {
    let fixture = Fixture::new(PoolSettings::default());
    fixture.factory.hold_opens(true);
    let asking = fixture.ask(dedicated(1)).await;
    let pools = fixture.pools.clone();
    let stopping = tokio::spawn(async move { pools.shutdown().await });
    settle().await;
    fixture.factory.hold_opens(false);
    assert!(matches!(asking.await.expect("ran"), Err(OpenError::ShutDown)));
    stopping.await.expect("stopped");
    assert_eq!(fixture.factory.stats().connections, 0);
}

/// The main promise: 200 tenants through 50 slots, by many tasks on several threads at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_hundred_tenants_cycle_through_fifty_slots_and_none_meets_a_closed_pool() {
    const TASKS: u128 = 32;
    const ROUNDS: u128 = 200;
    let settings = PoolSettings {
        connection_budget: 200,
        // The clock runs in this test; nothing in it may hang on how fast the machine is.
        budget_wait: Duration::from_mins(10),
        open_timeout: Duration::from_mins(10),
        ..capacity(50)
    };
    let fixture = Fixture::new(settings);
    let tasks = (0..TASKS).map(|task| {
        let pools = fixture.pools.clone();
        tokio::spawn(async move {
            let mut held = None;
            for round in 0..ROUNDS {
                let tenant = (task * 97 + round * 31) % 200;
                let lease = pools.lease(dedicated(tenant)).await.expect("leased");
                assert_eq!(lease.target(), dedicated(tenant));
                tokio::task::yield_now().await;
                assert!(!lease.is_closed());
                // Some leases outlive the next opening, as a long query does.
                if round % 5 == 0 {
                    held = Some(lease);
                } else if let Some(earlier) = held.take_if(|_| round % 5 == 3) {
                    assert!(!earlier.is_closed());
                }
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.expect("no closed pool was met");
    }
    let stats = fixture.pools.stats();
    assert!(stats.dedicated <= 50 && stats.leased == 0, "{stats:?}");
    assert!(stats.evictions > 150, "{stats:?}");
    fixture.pools.shutdown().await;
    let done = fixture.factory.stats();
    assert!(done.max_connections <= 200, "{done:?}");
    assert_eq!((done.connections, done.opened), (0, done.closed));
}
