use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use stagesub_tenancy::PlacementEpoch;
use stagesub_tenancy::moves::TenantSize;
use stagesub_tenancy::moves::plane::MockDataPlane;
use stagesub_tenancy::moves::registry::MockMoveRegistry;
use stagesub_tenancy::moves::survey::MockSurveyor;
use uuid::Uuid;

use super::*;
use crate::idempotency::Fingerprint;
use crate::ports::moves::MockMoveDesk;
use crate::ports::registry::{MockTenantDatabases, MockTenantRegistry};
use crate::service::fixture::moment;
use crate::service::fixture_platform::tenant_id;

const SHARED: DatabaseId = DatabaseId::from_uuid(Uuid::from_u128(1));
const OTHER: DatabaseId = DatabaseId::from_uuid(Uuid::from_u128(2));
const OWN: DatabaseId = DatabaseId::from_uuid(Uuid::from_u128(3));

fn fresh(id: u128) -> Fresh {
    Fresh { id: MoveId::from_uuid(Uuid::from_u128(id)), prefix: MovePrefix::from_bytes([7; 16]) }
}

fn account(number: u128, tier: Tier, status: TenantStatus, placement: Placement) -> TenantAccount {
    TenantAccount {
        id: tenant_id(number),
        code: "GOT".parse().unwrap(),
        name: "Götaälvens".to_owned(),
        subdomain: "got".parse().unwrap(),
        tier,
        limits: tier.limits(),
        status,
        trial_ends_at: None,
        subscription_ends_at: None,
        custom_branding: None,
        email_domain: None,
        placement: Some(placement),
        version: 1,
        created_at: moment(0),
        updated_at: moment(0),
    }
}

fn stored(wanted: &NewMove, source: Placement) -> Move {
    let target =
        if wanted.target == OWN { Placement::Dedicated(OWN) } else { Placement::Shared(wanted.target) };
    let source = Located { tenant: wanted.tenant, placement: source, epoch: PlacementEpoch(5) };
    Move::begun(wanted.clone(), source, target, moment(0))
}

/// A platform with one orchestra, that has a move when one was begun.
struct World {
    account: TenantAccount,
    rows: u64,
    /// Whether the servers of a shared database and of the orchestra's own decode.
    decodes: [bool; 2],
    own_is_there: bool,
    obstacles: Vec<String>,
    obstacles_at_source: Vec<String>,
    place_refused: Option<String>,
    refusal: Option<Refusal>,
    stored: Mutex<Vec<Move>>,
    made: AtomicU32,
    woken: AtomicU32,
    keys: Mutex<Vec<(Asked, MoveId)>>,
}

impl World {
    fn new(tier: Tier) -> Self {
        Self {
            account: account(1, tier, TenantStatus::Active, Placement::Shared(SHARED)),
            rows: 6_000,
            decodes: [true, true],
            own_is_there: true,
            obstacles: Vec::new(),
            obstacles_at_source: Vec::new(),
            place_refused: None,
            refusal: None,
            stored: Mutex::default(),
            made: AtomicU32::new(0),
            woken: AtomicU32::new(0),
            keys: Mutex::default(),
        }
    }

    fn tenants(&self) -> MockTenantRegistry {
        let mut tenants = MockTenantRegistry::new();
        let account = self.account.clone();
        let known = account.id;
        tenants.expect_exists().returning(move |id| Ok(id == known));
        tenants.expect_find().returning(move |id| Ok((id == account.id).then(|| account.clone())));
        tenants
    }

