//! How often the API may be asked.
//!
//! An address and an orchestra each have so many requests a minute; an orchestra those of its own people. And so many
//! of an orchestra's requests to its database are worked on at one time: a pool of connections shares those between
//! orchestras, but a request also costs this process work before and after it has one.
//!
//! Signing in costs a hash, so it has bounds of its own: failed ones are counted by address and by account, and
//! addresses take turns at the hasher, so that many connections of one address cannot fill its queue for the others. Nor can an
//! orchestra that makes many members: it takes its turns among them, at the registry, and at the disk that files are
//! spooled to.
//!
//! Failed sign-ins of strangers do not keep an account's owner out: where somebody signed in before, failures with
//! that account are counted apart from everybody else's.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::thread::available_parallelism;
use std::time::Duration;

use stagesub_tenancy::fair::Permit;
use stagesub_tenancy::rate::{Limited, RateLimit, RecentSet, client_of};
use stagesub_tenancy::{Crowded, FairGate, FairSettings, TenantId};

use crate::config::LimitSettings;
use crate::metrics::{Limit, Metrics};
use crate::problem::Problem;

/// Sign-ins of one address that may wait for their turn.
const SIGN_INS_WAITING_EACH: usize = 16;
/// Sign-ins that may wait in all.
const SIGN_INS_WAITING: usize = 512;
/// How long a sign-in waits for its turn.
const SIGN_IN_WAIT: Duration = Duration::from_secs(2);
/// Turns at the registry that orchestras have at one time: as many as it gives connections to a node.
const REGISTRY_TURNS: u32 = 4;
/// Files that are spooled at one time, of which one orchestra has half: 512 MiB at most.
const FILES: u32 = 16;
/// Accounts with an address where somebody signed in to them, that are remembered.
const KNOWN: NonZeroUsize = NonZeroUsize::new(100_000).expect("not zero");

/// The limits of one server.
#[derive(Debug)]
pub struct Limits {
    addresses: Option<RateLimit<IpAddr>>,
    tenants: Option<RateLimit<TenantId>>,
    at_once: Option<FairGate<TenantId>>,
    failing_addresses: Option<RateLimit<IpAddr>>,
    /// Accounts by a hash that only this process knows: login addresses are not kept.
    failing_accounts: Option<RateLimit<u64>>,
    /// Accounts and the addresses where they were signed in to.
    known: RecentSet<(u64, IpAddr)>,
    hasher: RandomState,
    turns: Option<FairGate<Party>>,
    registry: FairGate<TenantId>,
    files: FairGate<TenantId>,
    metrics: Metrics,
}

/// Who takes turns at the hasher.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Party {
    /// Who signs in from an address, as far as it is known.
    Address(Option<IpAddr>),
    /// An orchestra that makes members; none: the platform.
    Tenant(Option<TenantId>),
}

/// A turn at what is bounded, until it is dropped.
#[derive(Debug)]
#[expect(dead_code, reason = "what is held matters when it is dropped")]
pub struct Turn(Option<Held>);

#[derive(Debug)]
#[expect(dead_code, reason = "what is held matters when it is dropped")]
enum Held {
    Hasher(Permit<Party>),
    Tenant(Permit<TenantId>),
}

