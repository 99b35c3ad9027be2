//! Owners that go away in the middle, by the thousand: nothing of them may reach the next. Alone, with backends
//! killed under them, and with PostgreSQL restarted under them: 20,000 rounds. And without the clean-up, to see
//! that the storm would notice.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand::SeedableRng;
use rand::rngs::StdRng;
use stagesub_storage::pool::TenantPoolSettings;
use stagesub_tenancy::Access;
use stagesub_tests::canary::Canary;
use stagesub_tests::cluster::Cluster;
use stagesub_tests::data_path::Db;
use stagesub_tests::database::{connect, run};
use stagesub_tests::storm::{Guest, Seen, Storm, Weather};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::lab::{Lab, scalar, until};

const TASKS: u64 = 8;
/// Instruments of each tenant.
const ROWS: i64 = 20;
/// Longest that a server may take to come back.
const DEADLINE: Duration = Duration::from_mins(1);

const ALONE: u64 = 4_000;
const KILLED: u64 = 4_000;
const RESTARTED: u64 = 2_000;
const CONTROL: u64 = 500;

/// A size of pool, with waits that outlive a restart and locks that nobody waits long for.
fn pools(connections: u32) -> TenantPoolSettings {
    TenantPoolSettings {
        max_connections: connections,
        wait: Duration::from_secs(30),
        share: 100,
        ..TenantPoolSettings::default()
    }
}

/// Both tenants, each with its rows.
async fn guests(lab: &Lab) -> Vec<Guest> {
    let [ours, theirs] = &lab.scopes;
    let mut admin = connect(&lab.admin).await;
    let mut guests = Vec::new();
    for (n, scope, other) in [(1, ours, theirs), (2, theirs, ours)] {
        let (tenant, canary) = (scope.tenant_id(), Canary::new(n));
        let rows = format!(
            "INSERT INTO tenant.instrument (tenant_id, no, name, created_at, updated_at)
            SELECT '{tenant}', no, '{canary} ' || no, now(), now() FROM generate_series(1, {ROWS}) AS no"
        );
        run(&mut admin, &rows).await;
        guests.push(Guest { scope: scope.clone(), canary, rows: ROWS, other: other.tenant_id() });
    }
    guests
}

async fn storm(lab: &Lab, db: Db, weather: Weather) -> Arc<Storm> {
    let storm = Storm::new(db, guests(lab).await, weather);
    storm.look().await;
    Arc::new(storm)
}

/// So many rounds by all tasks together, each third followed by a probe. A round that could not begin for the
/// weather is not counted, and tried again when a tick has passed. Tells others how far it is.
async fn rage(storm: &Arc<Storm>, rounds: u64, progress: &watch::Sender<u64>) {
    let done = Arc::new(AtomicU64::new(0));
    let tasks = (0..TASKS).map(|seed| {
        let (storm, done, progress) = (Arc::clone(storm), Arc::clone(&done), progress.clone());
        tokio::spawn(async move {
            let mut random = StdRng::seed_from_u64(seed);
            let mut tick = interval(Duration::from_millis(5));
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while done.load(Ordering::Relaxed) < rounds {
                if !storm.round(&mut random).await {
                    tick.tick().await;
                    continue;
                }
                let round = done.fetch_add(1, Ordering::Relaxed) + 1;
                progress.send_modify(|most| *most = round.max(*most));
                if round % 3 == 0 {
                    storm.probe(storm.guest(&mut random)).await;
                }
            }
        })
    });
    for task in futures::future::join_all(tasks).await {
        task.expect("no task fails");
    }
}

/// As many connections as ever can be had at once, no more exist, and nothing of the storm is left.
async fn everything_is_back(lab: &Lab, storm: &Storm, connections: u32) {
    let mut held = Vec::new();
    for _ in 0..connections {
        let tx = storm.db.begin(&storm.guests[0].scope, Access::Write).await;
        held.push(tx.expect("as many connections as ever can be had"));
    }
    // The control connection that cancels statements is outside the pool.
    let most = i64::from(connections) + 1;
    let backends = lab.backends("true").await;
    assert!(backends <= most, "{backends} backends of a pool of {connections}");
    for tx in held {
        tx.commit().await.unwrap();
    }
    lab.until_backends("state <> 'idle'", 0).await;
    let locks = "SELECT count(*) FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
                 WHERE a.datname = current_database() AND a.usename = 'stagesub_app'";
    until("no lock is left", async || scalar::<i64>(&mut connect(&lab.admin).await, locks).await == 0).await;
    for guest in &storm.guests {
        storm.probe(guest).await;
    }
    storm.seen.assert_clean();
}

