//! The two databases of a move: how they are reached, and what they hold.

use std::fmt::Write as _;
use std::sync::Arc;

use stagesub_tenancy::moves::{Move, MovePath, PlaneError, Side};
use stagesub_tenancy::{Placement, PlacementEpoch, PoolTarget, TenantId};
use uuid::Uuid;

use super::running::{Compared, Running, place, side_place};
use super::stamp::{self, Stamp};
use super::{PgDataPlane, error, opening};
use crate::identity::Identity;
use crate::logins::LoginRole;
use crate::moves::plan::{Checks, MovePlan};
use crate::moves::progress::Direction;
use crate::moves::session::{MoverSession, Site};
use crate::target::ConnectionTarget;

/// How the mover reaches both.
#[derive(Debug)]
pub(super) struct Ends([End; 2]);

#[derive(Debug)]
struct End {
    site: Site,
    login: ConnectionTarget,
}

impl Ends {
    pub(super) const fn site(&self, side: Side) -> &Site {
        &self.0[side_place(side)].site
    }

    /// As whom streams are read.
    pub(super) const fn login(&self, side: Side) -> &ConnectionTarget {
        &self.0[side_place(side)].login
    }
}

/// What is moved: of each stream, the tables where it comes from and what holds where it goes.
#[derive(Debug)]
pub(super) struct Plans {
    of: [MovePlan; 2],
    /// How the catalogues stood before they were read.
    stamps: [Stamp; 2],
}

impl Plans {
    pub(super) const fn of(&self, way: Direction) -> &MovePlan {
        &self.of[place(way)]
    }

    /// A side's own tables.
    pub(super) const fn at(&self, side: Side) -> &MovePlan {
        &self.of[side_place(side)]
    }
}

/// What is kept of how both sides are made.
pub(super) fn fingerprint(plans: &Plans) -> String {
    let digest = plans.of(Direction::Forward).fingerprint.digest();
    digest.iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("a String takes every text");
        hex
    })
}

impl PgDataPlane {
    /// Both databases, with the logins that the registry has for them.
    pub(super) async fn ends(&self, moved: &Move, running: &mut Running) -> Result<Arc<Ends>, PlaneError> {
        if let Some(ends) = &running.ends {
            return Ok(Arc::clone(ends));
        }
        let end = |placement| self.end(moved.id.as_uuid(), moved.tenant, placement);
        let mut ends = [end(moved.source).await?, end(moved.target).await?];
        // Where everything is copied while the tenant waits, nothing is slower than it has to be.
        if opening::pace(moved).is_limited() && moved.path != MovePath::Short {
            ends = ends.map(|End { site, login }| End { site: site.gentle(), login });
        }
        let ends = Ends(ends);
        Ok(Arc::clone(running.ends.insert(Arc::new(ends))))
    }

    async fn end(&self, id: Uuid, tenant: TenantId, placement: Placement) -> Result<End, PlaneError> {
        let database = placement.database();
        let found = self.logins.find_login(database, LoginRole::Mover).await;
        let login = found.map_err(error::directory("finding the mover's login"))?.ok_or_else(|| {
            PlaneError::Refused(format!(
                "the registry has no login of the mover for the database {database}; `stagesub migrate` makes one"
            ))
        })?;
        let identity = Identity::of(&pool_target(tenant, placement));
        Ok(End { site: Site::new(id, login.clone(), identity), login })
    }

    /// One side alone, where the other may be out of reach.
    pub(super) async fn site(&self, moved: &Move, side: Side) -> Result<Site, PlaneError> {
        self.site_of(moved.id.as_uuid(), moved.tenant, moved.placement(side)).await
    }

    /// Where a tenant is or may be, under this id.
    pub(super) async fn site_of(
        &self,
        id: Uuid,
        tenant: TenantId,
        placement: Placement,
    ) -> Result<Site, PlaneError> {
        Ok(self.end(id, tenant, placement).await?.site)
    }

