//! Making an orchestra, over two databases.
//!
//! The registry reserves its code and subdomain; one idempotent transaction fills its database; the registry
//! says `active`. Each step finds out by itself whether it was done before, so what a crash left is finished by
//! doing all of them again.

use chrono::{DateTime, Utc};
use serde_json::json;
use stagesub_id_gen::Kind;
use stagesub_tenancy::{Purpose, TenantCode, TenantId, TenantStatus};

use crate::actor::Actor;
use crate::audit::AuditAction;
use crate::error::{Constraint, FieldError, StoreError, UseCaseError, ValidationErrors};
use crate::idempotency::Asked;
use crate::ids::{InstrumentNo, PositionNo, RankingListNo};
use crate::instrument::{Instrument, ListType, Position, RankingList};
use crate::ports::UnitOfWork;
use crate::ports::registry::{DedicatedPlace, NewMember, NewTenant, Reservation, TenantAccount};
use crate::service::code::proposals;
use crate::service::context::Act;
use crate::service::tenants::{
    Platform, TRIAL, TenantDraft, broken, entry, get_tenant, parse_subdomain, taken,
};
use crate::settings::Settings;
use crate::starter;
use crate::subscription::{Limits, Resource, Tier};
use crate::validate::{Draft as _, Rule};

/// Makes an orchestra and gives it a trial of [`TRIAL`]. `id` is made by the caller.
///
/// # Errors
/// Before anything is reserved: [`UseCaseError::Invalid`] with everything that is wrong, [`UseCaseError::Taken`]
/// for subdomain or code. After that the tenant stays `provisioning` until [`recover_provisioning`] has finished
/// it, and its code and subdomain stay taken.
pub async fn create_tenant(
    platform: &Platform<'_>,
    actor: &Actor,
    id: TenantId,
    draft: TenantDraft,
    now: DateTime<Utc>,
) -> Result<TenantAccount, UseCaseError> {
    create_tenant_once(platform, actor, id, draft, None, now).await.map(|creation| creation.account)
}

/// An orchestra that a request asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Creation {
    /// The orchestra as it is now.
    pub account: TenantAccount,
    /// Whether an earlier request made it.
    pub is_again: bool,
}

/// As [`create_tenant`], for a request that may have been made before. If it was, the orchestra of that time is
/// answered, as it is now; its making is finished first if it had not been.
///
/// # Errors
/// Those of [`create_tenant`]; [`UseCaseError::KeyReused`] when the key names another request.
pub async fn create_tenant_once(
    platform: &Platform<'_>,
    actor: &Actor,
    id: TenantId,
    draft: TenantDraft,
    asked: Option<Asked>,
    now: DateTime<Utc>,
) -> Result<Creation, UseCaseError> {
    let (wants_dedicated, wanted) = (draft.dedicated, asked.as_ref().map(|asked| asked.fingerprint));
    match reserve(platform, actor, id, draft, asked, now).await? {
        Reservation::Made(account) => {
            let account = finish(platform, actor, account, wants_dedicated, now).await?;
            Ok(Creation { account, is_again: false })
        }
        Reservation::Before { fingerprint, .. } if Some(fingerprint) != wanted => {
            Err(UseCaseError::KeyReused)
        }
        // The first request may be at it still: each step finds out by itself whether it was done.
        Reservation::Before { account, dedicated, .. } if account.status == TenantStatus::Provisioning => {
            let account = finish(platform, actor, account, dedicated, now).await?;
            Ok(Creation { account, is_again: true })
        }
        Reservation::Before { account, .. } => Ok(Creation { account, is_again: true }),
    }
}

/// What became of a tenant whose setting up was begun and not ended.
#[derive(Debug)]
pub struct Recovery {
    /// Which.
    pub tenant: TenantId,
    /// The tenant, finished; or why it could not be.
    pub outcome: Result<TenantAccount, UseCaseError>,
}

