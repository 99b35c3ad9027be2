//! That the soak would notice.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ::http::header::HOST;
use rand::SeedableRng;
use rand::rngs::StdRng;
use stagesub_sabotage as sabotage;
use stagesub_storage::factory::{FactorySettings, LeanPoolFactory, TenantDb};
use stagesub_tenancy::{PoolSettings, Router};
use stagesub_tests::data_path::Db;
use stagesub_tests::program;
use stagesub_tests::serve::Server;
use stagesub_tests::storm::{Guest, Seen, Storm, Weather};

use crate::judge::rows;
use crate::report::Report;
use crate::stage::Stage;
use crate::{Arguments, POOL, TASKS};

/// Rounds without the clean-up, at most.
const ROUNDS: u64 = 4_000;
/// Longest that they may take: what nobody cleans up keeps others waiting.
const PATIENCE: Duration = Duration::from_mins(2);

/// Reads the rows of one tenant as if they were another's: every one must be found to be foreign.
pub(crate) async fn foreign(stage: &Stage, servers: &[Server], report: &mut Report) {
    let (directory, logins) = stage.data_path().await;
    let factory = LeanPoolFactory::new(logins, FactorySettings::default());
    let router = Router::new(directory, Arc::new(factory), PoolSettings::default());
    let crossed = |(n, guest): (usize, Guest)| {
        let other = &stage.houses[(n + 1) % stage.houses.len()].guest;
        Guest { canary: other.canary.clone(), ..guest }
    };
    let guests = stage.guests().into_iter().enumerate().map(crossed).collect();
    let storm = Storm::new(Db::Sound(TenantDb::new(Arc::new(router))), guests, Weather::Calm);
    storm.look().await;
    for guest in &storm.guests {
        storm.probe(guest).await;
    }
    report.control_foreign.0 = Seen::of(&storm.seen.foreign);

    let seen = Seen::default();
    let client = program::http().build().expect("a client");
    for (n, server) in servers.iter().enumerate() {
        let (house, other) = (&stage.houses[n], &stage.houses[n + 1]);
        let answer = client
            .get(format!("http://{}/api/v1/musicians", server.address))
            .header(HOST, &house.orchestra.host)
            .bearer_auth(house.token())
            .send()
            .await
            .expect("it answers");
        let body = answer.bytes().await.expect("with a body");
        rows(&serde_json::from_slice(&body).expect("a list"), other, &seen);
        for _ in 0..other.guest.canary.others_in(&body) {
            seen.row(false);
        }
    }
    report.control_foreign.1 = Seen::of(&seen.foreign);
}

/// The storm of this process without the clean-up of connections whose owner went away.
pub(crate) async fn without_clean_up(stage: &Stage, arguments: &Arguments, report: &mut Report) {
    let (directory, logins) = stage.data_path().await;
    let pool = sabotage::pool::TenantPoolSettings {
        max_connections: POOL,
        share: 100,
        wait: Duration::from_secs(5),
        timeouts: sabotage::pool::TxTimeouts {
            lock: Duration::from_millis(20),
            ..sabotage::pool::TxTimeouts::default()
        },
        ..sabotage::pool::TenantPoolSettings::default()
    };
    let settings = sabotage::factory::FactorySettings { shared: pool, dedicated: pool };
    let factory = sabotage::factory::LeanPoolFactory::new(logins, settings);
    let router = Router::new(directory, Arc::new(factory), PoolSettings::default());
    let db = Db::Unclean(sabotage::factory::TenantDb::new(Arc::new(router)));
    let storm = Storm::new(db, stage.guests(), Weather::Calm);
    storm.look().await;
    let storm = Arc::new(storm);
    let begun = Instant::now();
    let tasks = (0..TASKS).map(|n| {
        let storm = Arc::clone(&storm);
        let mut random = StdRng::seed_from_u64(arguments.seed.wrapping_add(n));
        tokio::spawn(async move {
            for round in 0..ROUNDS / TASKS {
                storm.round(&mut random).await;
                if round % 3 == 0 {
                    storm.probe(storm.guest(&mut random)).await;
                }
                if begun.elapsed() > PATIENCE {
                    return;
                }
            }
        })
    });
    for task in futures::future::join_all(tasks).await {
        task.expect("a task judges, and does not fail");
    }
    report.control_poisoned = Seen::of(&storm.seen.poisoned);
    report.control_sentence = storm.seen.sentences().into_iter().next();
}
