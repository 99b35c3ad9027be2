//! A registry of moves that tells when it decided, and when each move came to which state.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use stagesub_storage::registry::moves::PgMoveRegistry;
use stagesub_tenancy::moves::registry::MovePage;
use stagesub_tenancy::moves::{
    BeginMoveError, Cleanup, Decision, Held, Move, MoveId, MoveKind, MoveRegistry, MoveRegistryError,
    MoveState, NewMove, Note, Renewed, Request, Requested, Requester, TableProgress,
};
use stagesub_tenancy::{DatabaseId, Located, NodeId, TenantId};

/// The registry, and a note of what was done to it by way of this.
#[derive(Debug)]
pub struct Watched {
    inner: PgMoveRegistry,
    decisions: Mutex<Vec<Asked>>,
    steps: Mutex<Vec<Step>>,
}

/// A decision that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Whose.
    pub tenant: TenantId,
    /// Where to.
    pub database: DatabaseId,
    /// Before it was asked for.
    pub called: Instant,
    /// After it was answered.
    pub returned: Option<Instant>,
    /// Whether it was made; `None`: nobody was told.
    made: Option<bool>,
}

/// A step that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Of which move.
    pub id: MoveId,
    /// To which state.
    pub to: MoveState,
    /// Before it was asked for.
    pub called: Instant,
    /// After it was made.
    pub returned: Instant,
}

/// A cutover from its beginning to its end, as its mover saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cutover {
    /// When the fence was said to be on.
    pub from: Instant,
    /// When the other side was said to be active.
    pub to: Instant,
}

impl Watched {
    /// Over the registry.
    #[must_use]
    pub const fn new(inner: PgMoveRegistry) -> Self {
        Self { inner, decisions: Mutex::new(Vec::new()), steps: Mutex::new(Vec::new()) }
    }

    /// The decisions that were made about a tenant, or that may have been.
    #[must_use]
    pub fn decisions(&self, tenant: TenantId) -> Vec<Asked> {
        let all = self.decisions.lock().expect("nobody panics with it");
        all.iter().filter(|asked| asked.tenant == tenant && asked.made != Some(false)).cloned().collect()
    }

    /// The steps of a move.
    #[must_use]
    pub fn steps(&self, id: MoveId) -> Vec<Step> {
        let all = self.steps.lock().expect("nobody panics with it");
        all.iter().filter(|step| step.id == id).cloned().collect()
    }

    /// The cutovers of a move that led to the other side.
    #[must_use]
    pub fn cutovers(&self, id: MoveId) -> Vec<Cutover> {
        let (mut cutovers, mut begun) = (Vec::new(), None);
        for step in self.steps(id) {
            match step.to {
                MoveState::Fence | MoveState::Back => begun = Some(step.returned),
                MoveState::Active => {
                    if let Some(from) = begun.take() {
                        cutovers.push(Cutover { from, to: step.called });
                    }
                }
                // Given up.
                _ => begun = None,
            }
        }
        cutovers
    }

    /// From when to when a move was in a state, the first time.
    #[must_use]
    pub fn during(&self, id: MoveId, state: MoveState) -> Option<(Instant, Instant)> {
        let steps = self.steps(id);
        let place = steps.iter().position(|step| step.to == state)?;
        Some((steps[place].returned, steps.get(place + 1)?.called))
    }

    /// From when to when a move was in states before its first cutover: while its rows were copied and compared.
    #[must_use]
    pub fn filling(&self, id: MoveId) -> Option<(Instant, Instant)> {
        let steps = self.steps(id);
        let from = steps.iter().find(|step| step.to == MoveState::Slot)?.called;
        let to = steps.iter().find(|step| step.to == MoveState::Fence)?.called;
        Some((from, to))
    }
}

#[async_trait]
impl MoveRegistry for Watched {
    async fn begin(&self, wanted: &NewMove) -> Result<Move, BeginMoveError> {
        self.inner.begin(wanted).await
    }

    async fn find(&self, id: MoveId) -> Result<Option<Move>, MoveRegistryError> {
        self.inner.find(id).await
    }

    async fn live_of(&self, tenant: TenantId) -> Result<Option<Move>, MoveRegistryError> {
        self.inner.live_of(tenant).await
    }

    async fn list(&self, after: Option<MoveId>, limit: u32) -> Result<MovePage, MoveRegistryError> {
        self.inner.list(after, limit).await
    }