/// Finishes every tenant that a crash left. One that cannot be finished is reported and does not stop the rest.
///
/// # Errors
/// When the registry does not tell which there are.
pub async fn recover_provisioning(
    platform: &Platform<'_>,
    actor: &Actor,
    now: DateTime<Utc>,
) -> Result<Vec<Recovery>, UseCaseError> {
    let mut recovered = Vec::new();
    for (account, dedicated) in platform.tenants.list_provisioning().await? {
        let tenant = account.id;
        let outcome = finish(platform, actor, account, dedicated, now).await;
        recovered.push(Recovery { tenant, outcome });
    }
    Ok(recovered)
}

/// Fills a new orchestra's database; tells whether it was empty. Leaves the commit to the caller.
pub async fn fill_orchestra(
    uow: &mut dyn UnitOfWork,
    act: &Act<'_>,
    tier: Tier,
    limits: Limits,
    limits_version: i64,
) -> Result<bool, UseCaseError> {
    if uow.starter().is_done().await? {
        return Ok(false);
    }
    uow.starter().insert_foundation(&Settings::default(), limits, limits_version).await?;
    let template = starter::sections(tier);
    let instruments = count(template.len());
    let positions = count(template.iter().map(|section| section.positions.len()).sum());
    let lists = positions * count(ListType::ALL.len());

    // What a new orchestra starts with is given whatever its limits are, and counts against them.
    let mut quota = uow.quotas().lock(Resource::Instruments).await?;
    if quota.used > 0 {
        // Another node was at it since the look above, and was done while this one waited for its rows.
        return Ok(false);
    }
    quota.used = signed(instruments);
    uow.quotas().update(&quota).await?;

    let mut instrument_numbers = numbers(uow, Kind::Instrument, instruments).await?;
    let mut position_numbers = numbers(uow, Kind::Position, positions).await?;
    let mut list_numbers = numbers(uow, Kind::RankingList, lists).await?;
    let mut rows = Rows::default();
    for (order, section) in (1..).zip(template) {
        let instrument = InstrumentNo::new(next(&mut instrument_numbers)?);
        rows.instruments.push(Instrument {
            no: instrument,
            name: section.instrument.to_owned(),
            display_order: Some(order),
            archived_at: None,
            created_at: act.now,
            updated_at: act.now,
        });
        for (level, name) in (1..).zip(section.positions) {
            let position = PositionNo::new(next(&mut position_numbers)?);
            rows.positions.push(Position {
                no: position,
                instrument,
                name: (*name).to_owned(),
                hierarchy_level: level,
                created_at: act.now,
                updated_at: act.now,
            });
            for list_type in ListType::ALL {
                rows.lists.push(RankingList {
                    no: RankingListNo::new(next(&mut list_numbers)?),
                    position,
                    list_type,
                    description: None,
                    created_at: act.now,
                });
            }
        }
    }
    uow.instruments().insert(rows.instruments).await?;
    uow.positions().insert(rows.positions).await?;
    uow.ranking_lists().insert(rows.lists).await?;
    let templates = starter::mail_templates(tier);
    let changes = json!({
        "subscription": tier.as_str(),
        "instruments": instruments,
        "positions": positions,
        "rankingLists": lists,
        "emailTemplates": templates.len(),
    });
    uow.starter().insert_templates(templates).await?;
    uow.audit().record(&act.entry(AuditAction::Provision, "tenant", None, Some(changes))).await?;
    Ok(true)
}

#[derive(Default)]
struct Rows {
    instruments: Vec<Instrument>,
    positions: Vec<Position>,
    lists: Vec<RankingList>,
}

async fn numbers(
    uow: &mut dyn UnitOfWork,
    kind: Kind,
    count: u32,
) -> Result<impl Iterator<Item = i64> + use<>, UseCaseError> {
    Ok(uow.sequences().reserve(kind, count).await.map_err(StoreError::from)?.numbers())
}

