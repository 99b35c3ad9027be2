//! The operations of this process, on tenant transactions themselves.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use stagesub_storage::factory::{FactorySettings, LeanPoolFactory, TenantDb};
use stagesub_storage::pool::TenantPoolSettings;
use stagesub_tenancy::{Access, BeginError, PoolSettings, Router};
use stagesub_tests::data_path::Db;
use stagesub_tests::storm::{Guest, Seen, Storm, Weather, polled};

use crate::ledger::Ledger;
use crate::stage::Stage;
use crate::{POOL, one_more, take};

/// Short, so that begins run out of it.
const WAIT: Duration = Duration::from_millis(20);
/// Projects that this process makes are numbered from here; the servers count from 1.
const FIRST_PROJECT: i64 = 10_000_000;

const KEEP: &str = "INSERT INTO tenant.project (tenant_id, no, name, start_date, week_number, status, created_at, updated_at)
    VALUES ($1, $2, $3, DATE '2027-03-01', 9, 'planned', now(), now())";

/// The operations of this process.
pub(crate) struct Process {
    /// Most of them.
    pub(crate) storm: Arc<Storm>,
    /// How many there are to be.
    pub(crate) wanted: u64,
    /// How many there were.
    pub(crate) done: AtomicU64,
    /// Writes that were committed and are to be found.
    pub(crate) kept: AtomicU64,
    next: AtomicI64,
}

impl Process {
    /// Over pools of its own.
    pub(crate) async fn new(stage: &Stage, wanted: u64) -> Self {
        let (directory, logins) = stage.data_path().await;
        // One tenant may have all of it, which is how what it can lend is counted in the end.
        let pool = TenantPoolSettings {
            max_connections: POOL,
            wait: WAIT,
            share: 100,
            ..TenantPoolSettings::default()
        };
        let factory = LeanPoolFactory::new(logins, FactorySettings { shared: pool, dedicated: pool });
        let router = Router::new(directory, Arc::new(factory), PoolSettings::default());
        let db = Db::Sound(TenantDb::new(Arc::new(router)));
        let storm = Storm::new(db, stage.guests(), Weather::Calm);
        storm.look().await;
        Self {
            storm: Arc::new(storm),
            wanted,
            done: AtomicU64::new(0),
            kept: AtomicU64::new(0),
            next: AtomicI64::new(FIRST_PROJECT),
        }
    }

    /// Works until enough is done, with a probe after each eighth operation.
    pub(crate) async fn work(self: Arc<Self>, seed: u64, stop: Arc<AtomicBool>) -> Ledger {
        let mut random = StdRng::seed_from_u64(seed);
        let mut ledger = Ledger::default();
        while one_more(&self.done, self.wanted, &stop) {
            match random.random_range(0..4_000) {
                0 => self.crowd(&mut random).await,
                1..300 => self.keep(&mut random, &mut ledger).await,
                _ => drop(self.storm.round(&mut random).await),
            }
            if self.done.fetch_add(1, Ordering::Relaxed).is_multiple_of(8) {
                self.storm.probe(self.storm.guest(&mut random)).await;
            }
        }
        ledger
    }

    /// A write that is looked for in the end, unless its owner went away before the answer.
    async fn keep(&self, random: &mut StdRng, ledger: &mut Ledger) {
        let (guest, no) = (self.storm.guest(random), take(&self.next));
        let entry = (guest.scope.tenant_id(), no);
        let writing = self.write(guest, no);
        let outcome = match random.random_range(0..3) {
            0 => Box::pin(polled(random.random_range(1..=12), writing)).await,
            _ => Some(writing.await),
        };
        match outcome {
            Some(Ok(())) => {
                Seen::count(&self.kept);
                ledger.projects.push(entry);
            }
            Some(Err(Nothing)) => {}
            None => {
                Seen::count(&self.storm.seen.cancelled);
                ledger.doubtful_projects.push(entry);
            }
        }
    }

    async fn write(&self, guest: &Guest, no: i64) -> Result<(), Nothing> {
        let mut tx = match self.storm.db.begin(&guest.scope, Access::Write).await {
            Ok(tx) => tx,
            Err(BeginError::Busy) => {
                Seen::count(&self.storm.seen.busy);
                return Err(Nothing);
            }
            Err(error) => {
                self.storm.seen.poison(&format!("a writer's begin got {error}: {error:?}"));
                return Err(Nothing);
            }
        };
        let (tenant, name) = (tx.tenant().as_uuid(), format!("{} {no}", guest.canary));
        let inserted = sqlx::query(KEEP).bind(tenant).bind(no).bind(name).execute(&mut tx).await;
        let outcome = match inserted {
            Ok(_) => tx.commit().await.map_err(|error| format!("{error:?}")),
            Err(error) => Err(error.to_string()),
        };
        outcome.map_err(|error| {
            self.storm.seen.surprise(format!("a write: {error}"));
            Nothing
        })
    }

    /// More begins at once than there are connections, all held until the last is decided: some must be told
    /// that everything is busy.
    async fn crowd(&self, random: &mut StdRng) {
        let guest = self.storm.guest(random);
        let begins = (0..POOL + 2).map(|_| self.storm.db.begin(&guest.scope, Access::Read));
        let begun = futures::future::join_all(begins).await;
        let mut refused = 0;
        for begun in begun {
            match begun {
                Ok(tx) => {
                    if let Err(error) = tx.commit().await {
                        self.storm.seen.surprise(format!("an end in a crowd: {error:?}"));
                    }
                }
                Err(BeginError::Busy) => {
                    refused += 1;
                    Seen::count(&self.storm.seen.busy);
                }
                Err(error) => self.storm.seen.poison(&format!("a begin in a crowd got {error}: {error:?}")),
            }
        }
        if refused < 2 {
            self.storm.seen.surprise(format!("{} connections of {POOL} were lent", POOL + 2 - refused));
        }
    }
}

/// Nothing was written.
struct Nothing;