    async fn with<T>(&self, work: impl AsyncFnOnce(&Moving<'_>) -> T) -> T {
        let tenants = self.tenants();
        let (mut databases, mut plane) = (MockTenantDatabases::new(), MockDataPlane::new());
        // What is shared with the mocks for the time of one call.
        let made = std::sync::Arc::new(AtomicU32::new(0));
        let counted = made.clone();
        databases.expect_create_dedicated().returning(move |_, _| {
            counted.fetch_add(1, Ordering::Relaxed);
            Ok(OWN)
        });
        let obstacles = self.obstacles.clone();
        plane.expect_preflight().returning(move |moved| {
            assert_eq!((moved.state, moved.epoch.0), (MoveState::Prepare, 5));
            Ok(obstacles.clone())
        });
        let new = NewTarget { decodes: self.decodes[1], ..NewTarget::default() };
        let (looked, refuses) = (new.clone(), self.place_refused.clone());
        databases.expect_look_at().returning(move |_, _| match &refuses {
            Some(reason) => Err(DatabaseError::Refused { reason: reason.clone() }),
            None => Ok(Prospect::ToBeMade(looked.clone())),
        });
        let (obstacles, usable) = (self.obstacles_at_source.clone(), self.place_refused.is_none());
        plane.expect_preflight_source().returning(move |source, path, target| {
            assert_eq!((source.epoch.0, source.placement.database()), (5, SHARED));
            assert_eq!(target, usable.then(|| new.clone()), "what was found there is looked at");
            assert!(path != MovePath::Triggers || !new.decodes);
            Ok(obstacles.clone())
        });
        let mut surveyor = MockSurveyor::new();
        let (rows, [shared, own]) = (self.rows, self.decodes);
        surveyor.expect_rows().returning(move |_, _, most| Ok(rows.min(most + 1)));
        surveyor.expect_decodes().returning(move |_, placement| {
            Ok(if matches!(placement, Placement::Shared(_)) { shared } else { own })
        });
        let size = |number, rows, bytes| TenantSize { tenant: tenant_id(number), rows, bytes };
        surveyor
            .expect_sizes()
            .returning(move |_| Ok(vec![size(9, 1_000_000, 1), size(1, 70, 9_000), size(8, 10, 10)]));
        let moves = std::sync::Arc::new(Mutex::new(self.stored.lock().unwrap().clone()));
        let keys = std::sync::Arc::new(Mutex::new(self.keys.lock().unwrap().clone()));
        let (desk, registry) = (self.desk(&keys), self.registry(&moves));
        let wake = || {
            self.woken.fetch_add(1, Ordering::Relaxed);
        };
        let moving = Moving {
            tenants: &tenants,
            databases: &databases,
            desk: &desk,
            moves: &registry,
            plane: &plane,
            surveyor: &surveyor,
            wake: &wake,
        };
        let done = work(&moving).await;
        self.made.fetch_add(made.load(Ordering::Relaxed), Ordering::Relaxed);
        self.stored.lock().unwrap().clone_from(&moves.lock().unwrap());
        self.keys.lock().unwrap().clone_from(&keys.lock().unwrap());
        done
    }

    fn desk(&self, keys: &std::sync::Arc<Mutex<Vec<(Asked, MoveId)>>>) -> MockMoveDesk {
        let mut desk = MockMoveDesk::new();
        let own = self.own_is_there.then_some(OWN);
        desk.expect_find_own().returning(move |_| Ok(own));
        desk.expect_find_shared().returning(|id| Ok([SHARED, OTHER].contains(&id).then_some(id)));
        desk.expect_choose_other_shared().returning(|than| Ok((than != OTHER).then_some(OTHER)));
        let known = keys.clone();
        desk.expect_claim_key().returning(move |asked, _, id, _| {
            let mut known = known.lock().unwrap();
            if let Some((before, id)) = known.iter().find(|(one, _)| one.key == asked.key) {
                return Ok(KeyedMove::Before { fingerprint: before.fingerprint, id: Some(*id) });
            }
            known.push((asked.clone(), id));
            Ok(KeyedMove::Now)
        });
        let known = keys.clone();
        desk.expect_forget_key().returning(move |asked, id| {
            known.lock().unwrap().retain(|(one, kept)| (&one.key, *kept) != (&asked.key, id));
            Ok(())
        });
        desk
    }

    fn registry(&self, paper: &std::sync::Arc<Mutex<Vec<Move>>>) -> MockMoveRegistry {
        let mut registry = MockMoveRegistry::new();
        let placement = self.account.placement.unwrap();
        registry
            .expect_placement()
            .returning(move |tenant| Ok(Some(Located { tenant, placement, epoch: PlacementEpoch(5) })));
        let known = paper.clone();
        registry.expect_live_of().returning(move |_| Ok(known.lock().unwrap().first().cloned()));
        let known = paper.clone();
        registry
            .expect_find()
            .returning(move |id| Ok(known.lock().unwrap().iter().find(|moved| moved.id == id).cloned()));
        let (known, refusal) = (paper.clone(), self.refusal);
        registry.expect_begin().returning(move |wanted| {
            if let Some(refusal) = refusal {
                return Err(BeginMoveError::Refused(refusal));
            }
            let moved = stored(wanted, placement);
            known.lock().unwrap().push(moved.clone());
            Ok(moved)
        });
        let known = paper.clone();
        registry.expect_request().returning(move |id, request, _| {
            let known = known.lock().unwrap();
            Ok(match known.iter().find(|moved| moved.id == id).cloned() {
                None => Requested::Unknown,
                Some(moved) if moved.state.takes(request, moved.path) && moved.wanted.is_none() => {
                    Requested::Accepted(Move { wanted: Some(request), ..moved })
                }
                Some(moved) => Requested::Refused(moved),
            })
        });
        registry
    }

    async fn start(
        &self,
        draft: &MoveDraft,
        id: u128,
        asked: Option<Asked>,
    ) -> Result<Started, UseCaseError> {
        let tenant = self.account.id;
        self.with(async |moving| {
            start_move(moving, Requester::Platform, tenant, draft, fresh(id), asked, moment(1)).await
        })
        .await
    }

    async fn plan(&self, draft: &MoveDraft) -> Result<Outlook, UseCaseError> {
        let tenant = self.account.id;
        self.with(async |moving| {
            plan_move(moving, Requester::Platform, tenant, draft, fresh(1), moment(1)).await
        })
        .await
    }
}

fn own() -> MoveDraft {
    MoveDraft { to: Destination::Own(DedicatedPlace::Beside), path: None, pace: Pace::Usual }
}

fn shared(database: Option<DatabaseId>) -> MoveDraft {
    MoveDraft { to: Destination::Shared(database), ..own() }
}

fn asked(key: &str, fingerprint: u8) -> Asked {
    let fingerprint = Fingerprint::new([fingerprint; Fingerprint::LEN]);
    Asked { user: Uuid::from_u128(9), key: key.parse().unwrap(), fingerprint }
}

fn detail(result: Result<impl std::fmt::Debug, UseCaseError>) -> String {
    match result {
        Err(UseCaseError::WrongState { detail }) => detail,
        other => panic!("it is refused in words: {other:?}"),
    }
}

#[tokio::test]
async fn an_institution_moves_to_a_database_of_its_own_which_is_made_first() {
    let world = World { own_is_there: false, ..World::new(Tier::Institution) };
    let started = world.start(&own(), 1, None).await.unwrap();
    assert_eq!((started.moved.target, started.moved.pace), (Placement::Dedicated(OWN), Some(Pace::USUAL)));
    assert_eq!((world.made.into_inner(), world.woken.into_inner(), started.is_again), (1, 1, false));

    for tier in [Tier::Small, Tier::Medium] {
        let world = World::new(tier);
        let refused = world.start(&own(), 1, None).await;
        assert!(matches!(refused, Err(UseCaseError::Invalid(errors)) if errors.0[0].rule == "subscription"));
        assert_eq!((world.made.into_inner(), world.woken.into_inner()), (0, 0));
    }
}

#[tokio::test]
async fn a_database_of_its_own_that_is_there_is_gone_to_wherever_it_is() {
    let world = World::new(Tier::Institution);
    let started = world.start(&own(), 1, None).await.unwrap();
    assert_eq!(started.moved.target, Placement::Dedicated(OWN));
    assert_eq!(world.made.into_inner(), 0, "nobody looks for it on the server of the shared database");
    // A place that is named is looked at.
    let world = World::new(Tier::Institution);
    let server = Destination::Own(DedicatedPlace::Server("postgres://u@h/postgres".into()));
    world.start(&MoveDraft { to: server, ..own() }, 1, None).await.unwrap();
    assert_eq!(world.made.into_inner(), 1);
}

#[tokio::test]
async fn the_path_fits_the_size_and_what_both_servers_can_do() {
    let path = async |rows, decodes, path| {
        let world = World { rows, decodes, ..World::new(Tier::Institution) };
        world.start(&MoveDraft { path, ..own() }, 1, None).await.unwrap().moved.path
    };
    assert_eq!(path(SHORT_ROWS, [false, false], None).await, MovePath::Short);
    assert_eq!(path(SHORT_ROWS + 1, [true, true], None).await, MovePath::Stream);
    assert_eq!(path(SHORT_ROWS + 1, [false, true], None).await, MovePath::Triggers);
    assert_eq!(path(SHORT_ROWS + 1, [true, false], None).await, MovePath::Triggers);
    assert_eq!(path(7, [true, true], Some(MovePath::Stream)).await, MovePath::Stream);
    assert_eq!(path(SHORT_ROWS, [true, true], Some(MovePath::Short)).await, MovePath::Short);

    let world = World { rows: SHORT_ROWS + 1, ..World::new(Tier::Institution) };
    let refused = world.start(&MoveDraft { path: Some(MovePath::Short), ..own() }, 1, None).await;
    assert!(matches!(refused, Err(UseCaseError::Invalid(errors)) if errors.0[0].field == "path"));
    assert_eq!(world.woken.into_inner(), 0);
}

#[tokio::test]
async fn a_shared_target_is_the_one_named_or_the_emptiest_other() {
    let world = World::new(Tier::Small);
    assert_eq!(world.start(&shared(None), 1, None).await.unwrap().moved.target, Placement::Shared(OTHER));
    let world = World::new(Tier::Small);
    assert_eq!(
        detail(world.start(&shared(Some(SHARED)), 1, None).await),
        "the orchestra is in that database already"
    );
    assert!(detail(world.start(&shared(Some(OWN)), 1, None).await).contains("stagesub database list"));
    let world =
        World { account: account(1, Tier::Small, TenantStatus::Active, Placement::Shared(OTHER)), ..world };
    assert!(detail(world.start(&shared(None), 1, None).await).contains("stagesub database add"));
}

#[tokio::test]
async fn refusals_say_what_to_do_and_come_before_a_database_is_made() {
    let mut world = World { own_is_there: false, ..World::new(Tier::Institution) };
    world.account.status = TenantStatus::Suspended;
    assert!(detail(world.start(&own(), 1, None).await).contains("resume it first"));
    world.account.status = TenantStatus::Closing;
    assert!(detail(world.start(&own(), 1, None).await).contains("closing"));
    world.account.status = TenantStatus::Active;
    let first = world.start(&own(), 1, None).await.unwrap().moved.id;
    assert!(detail(world.start(&own(), 2, None).await).contains(&first.to_string()));
    assert_eq!(world.made.load(Ordering::Relaxed), 1);
    world.stored.lock().unwrap().clear();
    world.account.placement = Some(Placement::Dedicated(OWN));
    assert!(detail(world.start(&own(), 2, None).await).contains("already"));
    let unknown = world
        .with(async |moving| {
            start_move(moving, Requester::Platform, tenant_id(7), &own(), fresh(2), None, moment(1)).await
        })
        .await;
    assert!(matches!(unknown, Err(UseCaseError::UnknownTenant)));
    assert_eq!(world.made.into_inner(), 1);
}

#[tokio::test]
async fn no_database_is_made_while_something_stands_in_the_way_where_the_orchestra_is() {
    let obstacles = ["no slot is free", "nor is a sender"].map(str::to_owned).to_vec();
    let world =
        World { own_is_there: false, obstacles_at_source: obstacles, ..World::new(Tier::Institution) };
    assert_eq!(detail(world.start(&own(), 1, None).await), "no slot is free; nor is a sender");
    assert_eq!((world.made.load(Ordering::Relaxed), world.woken.load(Ordering::Relaxed)), (0, 0));
    // Where there is one the mover looks at both.
    let world = World { own_is_there: true, ..world };
    world.start(&own(), 1, None).await.unwrap();
    let world =
        World { own_is_there: false, obstacles_at_source: Vec::new(), ..World::new(Tier::Institution) };
    world.start(&own(), 1, None).await.unwrap();
    assert_eq!(world.made.into_inner(), 1);
}

#[tokio::test]
async fn a_key_begins_one_move_and_what_was_refused_keeps_none() {
    let world = World::new(Tier::Institution);
    let first = world.start(&own(), 1, Some(asked("k", 1))).await.unwrap();
    let again = world.start(&own(), 2, Some(asked("k", 1))).await.unwrap();
    assert_eq!((again.moved.id, first.is_again, again.is_again), (first.moved.id, false, true));
    assert!(matches!(world.start(&own(), 3, Some(asked("k", 2))).await, Err(UseCaseError::KeyReused)));

    // One that was cut off between the key and the move is begun under the key's id.
    world.stored.lock().unwrap().clear();
    let resumed = world.start(&own(), 4, Some(asked("k", 1))).await.unwrap();
    assert_eq!((resumed.moved.id, resumed.is_again), (first.moved.id, false));

    let world = World { refusal: Some(Refusal::Anothers(OWN)), ..World::new(Tier::Institution) };
    assert!(detail(world.start(&own(), 1, Some(asked("k", 1))).await).contains("another orchestra's own"));
    assert_eq!(*world.keys.lock().unwrap(), []);
}

#[tokio::test]
async fn a_plan_changes_nothing_and_tells_what_stands_in_the_way() {
    let world = World { obstacles: vec!["no slot is free".to_owned()], ..World::new(Tier::Institution) };
    let outlook = world.plan(&own()).await.unwrap();
    assert_eq!((outlook.target, outlook.path, outlook.rows), (Some(OWN), MovePath::Stream, None));
    assert_eq!(outlook.obstacles, ["no slot is free"]);
    // What is not there cannot be looked at; where the orchestra is can.
    let world = World {
        own_is_there: false,
        rows: 12,
        obstacles_at_source: vec!["it is not open".to_owned()],
        ..world
    };
    let outlook = world.plan(&own()).await.unwrap();
    assert_eq!((outlook.target, outlook.path, outlook.rows), (None, MovePath::Short, Some(12)));
    assert_eq!(outlook.obstacles, ["it is not open"]);
    // Nor does the path stream to a server that does not decode.
    let world = World { rows: 6_000, decodes: [true, false], ..world };
    assert_eq!(world.plan(&own()).await.unwrap().path, MovePath::Triggers);
    assert_eq!((world.made.into_inner(), world.woken.into_inner()), (0, 0));
    assert!(world.stored.into_inner().unwrap().is_empty());
}

#[tokio::test]
async fn a_place_that_is_named_is_looked_at_by_a_plan_and_before_anything_is_made() {
    let place = Destination::Own(DedicatedPlace::Database("postgres://u@h/theirs".into()));
    let draft = MoveDraft { to: place, ..own() };
    for own_is_there in [false, true] {
        let world = World {
            own_is_there,
            place_refused: Some("h:5432/theirs is not empty; name another".to_owned()),
            obstacles_at_source: vec!["no slot is free".to_owned()],
            ..World::new(Tier::Institution)
        };
        let outlook = world.plan(&draft).await.unwrap();
        assert_eq!(outlook.target, None);
        assert_eq!(outlook.obstacles, ["no slot is free", "h:5432/theirs is not empty; name another"]);
        assert_eq!(detail(world.start(&draft, 1, None).await), "h:5432/theirs is not empty; name another");
        assert_eq!((world.made.into_inner(), world.woken.into_inner()), (0, 0));
    }
}

#[tokio::test]
async fn what_cannot_be_asked_is_told_with_what_can() {
    let world = World::new(Tier::Institution);
    let id = world.start(&own(), 1, None).await.unwrap().moved.id;
    let ask = async |id, request| {
        world.with(async |moving| ask_of_move(moving, Requester::Platform, id, request).await).await
    };
    assert_eq!(ask(id, Request::Abort).await.unwrap().wanted, Some(Request::Abort));
    assert!(matches!(ask(fresh(9).id, Request::Abort).await, Err(UseCaseError::UnknownMove)));
    let set = |state, path, wanted| {
        let mut stored = world.stored.lock().unwrap();
        (stored[0].state, stored[0].path, stored[0].wanted) = (state, path, wanted);
    };
    for (state, path, wanted, request, words) in [
        (MoveState::Copy, MovePath::Stream, None, Request::Back, "once it is active"),
        (MoveState::Copy, MovePath::Stream, None, Request::Finish, "once it is active"),
        (MoveState::Active, MovePath::Stream, None, Request::Abort, "go back or finish"),
        (MoveState::Active, MovePath::Short, None, Request::Back, "keeps no way back"),
        (MoveState::Active, MovePath::Stream, Some(Request::Back), Request::Finish, "back was asked"),
        (MoveState::Finished, MovePath::Stream, None, Request::Back, "begin a move"),
        (MoveState::Finished, MovePath::Stream, None, Request::Abort, "stays where it is"),
        (MoveState::Aborted, MovePath::Stream, None, Request::Finish, "was aborted"),
    ] {
        set(state, path, wanted);
        let told = detail(ask(id, request).await);
        assert!(told.contains(words), "{state} {request}: {told}");
    }
}

#[tokio::test]
async fn the_largest_are_those_that_are_there_each_with_whether_it_may() {
    let find = async |world: &World, by| {
        let found = world.with(async |moving| largest(moving, SHARED, by, 2).await).await.unwrap();
        found.into_iter().map(|one| (one.account.id, one.rows, one.refusal)).collect::<Vec<_>>()
    };
    let mut world = World::new(Tier::Institution);
    assert_eq!(find(&world, By::Rows).await, [(tenant_id(1), 70, None)]);
    world.account.tier = Tier::Medium;
    let found = find(&world, By::Bytes).await;
    assert!(found[0].2.as_ref().is_some_and(|why| why.contains("medium")), "{found:?}");
    let unknown = world.with(async |moving| largest(moving, OWN, By::Rows, 2).await).await;
    assert!(detail(unknown).contains("database list"));
    world.account.placement = Some(Placement::Dedicated(OWN));
    assert_eq!(find(&world, By::Rows).await, []);
}