fn next(numbers: &mut impl Iterator<Item = i64>) -> Result<i64, UseCaseError> {
    let short =
        || StoreError::Corrupt { table: "id_counter", id: "too few numbers were reserved".to_owned() };
    Ok(numbers.next().ok_or_else(short)?)
}

fn signed(things: u32) -> i32 {
    i32::try_from(things).expect("a starting set is counted in hundreds")
}

fn count(things: usize) -> u32 {
    u32::try_from(things).expect("a starting set is counted in hundreds")
}

async fn reserve(
    platform: &Platform<'_>,
    actor: &Actor,
    id: TenantId,
    draft: TenantDraft,
    asked: Option<Asked>,
    now: DateTime<Utc>,
) -> Result<Reservation, UseCaseError> {
    let wanted_code = draft.code.clone().filter(|code| !code.trim().is_empty());
    let mut tenant = NewTenant { asked, ..check(id, draft, now)? };
    let audit = |tenant: &NewTenant| {
        let after = json!({ "after": {
            "name": tenant.name,
            "code": tenant.code,
            "subdomain": tenant.subdomain,
            "subscription": tenant.tier.as_str(),
            "dedicated": tenant.dedicated,
            "trialEndsAt": tenant.trial_ends_at,
        }});
        entry(actor, now, AuditAction::Create, id, Some(after))
    };
    if wanted_code.is_some() {
        return platform.tenants.reserve(&tenant, &audit(&tenant)).await.map_err(taken);
    }
    for code in proposals(&tenant.name) {
        if platform.tenants.code_is_taken(&code).await? {
            continue;
        }
        tenant.code = code;
        match platform.tenants.reserve(&tenant, &audit(&tenant)).await {
            // Another tenant took it between the look and the reservation.
            Err(StoreError::Conflict { constraint: Constraint::TenantCode }) => {}
            other => return other.map_err(taken),
        }
    }
    Err(UseCaseError::Taken { field: "code" })
}

/// Everything that is wrong with a draft, at once; a code that is to be proposed is the first proposal.
fn check(id: TenantId, draft: TenantDraft, now: DateTime<Utc>) -> Result<NewTenant, ValidationErrors> {
    let mut errors = Vec::new();
    let checked = draft.clone().checked();
    if let Err(broken) = &checked {
        errors.extend(broken.0.iter().cloned());
    }
    let draft = checked.unwrap_or(draft);
    let subdomain = parse_subdomain(draft.subdomain.trim(), &mut errors);
    let code = parse_code(&draft, &mut errors);
    if draft.dedicated && draft.tier != Tier::Institution {
        let message = "a database of its own comes with the institution tier";
        errors.push(broken("placement", Rule::Subscription, message));
    }
    match (subdomain, code) {
        (Some(subdomain), Some(code)) if errors.is_empty() => Ok(NewTenant {
            id,
            code,
            name: draft.name,
            subdomain,
            tier: draft.tier,
            limits: draft.tier.limits(),
            trial_ends_at: Some(now + TRIAL),
            dedicated: draft.dedicated,
            admin: draft.admin.map(|admin| NewMember {
                id: admin.id,
                email: admin.email,
                first_name: admin.first_name,
                last_name: admin.last_name,
                password_hash: admin.password_hash,
            }),
            asked: None,
            now,
        }),
        _ => Err(ValidationErrors(errors)),
    }
}

fn parse_code(draft: &TenantDraft, errors: &mut Vec<FieldError>) -> Option<TenantCode> {
    let Some(code) = draft.code.as_deref().map(str::trim).filter(|code| !code.is_empty()) else {
        let code = proposals(&draft.name).next();
        if code.is_none() && errors.is_empty() {
            let message = "a code of 2 to 6 of A-Z and 0-9: the name has no letters to propose one from";
            errors.push(broken("code", Rule::Required, message));
        }
        return code;
    };
    match code.parse() {
        Ok(code) => Some(code),
        Err(error) => {
            errors.push(broken("code", Rule::Format, format!("{error}")));
            None
        }
    }
}