impl Limits {
    /// Limits under which nobody has asked yet.
    #[must_use]
    pub fn new(settings: LimitSettings) -> Self {
        let turns = settings.failed_sign_ins_per_address.map(|_| {
            let cores = available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(1));
            FairGate::new(FairSettings {
                // Twice as many as hash at once, so that look-ups before and after it keep no core waiting; an
                // address has half of them.
                permits: cores.saturating_mul(2),
                waiting_each: SIGN_INS_WAITING_EACH,
                waiting: SIGN_INS_WAITING,
                wait: SIGN_IN_WAIT,
                ..FairSettings::default()
            })
        });
        Self {
            addresses: limit(settings.requests_per_address),
            tenants: limit(settings.requests_per_tenant),
            // Each has its own: those of an orchestra whose database is frozen are nothing to the others.
            at_once: settings.tenant_requests_at_once.map(|most| {
                FairGate::new(FairSettings {
                    permits: u32::MAX,
                    most_each: most.get(),
                    waiting: usize::MAX,
                    ..FairSettings::default()
                })
            }),
            failing_addresses: limit(settings.failed_sign_ins_per_address),
            failing_accounts: limit(settings.failed_sign_ins_per_account),
            known: RecentSet::new(KNOWN),
            hasher: RandomState::new(),
            turns,
            registry: FairGate::new(FairSettings { permits: REGISTRY_TURNS, ..FairSettings::default() }),
            files: FairGate::new(FairSettings { permits: FILES, ..FairSettings::default() }),
            metrics: Metrics::default(),
        }
    }

    /// The same, counting what it refuses.
    #[must_use]
    pub fn counted(self, metrics: Metrics) -> Self {
        Self { metrics, ..self }
    }

    /// Sign-ins that wait for their turn.
    #[must_use]
    pub fn sign_ins_waiting(&self) -> usize {
        self.turns.as_ref().map_or(0, |turns| turns.stats().waiting)
    }

    /// Counts a request of an address.
    ///
    /// # Errors
    /// 429 when there were too many.
    pub fn request_of(&self, address: IpAddr) -> Result<(), Problem> {
        take(self.addresses.as_ref(), &client_of(address))
            .map_err(|limited| self.refused(Limit::Address, limited))
    }

    /// Counts a request to an orchestra, of somebody who is signed in there.
    ///
    /// # Errors
    /// 429 when there were too many.
    pub fn request_to(&self, tenant: TenantId) -> Result<(), Problem> {
        take(self.tenants.as_ref(), &tenant).map_err(|limited| self.refused(Limit::Tenant, limited))
    }

    /// Waits until one more request of an orchestra may be worked on.
    ///
    /// # Errors
    /// 429 when too many of it wait; 503 when the turn does not come in time.
    ///
    /// # Cancel safety
    /// Dropping the future gives the place up.
    pub async fn work_for(&self, tenant: TenantId) -> Result<Turn, Problem> {
        let Some(gate) = &self.at_once else { return Ok(Turn(None)) };
        match gate.enter(tenant).await {
            Ok(permit) => Ok(Turn(Some(Held::Tenant(permit)))),
            Err(error) => Err(self.crowded(Limit::TenantQueue, error)),
        }
    }

    /// Requests that wait for others of their orchestra.
    #[must_use]
    pub fn requests_waiting(&self) -> usize {
        self.at_once.as_ref().map_or(0, |gate| gate.stats().waiting)
    }

    /// Lets one sign-in begin when it is its address's turn. It counts as failed unless
    /// [`Attempt::forgive`] is called, so also when its client does not wait for the answer.
    ///
    /// # Errors
    /// 429 when too many failed, or too many of the address wait; 503 when the turn does not come in time.
    ///
    /// # Cancel safety
    /// Dropping the future gives the place up and counts nothing.
    pub async fn sign_in(&self, address: Option<IpAddr>, email: &str) -> Result<Attempt<'_>, Problem> {
        let address = address.map(client_of);
        // Everything an address book would take for the same login address is the same account.
        let account = self.hasher.hash_one(email.trim().to_lowercase());
        let counted = match address {
            Some(address) if self.known.contains(&(account, address)) => {
                self.hasher.hash_one((account, address))
            }
            _ => account,
        };
        self.may_fail(address, counted)?;
        let turn = match &self.turns {
            None => None,
            Some(turns) => match turns.enter(Party::Address(address)).await {
                Ok(turn) => Some(turn),
                Err(Crowded::QueueFull) => {
                    self.metrics.refused(Limit::SignInQueue);
                    return Err(Problem::sign_in_limited(Duration::from_secs(1)));
                }
                Err(error) => return Err(self.crowded(Limit::SignInQueue, error)),
            },
        };
        // Others may have failed while this one waited.
        self.may_fail(address, counted)?;
        Ok(Attempt { limits: self, address, account, counted, counts: true, _turn: turn })
    }

    /// Waits for an orchestra's turn at the hasher, or the platform's, to hash a new password.
    ///
    /// # Errors
    /// 429 when too many of it wait; 503 when the turn does not come in time.
    ///
    /// # Cancel safety
    /// Dropping the future gives the place up.
    pub async fn hash_for(&self, tenant: Option<TenantId>) -> Result<Turn, Problem> {
        let hasher = match &self.turns {
            None => None,
            Some(turns) => {
                let turn = turns.enter(Party::Tenant(tenant)).await;
                Some(turn.map_err(|error| self.crowded(Limit::SignInQueue, error))?)
            }
        };
        Ok(Turn(hasher.map(Held::Hasher)))
    }

    /// Waits for an orchestra's turn at the registry, for what is not answered from what a node remembers.
    ///
    /// # Errors
    /// As [`Limits::hash_for`].
    ///
    /// # Cancel safety
    /// As [`Limits::hash_for`].
    pub async fn registry_for(&self, tenant: TenantId) -> Result<Turn, Problem> {
        let turn = self.registry.enter(tenant).await;
        Ok(Turn(Some(Held::Tenant(turn.map_err(|error| self.crowded(Limit::RegistryQueue, error))?))))
    }

    /// Waits for an orchestra's turn to have a file spooled, which takes room on this machine's disk.
    ///
    /// # Errors
    /// As [`Limits::hash_for`].
    ///
    /// # Cancel safety
    /// As [`Limits::hash_for`].
    pub async fn file_for(&self, tenant: TenantId) -> Result<Turn, Problem> {
        let turn = self.files.enter(tenant).await;
        Ok(Turn(Some(Held::Tenant(turn.map_err(|error| self.crowded(Limit::FileQueue, error))?))))
    }

    /// Forgets who has not asked for long; to be called now and then.
    pub fn forget_idle(&self) {
        for limit in [&self.addresses, &self.failing_addresses].into_iter().flatten() {
            limit.forget_idle();
        }
        self.tenants.iter().for_each(RateLimit::forget_idle);
        self.failing_accounts.iter().for_each(RateLimit::forget_idle);
    }

    fn refused(&self, limit: Limit, limited: Limited) -> Problem {
        self.metrics.refused(limit);
        Problem::rate_limited(limited.retry_after)
    }

    fn crowded(&self, limit: Limit, crowded: Crowded) -> Problem {
        self.metrics.refused(limit);
        match crowded {
            Crowded::QueueFull => Problem::rate_limited(Duration::from_secs(1)),
            crowded => Problem::unavailable(crowded),
        }
    }

    fn may_fail(&self, address: Option<IpAddr>, account: u64) -> Result<(), Problem> {
        let by_address = match (&self.failing_addresses, address) {
            (Some(limit), Some(address)) => limit.look(&address),
            _ => Ok(()),
        };
        let by_account = self.failing_accounts.as_ref().map_or(Ok(()), |limit| limit.look(&account));
        let refused = |limit| {
            move |limited: Limited| {
                self.metrics.refused(limit);
                Problem::sign_in_limited(limited.retry_after)
            }
        };
        by_address.map_err(refused(Limit::SignInAddress))?;
        by_account.map_err(refused(Limit::SignInAccount))
    }
}