fn assert_raged(storm: &Storm, rounds: u64) {
    let seen = &storm.seen;
    println!("{seen:?}");
    for (what, count, least) in [
        ("cancelled", &seen.cancelled, rounds / 4),
        ("panics", &seen.panics, rounds / 100),
        ("committed", &seen.committed, rounds / 100),
        ("probes", &seen.probes, rounds / 4),
        ("glances", &seen.glances, rounds / 4),
        ("stumbles", &seen.stumbles, rounds / 36),
        ("jots", &seen.jots, rounds / 32),
        ("rows", &seen.rows, rounds),
    ] {
        assert!(Seen::of(count) > least, "{what}: {} in {rounds} rounds", Seen::of(count));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_of_a_cancelled_transaction_reaches_the_next() {
    for connections in [1, 4] {
        let lab = Lab::start_with(pools(connections)).await;
        let storm = storm(&lab, Db::Sound(lab.tenants()), Weather::Calm).await;
        rage(&storm, ALONE, &watch::Sender::new(0)).await;
        assert_raged(&storm, ALONE);
        assert_eq!(Seen::of(&storm.seen.lost), 0, "no connection was lost");
        everything_is_back(&lab, &storm, connections).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_of_a_killed_backend_reaches_the_next() {
    for connections in [1, 4] {
        let lab = Lab::start_with(pools(connections)).await;
        let storm = storm(&lab, Db::Sound(lab.tenants()), Weather::Rough).await;
        let progress = watch::Sender::new(0);
        let killed =
            tokio::join!(rage(&storm, KILLED, &progress), kill_backends(&lab, progress.subscribe())).1;
        assert!(killed > KILLED / 40, "{killed} backends were killed");
        println!("{killed} backends were killed");
        assert_raged(&storm, KILLED);
        everything_is_back(&lab, &storm, connections).await;
    }
}

/// Ends one of the application's backends, whatever it is doing, each time the storm has gone on a bit.
async fn kill_backends(lab: &Lab, mut progress: watch::Receiver<u64>) -> u64 {
    let mut admin = connect(&lab.admin).await;
    let mut killed = 0;
    let mut next = 0;
    while *progress.wait_for(|done| *done >= next).await.expect("the storm outlives its killer") < KILLED {
        next = KILLED.min(*progress.borrow() + 20);
        let one = "SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM (
            SELECT pid FROM pg_stat_activity
            WHERE datname = current_database() AND usename = 'stagesub_app' ORDER BY random() LIMIT 1) AS a";
        killed += u64::try_from(scalar::<i64>(&mut admin, one).await).expect("a count");
    }
    killed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_of_a_restarted_server_reaches_the_next() {
    let cluster = Cluster::apart().await;
    for connections in [1, 4] {
        let lab = Lab::start_apart(&cluster, pools(connections)).await;
        let storm = storm(&lab, Db::Sound(lab.tenants()), Weather::Rough).await;
        let progress = watch::Sender::new(0);
        tokio::join!(rage(&storm, RESTARTED, &progress), restart(&cluster, progress.subscribe()));
        assert!(Seen::of(&storm.seen.lost) > 0, "the storm noticed");
        assert_raged(&storm, RESTARTED);
        everything_is_back(&lab, &storm, connections).await;
    }
}

/// Restarts the server twice while the storm is under way: in an orderly way, which ends each session, and
/// without any, after which it recovers.
async fn restart(cluster: &Cluster, mut progress: watch::Receiver<u64>) {
    let mut pid = cluster.postgres().watch_pid();
    for (after, how) in [(RESTARTED / 4, Signal::SIGINT), (RESTARTED / 2, Signal::SIGQUIT)] {
        progress.wait_for(|done| *done >= after).await.expect("the storm outlives the restarts");
        let before = pid.borrow_and_update().expect("it runs");
        kill(Pid::from_raw(before), how).expect("it can be signalled");
        let back = pid.wait_for(|pid| pid.is_some_and(|pid| pid != before));
        timeout(DEADLINE, back).await.expect("it comes back in time").expect("it is looked after");
        let done = *progress.borrow();
        assert!(done < RESTARTED, "the storm went on through it");
        println!("restarted by {how} at round {done}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn without_the_clean_up_the_storm_finds_poison() {
    for connections in [1, 4] {
        let lab = Lab::start_with(pools(connections)).await;
        let mut settings = pools(connections);
        // What nobody cleans up keeps its locks.
        settings.timeouts.lock = Duration::from_millis(20);
        let storm = storm(&lab, Db::Unclean(lab.unclean(settings)), Weather::Calm).await;
        rage(&storm, CONTROL, &watch::Sender::new(0)).await;
        let poisoned = Seen::of(&storm.seen.poisoned);
        println!("pool of {connections}: {poisoned} poisoned, such as {:?}", storm.seen.sentences());
        assert!(poisoned > CONTROL / 10, "only {poisoned} poisoned connections in {CONTROL} rounds");
    }
}