/// Every step after the reservation; each may have been done before.
async fn finish(
    platform: &Platform<'_>,
    actor: &Actor,
    account: TenantAccount,
    dedicated: bool,
    now: DateTime<Utc>,
) -> Result<TenantAccount, UseCaseError> {
    let id = account.id;
    let database = if let Some(placement) = account.placement {
        placement.database()
    } else {
        let database = if dedicated {
            platform.databases.create_dedicated(id, &DedicatedPlace::Beside).await?
        } else {
            platform.databases.choose_shared().await?
        };
        platform.tenants.place(id, database, dedicated).await?;
        database
    };
    platform.databases.admit(id, database).await?;
    (platform.invalidate)(id);
    let mut unit = platform.begin(id, Purpose::Provisioning, now).await?;
    let act = Act { actor, code: &account.code, now };
    if fill_orchestra(&mut *unit, &act, account.tier, account.limits, account.version).await? {
        unit.commit().await?;
    }
    let entry = entry(actor, now, AuditAction::Provision, id, None);
    // `false`: another node finished it meanwhile, which is as good.
    platform.tenants.set_status(id, vec![TenantStatus::Provisioning], TenantStatus::Active, &entry).await?;
    (platform.invalidate)(id);
    get_tenant(platform.tenants, id).await
}

#[cfg(test)]
mod tests {
    use stagesub_tenancy::Placement;
    use uuid::Uuid;

    use super::*;
    use crate::ports::quotas::Quota;
    use crate::service::fixture::{Stage, UNLIMITED, actions, moment};
    use crate::service::fixture_platform::{SHARED, World, tenant_id};
    use crate::service::tenants::PersonDraft;
    use crate::testing::InMemoryUnit;

    fn draft(name: &str, subdomain: &str) -> TenantDraft {
        TenantDraft {
            name: name.to_owned(),
            subdomain: subdomain.to_owned(),
            code: None,
            tier: Tier::Small,
            dedicated: false,
            admin: Some(PersonDraft {
                id: Uuid::from_u128(9),
                email: " Chef@gso.se ".to_owned(),
                first_name: "Eva".to_owned(),
                last_name: "Hav".to_owned(),
                password_hash: None,
            }),
        }
    }

    async fn create(world: &World, number: u128, draft: TenantDraft) -> Result<TenantAccount, UseCaseError> {
        let actor = Actor::system();
        world
            .with(async |platform| create_tenant(platform, &actor, tenant_id(number), draft, moment(0)).await)
            .await
    }

    async fn recover(world: &World) -> Vec<Recovery> {
        let actor = Actor::system();
        world
            .with(async |platform| recover_provisioning(platform, &actor, moment(1)).await)
            .await
            .expect("the registry tells")
    }

    #[tokio::test]
    async fn an_orchestra_is_reserved_placed_admitted_filled_and_opened_in_that_order() {
        let world = World::default();
        let made = create(&world, 1, draft(" Göteborgs Symfoniker ", "gbg")).await.expect("made");
        assert_eq!((made.code.as_str(), made.name.as_str()), ("GOT", "Göteborgs Symfoniker"));
        assert_eq!((made.status, made.placement), (TenantStatus::Active, Some(Placement::Shared(SHARED))));
        assert_eq!(made.trial_ends_at, Some(moment(30)));
        let state = world.state();
        assert_eq!(state.steps, ["reserve", "choose_shared", "place", "admit", "begin", "set_status"]);
        assert_eq!(state.admins[0].email, "Chef@gso.se");
        assert_eq!(state.invalidated, [tenant_id(1), tenant_id(1)]);
        let done: Vec<_> = state.audit.iter().map(|entry| entry.action).collect();
        assert_eq!(done, [AuditAction::Create, AuditAction::Provision]);
        let rows = state.orchestras[&tenant_id(1)].rows();
        assert!(rows.committed);
        assert_eq!((rows.instruments.len(), rows.positions.len(), rows.lists.len()), (7, 24, 72));
        assert_eq!((rows.templates.len(), rows.quotas[&Resource::Instruments].used), (4, 7));
        assert_eq!(rows.quotas[&Resource::Musicians].limit, Some(50));
    }