/// One sign-in under way.
#[derive(Debug)]
pub struct Attempt<'a> {
    limits: &'a Limits,
    address: Option<IpAddr>,
    account: u64,
    /// Under what it counts if it fails: the account, or the account at an address where it is known.
    counted: u64,
    counts: bool,
    _turn: Option<Permit<Party>>,
}

impl Attempt<'_> {
    /// It succeeded: it does not count, and the account is known where it came from.
    pub fn succeed(mut self) {
        self.counts = false;
        if let Some(address) = self.address {
            self.limits.known.insert((self.account, address));
        }
    }

    /// Nothing was decided: it does not count.
    pub fn forgive(mut self) {
        self.counts = false;
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if !self.counts {
            return;
        }
        // A limit that is reached by now was passed by those who began together with this one; there are at
        // most as many as take their turn at once.
        if let (Some(limit), Some(address)) = (&self.limits.failing_addresses, &self.address) {
            let _reached = limit.take(address);
        }
        if let Some(limit) = &self.limits.failing_accounts {
            let _reached = limit.take(&self.counted);
        }
    }
}

fn limit<K: Eq + std::hash::Hash + Clone>(most: Option<NonZeroU32>) -> Option<RateLimit<K>> {
    most.map(RateLimit::per_minute)
}

fn take<K: Eq + std::hash::Hash + Clone>(limit: Option<&RateLimit<K>>, key: &K) -> Result<(), Limited> {
    limit.map_or(Ok(()), |limit| limit.take(key))
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;

    use super::*;

    fn limits() -> Limits {
        Limits::new(LimitSettings {
            requests_per_address: NonZeroU32::new(3),
            requests_per_tenant: NonZeroU32::new(2),
            tenant_requests_at_once: NonZeroU32::new(2),
            failed_sign_ins_per_address: NonZeroU32::new(4),
            failed_sign_ins_per_account: NonZeroU32::new(2),
        })
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[track_caller]
    fn refused<T: std::fmt::Debug>(result: Result<T, Problem>) {
        assert_eq!(result.unwrap_err().status(), StatusCode::TOO_MANY_REQUESTS);
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_and_an_orchestra_have_limits_of_their_own() {
        let limits = limits();
        for last in ["1", "2", "ffff:1"] {
            limits.request_of(ip(&format!("2001:db8::{last}"))).unwrap();
        }
        refused(limits.request_of(ip("2001:db8::9")));
        limits.request_of(ip("2001:db8:0:1::9")).unwrap();
        let [one, other] = [1, 2].map(|n| TenantId::from_uuid(uuid::Uuid::from_u128(n)));
        limits.request_to(one).unwrap();
        limits.request_to(one).unwrap();
        refused(limits.request_to(one));
        limits.request_to(other).unwrap();
        tokio::time::advance(Duration::from_mins(1)).await;
        limits.request_of(ip("2001:db8::9")).unwrap();
        limits.request_to(one).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn failed_sign_ins_end_by_account_and_by_address_and_others_go_on() {
        let limits = limits();
        let (bad, good) = (Some(ip("203.0.113.1")), Some(ip("203.0.113.2")));
        for email in ["a@x.example", " A@X.example "] {
            drop(limits.sign_in(bad, email).await.unwrap());
        }
        refused(limits.sign_in(good, "a@x.example").await);
        for email in ["b@x.example", "c@x.example"] {
            drop(limits.sign_in(bad, email).await.unwrap());
        }
        refused(limits.sign_in(bad, "d@x.example").await);
        limits.sign_in(good, "d@x.example").await.unwrap().forgive();
        tokio::time::advance(Duration::from_mins(1)).await;
        limits.sign_in(bad, "a@x.example").await.unwrap().forgive();
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_who_fail_do_not_keep_the_owner_out_where_they_signed_in_before() {
        let limits = limits();
        let (home, elsewhere) = (Some(ip("2001:db8::1")), Some(ip("192.0.2.1")));
        limits.sign_in(home, "a@x.example").await.unwrap().succeed();
        for n in 0..2 {
            drop(limits.sign_in(Some(ip(&format!("198.51.100.{n}"))), "a@x.example").await.unwrap());
        }
        refused(limits.sign_in(elsewhere, "a@x.example").await);
        // The owner may even mistype, from anywhere in the network that is theirs, and not without end.
        let nearby = Some(ip("2001:db8::2"));
        drop(limits.sign_in(nearby, "A@x.example").await.unwrap());
        limits.sign_in(home, "a@x.example").await.unwrap().succeed();
        drop(limits.sign_in(home, "a@x.example").await.unwrap());
        refused(limits.sign_in(home, "a@x.example").await);
        refused(limits.sign_in(elsewhere, "a@x.example").await);
        // Having signed in to one account says nothing of another.
        for n in 0..2 {
            drop(limits.sign_in(Some(ip(&format!("198.51.100.{n}"))), "b@x.example").await.unwrap());
        }
        refused(limits.sign_in(home, "b@x.example").await);
    }

    #[tokio::test(start_paused = true)]
    async fn an_orchestra_that_makes_many_members_leaves_a_turn_for_who_signs_in() {
        let limits = Limits::new(LimitSettings::default());
        let [one, other] = [1, 2].map(|n| TenantId::from_uuid(uuid::Uuid::from_u128(n)));
        let gate = limits.turns.as_ref().unwrap();
        let mut held = Vec::new();
        while gate.stats().held < gate.stats().permits / 2 {
            held.push(limits.hash_for(Some(one)).await.unwrap());
        }
        let mut waiting: Vec<_> =
            (0..SIGN_INS_WAITING_EACH).map(|_| Box::pin(limits.hash_for(Some(one)))).collect();
        for hash in &mut waiting {
            assert!(futures::poll!(hash.as_mut()).is_pending());
        }
        refused(limits.hash_for(Some(one)).await);
        limits.sign_in(Some(ip("203.0.113.2")), "b@x.example").await.unwrap().succeed();
        drop(limits.hash_for(Some(other)).await.unwrap());
        drop(limits.hash_for(None).await.unwrap());
        let late = waiting.pop().unwrap().await.unwrap_err();
        assert_eq!(late.status(), StatusCode::SERVICE_UNAVAILABLE, "its turn did not come in time");
    }

    #[tokio::test(start_paused = true)]
    async fn an_orchestra_holds_half_of_the_turns_at_the_registry_and_the_disk() {
        let limits = Limits::new(LimitSettings::off());
        let [one, other] = [1, 2].map(|n| TenantId::from_uuid(uuid::Uuid::from_u128(n)));
        let mut spooled = Vec::new();
        for _ in 0..FILES / 2 {
            spooled.push(limits.file_for(one).await.unwrap());
        }
        let mut one_more = Box::pin(limits.file_for(one));
        assert!(futures::poll!(one_more.as_mut()).is_pending());
        limits.file_for(other).await.unwrap();
        spooled.pop();
        one_more.await.unwrap();
        let _held = [limits.registry_for(one).await.unwrap(), limits.registry_for(one).await.unwrap()];
        let mut third = Box::pin(limits.registry_for(one));
        assert!(futures::poll!(third.as_mut()).is_pending());
        limits.registry_for(other).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_requests_of_an_orchestra_are_worked_on_and_those_of_others_do_not_wait() {
        let limits = limits();
        let [one, other] = [1, 2].map(|n| TenantId::from_uuid(uuid::Uuid::from_u128(n)));
        let mut held = vec![limits.work_for(one).await.unwrap(), limits.work_for(one).await.unwrap()];
        let mut next = Box::pin(limits.work_for(one));
        assert!(futures::poll!(next.as_mut()).is_pending());
        assert_eq!(limits.requests_waiting(), 1);
        drop(limits.work_for(other).await.unwrap());
        held.pop();
        held.push(next.await.unwrap());
        assert_eq!(limits.requests_waiting(), 0);

        let most = FairSettings::default().waiting_each;
        let mut waiting: Vec<_> = (0..most).map(|_| Box::pin(limits.work_for(one))).collect();
        for request in &mut waiting {
            assert!(futures::poll!(request.as_mut()).is_pending());
        }
        refused(limits.work_for(one).await);
        let late = waiting.pop().unwrap().await.unwrap_err();
        assert_eq!(late.status(), StatusCode::SERVICE_UNAVAILABLE, "its turn did not come in time");
        drop(Limits::new(LimitSettings::off()).work_for(one).await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn a_sign_in_that_succeeds_counts_nothing() {
        let limits = limits();
        for _ in 0..100 {
            limits.sign_in(Some(ip("203.0.113.1")), "a@x.example").await.unwrap().forgive();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn many_sign_ins_of_one_address_leave_a_turn_for_another() {
        let bad = Some(ip("203.0.113.1"));
        let settings = LimitSettings { failed_sign_ins_per_account: None, ..LimitSettings::default() };
        let limits = Limits::new(settings);
        let gate = limits.turns.as_ref().unwrap();
        let mut attempts = Vec::new();
        while gate.stats().held < gate.stats().permits / 2 {
            attempts.push(limits.sign_in(bad, "a@x.example").await.unwrap());
        }
        {
            let mut next = Box::pin(limits.sign_in(bad, "a@x.example"));
            assert!(futures::poll!(next.as_mut()).is_pending(), "the address holds its half");
            let mut waiting: Vec<_> =
                (1..SIGN_INS_WAITING_EACH).map(|_| Box::pin(limits.sign_in(bad, "a@x.example"))).collect();
            for attempt in &mut waiting {
                assert!(futures::poll!(attempt.as_mut()).is_pending());
            }
            refused(limits.sign_in(bad, "a@x.example").await);
            limits.sign_in(Some(ip("203.0.113.2")), "b@x.example").await.unwrap().forgive();
        }
        drop(attempts);
        assert_eq!(gate.stats().held, 0);
    }
}
