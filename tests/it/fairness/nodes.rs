//! Nodes that come, go, die and come back share what there is, and never take more.

use std::num::NonZeroU32;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use sqlx::PgConnection;
use stagesub_domain::page::Page;
use stagesub_domain::ports::instruments::InstrumentFilter;
use stagesub_domain::ports::{UnitOfWork, Units};
use stagesub_server::config::{PoolShares, PoolSizes};
use stagesub_server::jobs::nodes::once;
use stagesub_server::wiring::Platform;
use stagesub_tenancy::nodes::{Membership, Others, Uses};
use stagesub_tenancy::{Access, NodeId, TenantScope};
use stagesub_tests::database::connect;
use stagesub_tests::{Kept, TestPlatform};
use uuid::Uuid;

use super::shared_pool;
use crate::tenant_tx::lab::until;

#[tokio::test(flavor = "multi_thread")]
async fn nodes_count_those_who_live_and_what_they_use_and_forget_those_who_do_not() {
    let platform = TestPlatform::start_without_jobs().await;
    let nodes = platform.wired().nodes();
    let lease = Duration::from_hours(1);
    let [first, second, large] = [(); 3].map(|()| NodeId::from_uuid(Uuid::now_v7()));
    let much = Uses { shared: 11, dedicated: 150 };
    assert_eq!(nodes.beat(large, lease, much).await.unwrap(), Others::default());
    let uses = Uses { shared: 1, dedicated: 2 };
    let beat = async |node| nodes.beat(node, lease, uses).await.unwrap();
    let beside = |others: u32| Others {
        nodes: others + 1,
        uses: Uses { shared: much.shared + others, dedicated: much.dedicated + 2 * others },
    };
    assert_eq!((beat(first).await, beat(second).await, beat(first).await), (beside(0), beside(1), beside(1)));
    nodes.leave(second).await.unwrap();
    assert_eq!(beat(first).await, beside(0));

    assert_eq!(beat(second).await, beside(1));
    let mut registry = connect(platform.registry()).await;
    let late = "UPDATE registry.nodes SET seen_at = seen_at - $1::text::interval WHERE id = $2";
    for (late_by, counted, rows) in [("61 minutes", 0, 3), ("40 hours", 0, 2)] {
        sqlx::query(late).bind(late_by).bind(second.as_uuid()).execute(&mut registry).await.unwrap();
        assert_eq!(beat(first).await, beside(counted), "{late_by}");
        assert_eq!(platform.count_in_registry("registry.nodes").await, rows, "{late_by}");
    }
    assert_eq!(beat(second).await, beside(1), "it was only late");
}

#[tokio::test(flavor = "multi_thread")]
async fn open_pools_are_fitted_to_a_nodes_part() {
    let platform = TestPlatform::start_without_jobs().await;
    let ours = platform.orchestra(Kept::Shared, "ours").await;
    let scope = platform.scope(&ours).await;
    let pool = shared_pool(&platform);
    let fleet = platform.wired().fleet();
    let fit = async |shared| fleet.fit(Uses { shared, dedicated: 3 }).await;
    fit(11).await;
    let units = join_all((0..3).map(|_| platform.state().units.begin(&scope, Access::Read))).await;
    assert_eq!((pool.turns().held, pool.turns().permits), (3, 10));

    fit(3).await;
    assert_eq!((pool.turns().held, pool.turns().permits), (3, 2), "nobody's connection is taken away");
    assert_eq!(fleet.uses().shared, 4, "three, and the one that cancels statements");
    for unit in units {
        read(unit.unwrap()).await;
    }
    until("what was lent is back", async || pool.turns().held == 0).await;
    fit(3).await;
    assert!(pool.connections() <= 2, "{pool:?}");
    let unit = platform.state().units.begin(&scope, Access::Read).await.unwrap();
    let mut another = pin!(platform.state().units.begin(&scope, Access::Read));
    assert!(futures::poll!(another.as_mut()).is_pending());
    until("one of two is what one may hold", async || (pool.turns().held, pool.turns().waiting) == (1, 1))
        .await;
    drop(unit);
    drop(another.await.unwrap());
    fit(11).await;
    assert_eq!(pool.turns().permits, 10);
}

async fn read(mut unit: Box<dyn UnitOfWork>) {
    unit.instruments().list(&InstrumentFilter::default(), Page::first()).await.unwrap();
    unit.commit().await.unwrap();
}

/// What there may be of all nodes: less than three of them would take.
const TOTAL: Uses = Uses { shared: 20, dedicated: 24 };
const SIZES: PoolSizes = PoolSizes { shared: 10, dedicated: 2, dedicated_pools: 7 };

/// A node whose beats are the test's.
struct Node {
    wired: Platform,
    units: Units,
    member: Membership,
}

impl Node {
    async fn start(platform: &TestPlatform) -> Self {
        let shares = PoolShares { tenant_percent: 100, shared: TOTAL.shared, dedicated: TOTAL.dedicated };
        let (wired, units) = platform.node_without_jobs(SIZES, shares).await;
        let member = wired.membership();
        wired.fleet().fit(member.granted()).await;
        Self { wired, units, member }
    }

    async fn beat(&mut self) -> Uses {
        once(&mut self.member, &self.wired.fleet()).await.unwrap().uses
    }