    #[tokio::test]
    async fn whatever_step_fails_recovery_finishes_the_orchestra_once() {
        for dedicated in [false, true] {
            for step in 1..6 {
                let world = World::default();
                world.state().fails_at = Some(step);
                let tier = if dedicated { Tier::Institution } else { Tier::Medium };
                let wanted = TenantDraft { tier, dedicated, ..draft("Malmö", "malmo") };
                create(&world, 1, wanted).await.expect_err("the fault");
                world.state().fails_at = None;
                let recovered = recover(&world).await;
                assert_eq!(recovered.len(), 1, "step {step}");
                let account = recovered[0].outcome.as_ref().expect("finished");
                assert_eq!(account.status, TenantStatus::Active);
                assert_eq!(matches!(account.placement, Some(Placement::Dedicated(_))), dedicated);
                let orchestra = world.state().orchestras[&tenant_id(1)].clone();
                let rows = orchestra.rows().clone();
                assert_eq!((rows.instruments.len(), rows.positions.len(), rows.lists.len()), (14, 43, 129));
                assert_eq!(rows.templates.len(), 8);
                assert_eq!(actions(&orchestra), [AuditAction::Provision], "filled once");
                assert!(recover(&world).await.is_empty());
            }
        }
    }

    #[tokio::test]
    async fn one_that_cannot_be_finished_does_not_stop_the_rest() {
        let world = World::default();
        for (number, name, subdomain) in [(1, "Malmö", "malmo"), (2, "Umeå", "umea")] {
            let next = world.state().steps.len() + 1;
            world.state().fails_at = Some(next);
            create(&world, number, draft(name, subdomain)).await.expect_err("the fault");
        }
        let next = world.state().steps.len();
        world.state().fails_at = Some(next);
        let recovered = recover(&world).await;
        assert_eq!(recovered[0].tenant, tenant_id(1));
        assert!(matches!(recovered[0].outcome, Err(UseCaseError::Store(StoreError::Unavailable(_)))));
        assert!(recovered[1].outcome.is_ok());
    }

    #[tokio::test]
    async fn codes_are_proposed_until_one_is_free_and_a_stated_one_must_be() {
        let world = World::default();
        let mut codes = Vec::new();
        for (number, subdomain) in (1..).zip(["a1", "b1", "c1", "d1", "e1", "f1"]) {
            codes.push(
                create(&world, number, draft("Malmö", subdomain)).await.expect("made").code.to_string(),
            );
        }
        assert_eq!(codes, ["MAL", "MALM", "MALMO", "MA", "MAL2", "MAL3"]);
        let stated = TenantDraft { code: Some("MAL".to_owned()), ..draft("Malta", "malta") };
        let refused = create(&world, 9, stated).await;
        assert!(matches!(refused, Err(UseCaseError::Taken { field: "code" })));
        let refused = create(&world, 9, draft("Malmö", "a1")).await;
        assert!(matches!(refused, Err(UseCaseError::Taken { field: "subdomain" })));
    }

    #[tokio::test]
    async fn everything_that_is_wrong_is_told_before_anything_is_reserved() {
        let world = World::default();
        let mut wrong = TenantDraft { code: Some("got".to_owned()), dedicated: true, ..draft("", "www") };
        wrong.admin.as_mut().expect("an admin").email = "chef".to_owned();
        let error = create(&world, 1, wrong).await.expect_err("wrong");
        let UseCaseError::Invalid(errors) = error else { panic!("{error:?}") };
        let mut told: Vec<_> = errors.0.iter().map(|error| (error.field.as_str(), error.rule)).collect();
        told.sort_unstable();
        assert_eq!(
            told,
            [
                ("admin.email", "email"),
                ("code", "format"),
                ("name", "length"),
                ("placement", "subscription"),
                ("subdomain", "reserved"),
            ]
        );
        assert!(world.state().steps.is_empty());
    }

