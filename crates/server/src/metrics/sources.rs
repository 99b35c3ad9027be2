//! What is, read when somebody fetches it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use ::metrics::{Unit, counter, describe_counter, describe_gauge, gauge};
use stagesub_auth::{CachedAuthority, HasherStats, PasswordHasher};
use stagesub_storage::factory::LeanPoolFactory;
use stagesub_storage::pool::TenantPool;
use stagesub_tenancy::{CacheStats, CachedDirectory, Lease, PoolStats, Router};

use crate::jobs::Running;
use crate::jobs::changes::Heard;
use crate::jobs::moves::Census;
use crate::limits::Limits;

const POOLS: &str = "stagesub_pools";
const POOL_STATES: &str = "stagesub_pools_by_state";
const EVICTIONS: &str = "stagesub_pool_evictions_total";
const CONNECTIONS: &str = "stagesub_pool_connections";
const WAITING: &str = "stagesub_pool_waiting";
const HELD: &str = "stagesub_pool_turns_held";
const BUDGET: &str = "stagesub_dedicated_connection_budget";
const BUDGET_HELD: &str = "stagesub_dedicated_connections_counted";
const FAILING: &str = "stagesub_databases_failing";
const LEFT_ALONE: &str = "stagesub_databases_left_alone";
const LOOKUPS: &str = "stagesub_cache_lookups_total";
const KEPT: &str = "stagesub_cache_entries";
const HASHES: &str = "stagesub_password_hashes";
const SIGN_INS_WAITING: &str = "stagesub_sign_ins_waiting";
const REQUESTS_WAITING: &str = "stagesub_requests_waiting";
const VERSION: &str = "stagesub_change_feed_version";
const AGE: &str = "stagesub_change_feed_age_seconds";
const NODES: &str = "stagesub_nodes";
const JOBS: &str = "stagesub_job_running";
const MOVES: &str = "stagesub_moves";

/// Where the figures of the moment are.
pub struct Sources {
    pub(crate) router: Arc<Router<LeanPoolFactory>>,
    pub(crate) directory: CachedDirectory,
    pub(crate) authority: Arc<CachedAuthority>,
    pub(crate) passwords: Arc<PasswordHasher>,
    pub(crate) limits: Arc<Limits>,
    pub(crate) heard: Arc<Heard>,
    pub(crate) live: Arc<AtomicU32>,
    pub(crate) jobs: Running,
    pub(crate) moves: Arc<Census>,
}

impl std::fmt::Debug for Sources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sources").finish_non_exhaustive()
    }
}

impl Sources {
    /// Reads everything into the recorder of this thread.
    pub(super) fn read(&self) {
        self.pools();
        self.caches();
        let HasherStats { running, waiting } = self.passwords.stats();
        gauge!(HASHES, "state" => "running").set(figure(running));
        gauge!(HASHES, "state" => "waiting").set(figure(waiting));
        gauge!(SIGN_INS_WAITING).set(figure(self.limits.sign_ins_waiting()));
        gauge!(REQUESTS_WAITING).set(figure(self.limits.requests_waiting()));
        counter!(VERSION).absolute(self.heard.version().0.unsigned_abs());
        if let Some(age) = self.heard.age() {
            gauge!(AGE).set(age.as_secs_f64());
        }
        gauge!(NODES).set(f64::from(self.live.load(Ordering::Relaxed)));
        for (name, running) in self.jobs.list() {
            gauge!(JOBS, "job" => name).set(f64::from(u8::from(running)));
        }
        for (state, moves) in self.moves.counts() {
            gauge!(MOVES, "state" => state.as_str()).set(figure(moves));
        }
    }

    fn pools(&self) {
        let PoolStats {
            shared,
            dedicated,
            leased,
            opening,
            live,
            evictions,
            connections,
            budget,
            failing,
            left_alone,
        } = self.router.stats();
        gauge!(POOLS, "placement" => "shared").set(figure(shared));
        gauge!(POOLS, "placement" => "dedicated").set(figure(dedicated));
        for (state, pools) in [("opening", opening), ("leased", leased), ("live", live)] {
            gauge!(POOL_STATES, "state" => state).set(figure(pools));
        }
        counter!(EVICTIONS).absolute(evictions);
        gauge!(BUDGET).set(f64::from(budget));
        gauge!(BUDGET_HELD).set(f64::from(connections));
        gauge!(FAILING).set(figure(failing));
        gauge!(LEFT_ALONE).set(figure(left_alone));
        turns("shared", &self.router.shared_pools());
        turns("dedicated", &self.router.dedicated_pools());
    }

    fn caches(&self) {
        let [subdomain, id, placement] = self.directory.stats();
        for (cache, stats) in [subdomain, id, placement, ("authority", self.authority.stats())] {
            let CacheStats { hits, misses, kept } = stats;
            counter!(LOOKUPS, "cache" => cache, "outcome" => "hit").absolute(hits);
            counter!(LOOKUPS, "cache" => cache, "outcome" => "miss").absolute(misses);
            gauge!(KEPT, "cache" => cache).set(figure(kept));
        }
    }
}

/// What all pools of one kind have together.
fn turns(placement: &'static str, pools: &[Lease<TenantPool>]) {
    let (mut connections, mut held, mut waiting) = (0, 0, 0);
    for pool in pools {
        let turns = pool.turns();
        connections += pool.connections();
        held += u64::from(turns.held);
        waiting += turns.waiting;
    }
    gauge!(CONNECTIONS, "placement" => placement).set(figure(connections));
    gauge!(HELD, "placement" => placement).set(figure(held));
    gauge!(WAITING, "placement" => placement).set(figure(waiting));
}

/// A count as a figure.
fn figure(count: impl TryInto<u32>) -> f64 {
    f64::from(count.try_into().unwrap_or(u32::MAX))
}

pub(super) fn describe() {
    describe_gauge!(POOLS, "Pools that are kept open");
    describe_gauge!(POOL_STATES, "Dedicated pools in use, pools that are being opened, and all that exist");
    describe_counter!(EVICTIONS, "Dedicated pools that were closed for age, room, budget or a move");
    describe_gauge!(CONNECTIONS, "Connections of the pools that are kept open");
    describe_gauge!(HELD, "Turns at connections that orchestras hold");
    describe_gauge!(WAITING, "Transactions that wait for their orchestra's turn");
    describe_gauge!(BUDGET, "Connections that this node may hold to dedicated databases");
    describe_gauge!(BUDGET_HELD, "Those of them that its pools count for");
    describe_gauge!(FAILING, "Databases that failed when they were last asked");
    describe_gauge!(LEFT_ALONE, "Those of them whose breaker is open");
    describe_counter!(LOOKUPS, "Look-ups that a cache answered, or began");
    describe_gauge!(KEPT, "Answers that a cache keeps");
    describe_gauge!(HASHES, "Password hashes that are computed, or wait");
    describe_gauge!(SIGN_INS_WAITING, "Sign-ins that wait for their address's turn");
    describe_gauge!(REQUESTS_WAITING, "Requests that wait for others of their orchestra");
    describe_counter!(VERSION, "The registry's version that this node's caches are true for");
    describe_gauge!(AGE, Unit::Seconds, "Since the registry was last heard of");
    describe_gauge!(NODES, "Nodes that live, as this one was last told");
    describe_gauge!(JOBS, "Whether a background job runs");
    describe_gauge!(
        MOVES,
        "Moves that have not ended by their state, on all nodes; counted every 10 seconds"
    );
}