    async fn list_of(
        &self,
        tenant: TenantId,
        after: Option<MoveId>,
        limit: u32,
    ) -> Result<MovePage, MoveRegistryError> {
        self.inner.list_of(tenant, after, limit).await
    }

    async fn count_live(&self) -> Result<Vec<(MoveState, u64)>, MoveRegistryError> {
        self.inner.count_live().await
    }

    async fn lag(&self, id: MoveId) -> Result<Option<Duration>, MoveRegistryError> {
        self.inner.lag(id).await
    }

    async fn record_lag(&self, held: &Held, lag: Duration) -> Result<bool, MoveRegistryError> {
        self.inner.record_lag(held, lag).await
    }

    async fn tables(&self, id: MoveId) -> Result<Vec<TableProgress>, MoveRegistryError> {
        self.inner.tables(id).await
    }

    async fn placement(&self, tenant: TenantId) -> Result<Option<Located>, MoveRegistryError> {
        self.inner.placement(tenant).await
    }

    async fn request(
        &self,
        id: MoveId,
        request: Request,
        by: Requester,
    ) -> Result<Requested, MoveRegistryError> {
        self.inner.request(id, request, by).await
    }

    async fn claim(&self, node: NodeId, lease: Duration) -> Result<Option<Held>, MoveRegistryError> {
        self.inner.claim(node, lease).await
    }

    async fn claim_kind(
        &self,
        node: NodeId,
        lease: Duration,
        kind: MoveKind,
    ) -> Result<Option<Held>, MoveRegistryError> {
        self.inner.claim_kind(node, lease, kind).await
    }

    async fn renew(&self, held: &Held, lease: Duration) -> Result<Renewed, MoveRegistryError> {
        self.inner.renew(held, lease).await
    }

    async fn release(
        &self,
        held: &Held,
        error: Option<String>,
        pause: Duration,
    ) -> Result<bool, MoveRegistryError> {
        self.inner.release(held, error, pause).await
    }

    async fn advance(
        &self,
        held: &Held,
        to: MoveState,
        note: &Note,
    ) -> Result<Option<Move>, MoveRegistryError> {
        let called = Instant::now();
        let stepped = self.inner.advance(held, to, note).await?;
        if stepped.is_some() {
            let step = Step { id: held.moved.id, to, called, returned: Instant::now() };
            self.steps.lock().expect("nobody panics with it").push(step);
        }
        Ok(stepped)
    }

    async fn withdraw(
        &self,
        held: &Held,
        request: Request,
        why: &str,
    ) -> Result<Option<Move>, MoveRegistryError> {
        self.inner.withdraw(held, request, why).await
    }

    async fn get_ready(&self, held: &Held) -> Result<(), MoveRegistryError> {
        self.inner.get_ready(held).await
    }

    async fn decide(&self, held: &Held) -> Result<Decision, MoveRegistryError> {
        let decided = held.moved.decided();
        let at = {
            let mut decisions = self.decisions.lock().expect("nobody panics with it");
            decisions.push(Asked {
                tenant: decided.tenant,
                database: decided.placement.database(),
                called: Instant::now(),
                returned: None,
                made: None,
            });
            decisions.len() - 1
        };
        let decision = self.inner.decide(held).await?;
        let returned = Instant::now();
        let asked = &mut self.decisions.lock().expect("nobody panics with it")[at];
        asked.made = Some(matches!(decision, Decision::Made(_)));
        asked.returned = Some(returned);
        Ok(decision)
    }

    async fn give_up(&self, held: &Held, why: &str) -> Result<Decision, MoveRegistryError> {
        self.inner.give_up(held, why).await
    }

    async fn record_tables(
        &self,
        held: &Held,
        tables: Vec<TableProgress>,
    ) -> Result<bool, MoveRegistryError> {
        self.inner.record_tables(held, tables).await
    }

    async fn plan_cleanups(&self, held: &Held, cleanups: Vec<Cleanup>) -> Result<bool, MoveRegistryError> {
        self.inner.plan_cleanups(held, cleanups).await
    }

    async fn outstanding(&self, id: MoveId) -> Result<Vec<Cleanup>, MoveRegistryError> {
        self.inner.outstanding(id).await
    }

    async fn cleaned(&self, held: &Held, cleanup: &Cleanup) -> Result<bool, MoveRegistryError> {
        self.inner.cleaned(held, cleanup).await
    }

    async fn end(&self, held: &Held) -> Result<Option<Move>, MoveRegistryError> {
        self.inner.end(held).await
    }
}