    #[tokio::test]
    async fn a_name_without_letters_needs_a_code() {
        let error = create(&World::default(), 1, draft("♪♪♪", "noter")).await.expect_err("no proposal");
        assert!(matches!(error, UseCaseError::Invalid(errors)
            if errors.0[0].field == "code" && errors.0[0].rule == "required"));
    }

    fn asked(what: u8) -> Asked {
        Asked {
            user: Uuid::from_u128(5),
            key: "en-nyckel".parse().expect("a key"),
            fingerprint: crate::idempotency::Fingerprint::new([what; 32]),
        }
    }

    async fn create_once(world: &World, number: u128, asked: Asked) -> Result<Creation, UseCaseError> {
        let (actor, draft) = (Actor::system(), draft("Umeå", "umea"));
        world
            .with(async |platform| {
                create_tenant_once(platform, &actor, tenant_id(number), draft, Some(asked), moment(0)).await
            })
            .await
    }

    #[tokio::test]
    async fn a_request_that_is_made_again_gets_its_tenant_and_no_second_one() {
        let world = World::default();
        let first = create_once(&world, 1, asked(1)).await.expect("made");
        let again = create_once(&world, 2, asked(1)).await.expect("told");
        assert_eq!((first.is_again, again.is_again), (false, true));
        assert_eq!(again.account, first.account);
        assert!(matches!(create_once(&world, 3, asked(2)).await, Err(UseCaseError::KeyReused)));
        assert_eq!(world.state().accounts.len(), 1);
    }

    #[tokio::test]
    async fn a_request_that_is_made_again_finishes_what_was_left_at_any_step() {
        let steps = {
            let world = World::default();
            create_once(&world, 1, asked(1)).await.expect("made");
            world.state().steps.len()
        };
        for fails_at in 0..steps {
            let world = World::default();
            world.state().fails_at = Some(fails_at);
            assert!(create_once(&world, 1, asked(1)).await.is_err(), "step {fails_at} failed");
            world.state().fails_at = None;
            let again = create_once(&world, 2, asked(1)).await.expect("finished");
            assert_eq!(again.account.status, TenantStatus::Active, "step {fails_at}");
            assert_eq!(again.is_again, fails_at > 0, "step {fails_at}");
            assert_eq!(world.state().accounts.len(), 1, "step {fails_at}");
        }
    }

    #[tokio::test]
    async fn filling_twice_fills_once_and_counts_whatever_the_limits_are() {
        let (stage, mut unit) = (Stage::new(), InMemoryUnit::default());
        let limits = Limits { instruments: Some(3), ..UNLIMITED };
        let act = stage.act();
        assert!(fill_orchestra(&mut unit, &act, Tier::Medium, limits, 5).await.expect("filled"));
        let before = unit.rows().clone();
        assert_eq!(before.quotas[&Resource::Instruments].used, 14);
        assert_eq!(before.limits_version, 5);
        assert_eq!(before.positions[&1].name, "Förste konsertmästare");
        assert_eq!((before.positions[&5].hierarchy_level, before.positions[&6].hierarchy_level), (5, 1));
        assert!(!fill_orchestra(&mut unit, &act, Tier::Medium, limits, 5).await.expect("filled"));
        assert_eq!(*unit.rows(), before);
    }

    #[tokio::test]
    async fn whoever_waited_for_another_to_fill_it_adds_nothing() {
        let (stage, mut unit) = (Stage::new(), InMemoryUnit::default());
        // As the locked row shows it after the wait; the look before saw nothing yet.
        let resource = Resource::Instruments;
        unit.rows().quotas.insert(resource, Quota { resource, used: 7, limit: None, grace_until: None });
        assert!(!fill_orchestra(&mut unit, &stage.act(), Tier::Small, UNLIMITED, 5).await.expect("told"));
        assert!(unit.rows().instruments.is_empty());
        assert!(unit.rows().audit.is_empty());
    }
}