    /// Takes as many transactions as it gets on each of these, and holds them.
    async fn load(&self, scopes: &[TenantScope], each: usize) -> Vec<Box<dyn UnitOfWork>> {
        let asked = scopes.iter().flat_map(|scope| (0..each).map(move |_| scope.clone())).map(|scope| {
            let units = Arc::clone(&self.units);
            tokio::spawn(async move { units.begin(&scope, Access::Read).await.ok() })
        });
        join_all(asked).await.into_iter().filter_map(Result::unwrap).collect()
    }
}

/// The application's connections to the shared database, and to dedicated ones.
async fn present(registry: &mut PgConnection, shared: &str, dedicated: &[String]) -> Uses {
    let count = "SELECT count(*) FROM pg_stat_activity WHERE datname = ANY($1) AND usename = 'stagesub_app'";
    let mut counts = Vec::new();
    for databases in [&[shared.to_owned()][..], dedicated] {
        let present: i64 = sqlx::query_scalar(count).bind(databases).fetch_one(&mut *registry).await.unwrap();
        counts.push(u32::try_from(present).unwrap());
    }
    Uses { shared: counts[0], dedicated: counts[1] }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_that_come_die_and_come_back_stay_within_what_there_is() {
    let platform = TestPlatform::start_without_jobs().await;
    let ours = platform.orchestra(Kept::Shared, "ours").await;
    let mut scopes = vec![platform.scope(&ours).await];
    let shared = platform.database_of(&ours).await;
    let mut dedicated = Vec::new();
    for n in 0..6 {
        let own = platform.orchestra(Kept::Dedicated, &format!("own{n}")).await;
        scopes.push(platform.scope(&own).await);
        dedicated.push(platform.database_of(&own).await);
    }
    platform.close_pools().await;
    let mut registry = connect(platform.registry()).await;
    until("only the nodes are left", async || {
        present(&mut connect(platform.registry()).await, &shared, &dedicated).await == Uses::default()
    })
    .await;
    let mut peak = Uses::default();
    let mut sample = async |when: &str| {
        let now = present(&mut registry, &shared, &dedicated).await;
        assert!(now.shared <= TOTAL.shared && now.dedicated <= TOTAL.dedicated, "{when}: {now:?}");
        peak = Uses { shared: peak.shared.max(now.shared), dedicated: peak.dedicated.max(now.dedicated) };
        now
    };
    let (of_shared, of_dedicated) = (&scopes[..1], &scopes[1..]);

    // The first takes all that one may, and is busy with it.
    let mut first = Node::start(&platform).await;
    assert_eq!(first.beat().await, Uses { shared: 11, dedicated: 21 });
    let mut busy = first.load(of_shared, 10).await;
    busy.extend(first.load(of_dedicated, 2).await);
    assert_eq!(busy.len(), 10 + 12);
    sample("one node").await;

    // The second comes. What it gets fits beside what the first has.
    let mut second = Node::start(&platform).await;
    assert_eq!(second.beat().await, Uses { shared: 6, dedicated: 3 });
    let mut busy_too = second.load(of_shared, 5).await;
    sample("a second node").await;
    assert_eq!(first.beat().await, Uses { shared: 8, dedicated: 10 }, "it is to use less");
    sample("the first has heard").await;
    assert_eq!(second.beat().await, Uses { shared: 6, dedicated: 3 }, "which it cannot while it is busy");
    for unit in busy.drain(..) {
        read(unit).await;
    }
    until("the second has what the first gave up", async || {
        first.beat().await;
        sample("the first gives up").await;
        second.beat().await == Uses { shared: 8, dedicated: 10 }
    })
    .await;
    busy.extend(first.load(of_shared, 10).await);
    busy_too.extend(second.load(of_shared, 2).await);
    busy_too.extend(second.load(&of_dedicated[..3], 2).await);
    busy.extend(first.load(&of_dedicated[3..], 2).await);
    sample("two nodes").await;

    // The third comes, and the second dies with what it has.
    let mut third = Node::start(&platform).await;
    third.beat().await;
    let busy_third = third.load(of_shared, 10).await;
    sample("a third node").await;
    first.beat().await;
    third.beat().await;
    sample("the third has part of the first's").await;
    drop(busy_too);
    second.wired.close(Duration::from_secs(10)).await;
    let id = second.member.node();
    assert_eq!(first.beat().await.shared, 5, "nobody knows yet that it is dead");
    let died = "UPDATE registry.nodes SET seen_at = seen_at - interval '21 seconds' WHERE id = $1";
    sqlx::query(died).bind(id.as_uuid()).execute(&mut connect(platform.registry()).await).await.unwrap();
    for unit in busy.drain(..).chain(busy_third) {
        read(unit).await;
    }
    until("those who live have its part", async || {
        let parts = [first.beat().await, third.beat().await];
        sample("after a death").await;
        parts == [Uses { shared: 8, dedicated: 10 }; 2]
    })
    .await;
    busy.extend(first.load(of_shared, 10).await);
    let _busy_third = third.load(of_shared, 10).await;
    let now = sample("two are left").await;
    assert!(now.shared >= 14, "and use it: {now:?}");

    // One that ends in order leaves its part at once.
    drop(busy);
    first.wired.fleet().end().await;
    first.member.leave().await.unwrap();
    first.wired.close(Duration::from_secs(10)).await;
    until("the last has all", async || third.beat().await == Uses { shared: 11, dedicated: 21 }).await;
    sample("one is left").await;
    assert!(peak.shared >= 16 && peak.dedicated >= 12, "they did use it: {peak:?}");
    assert_eq!(third.wired.fleet().sharing().part(NonZeroU32::MIN), Uses { shared: 11, dedicated: 21 });
}