    /// The session on a side that is kept for short questions.
    pub(super) async fn session(
        &self,
        moved: &Move,
        running: &mut Running,
        side: Side,
    ) -> Result<MoverSession, PlaneError> {
        if let Some(session) = running.take(side) {
            return Ok(session);
        }
        let ends = self.ends(moved, running).await?;
        let mut session = ends.site(side).open("ask").await.map_err(error::session)?;
        session.keep_to_indexes().await.map_err(error::session)?;
        session.plan_once().await.map_err(error::session)?;
        session.flush_commits().await.map_err(error::session)?;
        Ok(session)
    }

    /// What is moved. Both sides are made alike, and as they were when the move began.
    pub(super) async fn plans(&self, moved: &Move, running: &mut Running) -> Result<Arc<Plans>, PlaneError> {
        if let Some(plans) = &running.plans {
            return Ok(Arc::clone(plans));
        }
        let plans = Arc::new(self.read_plans(moved, running).await?);
        Ok(Arc::clone(running.plans.insert(plans)))
    }

    /// That the tables are as they were when they were read. Where they may not be they are read again, by whoever needs
    /// them next.
    pub(super) async fn as_they_were(&self, moved: &Move, running: &mut Running) -> Result<(), PlaneError> {
        let plans = self.plans(moved, running).await?;
        let mut source = self.session(moved, running, Side::Source).await?;
        let mut target = self.session(moved, running, Side::Target).await?;
        let stamps = self.stamps(moved, &mut source, &mut target).await?;
        running.put(Side::Source, source);
        running.put(Side::Target, target);
        if stamps == plans.stamps {
            return Ok(());
        }
        running.plans = None;
        // One that was emptied or written anew says so here, and no stream does.
        running.compared = Compared::default();
        Err(error::later("looking at the tables", "they may have been changed; they are read again"))
    }

    async fn stamps(
        &self,
        moved: &Move,
        source: &mut MoverSession,
        target: &mut MoverSession,
    ) -> Result<[Stamp; 2], PlaneError> {
        let schemas = &self.contents.schemas;
        let (source, target) =
            tokio::join!(stamp::read(source, schemas, moved.id), stamp::read(target, schemas, moved.id));
        Ok([source?, target?])
    }

    /// The same, read anew.
    async fn read_plans(&self, moved: &Move, running: &mut Running) -> Result<Plans, PlaneError> {
        let mut source = self.session(moved, running, Side::Source).await?;
        let mut target = self.session(moved, running, Side::Target).await?;
        let there = checks(target.may_skip_checks().await.map_err(error::session)?);
        let here = checks(source.may_skip_checks().await.map_err(error::session)?);
        let stamps = self.stamps(moved, &mut source, &mut target).await?;
        let (forward, reverse) = tokio::join!(
            MovePlan::read(&mut source, &self.contents, there),
            MovePlan::read(&mut target, &self.contents, here)
        );
        let (forward, reverse) = (forward.map_err(error::plan)?, reverse.map_err(error::plan)?);
        running.put(Side::Source, source);
        running.put(Side::Target, target);
        let differences = forward.fingerprint.differences(&reverse.fingerprint);
        if !differences.is_empty() {
            return Err(PlaneError::Refused(format!(
                "the two databases are not made alike: {}; bring both to the same version with `stagesub migrate`",
                differences.join("; ")
            )));
        }
        let plans = Plans { of: [forward, reverse], stamps };
        if moved.fingerprint.as_ref().is_some_and(|stored| *stored != fingerprint(&plans)) {
            return Err(PlaneError::Refused(
                "the tables were changed since the move began; begin it again when they are settled"
                    .to_owned(),
            ));
        }
        Ok(plans)
    }
}

pub(super) const fn checks(may_skip: bool) -> Checks {
    if may_skip { Checks::Skipped } else { Checks::Kept }
}

/// What the database of a placement has to say of itself.
fn pool_target(tenant: TenantId, placement: Placement) -> PoolTarget {
    match placement {
        Placement::Shared(database) => PoolTarget::Shared(database),
        Placement::Dedicated(database) => {
            // Whose it is counts here; at which epoch it serves is the fence's to say.
            PoolTarget::Dedicated { tenant, database, epoch: PlacementEpoch(0) }
        }
    }
}
