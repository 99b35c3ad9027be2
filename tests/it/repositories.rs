//! Repositories on a real PostgreSQL: what they find, and what they leave of other tenants' rows.

use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, Row};
use stagesub_domain::error::{Constraint, StoreError};
use stagesub_domain::ids::{InstrumentNo, MusicianNo, PositionNo};
use stagesub_domain::language::Language;
use stagesub_domain::musician::Musician;
use stagesub_domain::page::Page;
use stagesub_domain::ports::musicians::MusicianFilter;
use stagesub_domain::ports::{UnitOfWork, Units};
use stagesub_domain::subscription::{Limits, Resource};
use stagesub_id_gen::Kind;
use stagesub_tenancy::{Access, TenantScope};

use stagesub_tests::database::{connect, run};

use crate::isolation::seeded;
use crate::tenant_tx::lab::scalar;

async fn begin(units: &Units, scope: &TenantScope, access: Access) -> Box<dyn UnitOfWork> {
    units.begin(scope, access).await.expect("the tenant is served")
}

fn musician(no: i64, first_name: &str, last_name: &str, email: &str) -> Musician {
    Musician {
        no: MusicianNo::new(no),
        first_name: first_name.to_owned(),
        last_name: last_name.to_owned(),
        email: email.to_owned(),
        phone: None,
        preferred_language: Language::Sv,
        local_residence: true,
        notes: None,
        is_active: true,
        archived_at: None,
        qualifications: Vec::new(),
        created_at: DateTime::<Utc>::UNIX_EPOCH,
        updated_at: DateTime::<Utc>::UNIX_EPOCH,
    }
}

async fn found(unit: &mut dyn UnitOfWork, filter: MusicianFilter) -> Vec<i64> {
    let page = unit.musicians().list(&filter, Page::first()).await.expect("a list");
    page.items.iter().map(|musician| musician.no.get()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn musicians_are_found_by_what_people_type() {
    let lab = seeded::lab().await;
    let units = lab.units();
    let [ours, theirs] = &lab.scopes;
    let mut unit = begin(&units, ours, Access::Write).await;
    let mut away = musician(3, "Örjan", "Öberg", "orjan@example.se");
    away.is_active = false;
    away.archived_at = Some(DateTime::UNIX_EPOCH);
    away.qualifications = vec![PositionNo::new(1)];
    unit.musicians()
        .insert(vec![musician(2, "Per_", "100%", "per@example.se"), away])
        .await
        .expect("new ones are stored");
    unit.commit().await.expect("they are kept");

    let mut unit = begin(&units, ours, Access::Read).await;
    for (typed, numbers) in [
        ("åsa", vec![1]),
        ("ÅSA BERG", vec![1]),
        ("ÖBERG", vec![3]),
        ("@EXAMPLE.se", vec![1, 2, 3]),
        ("r_", vec![2]),
        ("0%", vec![2]),
        ("%", vec![2]),
        ("\\", vec![]),
        ("' OR 1=1", vec![]),
    ] {
        let filter = MusicianFilter { search: Some(typed.to_owned()), ..MusicianFilter::default() };
        assert_eq!(found(&mut *unit, filter).await, numbers, "{typed}");
    }
    for (filter, numbers) in [
        (MusicianFilter { is_active: Some(false), ..Default::default() }, vec![3]),
        (MusicianFilter { archived: Some(false), ..Default::default() }, vec![1, 2]),
        (MusicianFilter { position: Some(PositionNo::new(1)), ..Default::default() }, vec![1, 3]),
        (MusicianFilter { instrument: Some(InstrumentNo::new(1)), ..Default::default() }, vec![1, 3]),
        (MusicianFilter { instrument: Some(InstrumentNo::new(2)), ..Default::default() }, vec![]),
    ] {
        assert_eq!(found(&mut *unit, filter.clone()).await, numbers, "{filter:?}");
    }
    let mut unit = begin(&units, theirs, Access::Read).await;
    assert_eq!(found(&mut *unit, MusicianFilter::default()).await, [1], "the other orchestra's own");
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_musicians_are_stored_paged_and_changed_in_seconds() {
    const COUNT: i64 = 10_000;
    let lab = seeded::lab().await;
    let units = lab.units();
    let [ours, theirs] = &lab.scopes;
    let begun = std::time::Instant::now();
    let mut unit = begin(&units, ours, Access::Write).await;
    let mut many: Vec<Musician> = (2..COUNT + 2)
        .map(|no| {
            let mut one = musician(no, "Anna", &format!("Vik {no}"), &format!("Anna.{no}@example.se"));
            one.qualifications = vec![PositionNo::new(1)];
            one
        })
        .collect();
    unit.musicians().insert(many.clone()).await.expect("new ones are stored");
    for one in &mut many {
        one.first_name = "Åke".to_owned();
        one.qualifications.clear();
    }
    unit.musicians().update(many).await.expect("changed ones are stored");
    unit.commit().await.expect("they are kept");

    let mut unit = begin(&units, ours, Access::Write).await;
    let filter = MusicianFilter { search: Some("åke".to_owned()), ..MusicianFilter::default() };
    let (mut after, mut seen) = (None, Vec::new());
    loop {
        let page = Page::new(after, 200).expect("a page");
        let page = unit.musicians().list(&filter, page).await.expect("a list");
        seen.extend(page.items.iter().map(|musician| musician.no.get()));
        assert!(page.items.iter().all(|musician| musician.qualifications.is_empty()));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert!(seen.iter().copied().eq(2..COUNT + 2), "each once, in order");
    let emails = (2..1_002).map(|no| format!("anna.{no}@EXAMPLE.se")).collect();
    assert_eq!(unit.musicians().find_by_emails(emails).await.expect("an answer").len(), 1_000);
    let mut other = begin(&units, theirs, Access::Write).await;
    assert_eq!(other.musicians().find_by_emails(vec!["anna.2@example.se".to_owned()]).await.unwrap(), []);
    let took = begun.elapsed();
    assert!(took.as_secs() < 20, "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_the_database_holds_is_told_by_name() {
    let lab = seeded::lab().await;
    let units = lab.units();
    let [ours, _] = &lab.scopes;
    let mut unit = begin(&units, ours, Access::Write).await;
    let taken = unit.musicians().insert(vec![musician(2, "Åsa", "Vik", "ASA@example.se")]).await;
    assert!(
        matches!(taken, Err(StoreError::Conflict { constraint: Constraint::MusicianEmail })),
        "{taken:?}"
    );
    // What failed cannot be committed in part.
    assert!(unit.commit().await.is_err());

    let mut unit = begin(&units, ours, Access::Write).await;
    let mut unknown = musician(2, "Åsa", "Vik", "vik@example.se");
    unknown.qualifications = vec![PositionNo::new(99)];
    let unknown = unit.musicians().insert(vec![unknown]).await;
    let constraint = Constraint::QualificationPosition;
    assert!(
        matches!(&unknown, Err(StoreError::Conflict { constraint: c }) if *c == constraint),
        "{unknown:?}"
    );

    let mut unit = begin(&units, ours, Access::Write).await;
    let used = unit.positions().delete(PositionNo::new(1)).await;
    assert!(matches!(&used, Err(StoreError::Conflict { constraint: c }) if *c == constraint), "{used:?}");
    drop(unit);

    let mut unit = begin(&units, ours, Access::Write).await;
    let used = unit.instruments().delete(InstrumentNo::new(1)).await;
    let constraint = Constraint::PositionInstrument;
    assert!(matches!(&used, Err(StoreError::Conflict { constraint: c }) if *c == constraint), "{used:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_creator_waits_for_the_quota_and_the_counter() {
    let lab = seeded::lab().await;
    let units = lab.units();
    let [ours, theirs] = &lab.scopes;
    let mut first = begin(&units, ours, Access::Write).await;
    let mut quota = first.quotas().lock(Resource::Musicians).await.expect("the row is there");
    quota.used += 1;
    first.quotas().update(&quota).await.expect("it is stored");
    assert_eq!(first.sequences().reserve(Kind::Musician, 3).await.expect("numbers").first, 1);

    let second = async {
        let mut second = begin(&units, ours, Access::Write).await;
        let quota = second.quotas().lock(Resource::Musicians).await.expect("the row is there");
        (quota.used, second.sequences().reserve(Kind::Musician, 1).await.expect("a number").first)
    };
    let waiting = lab.until_backends("wait_event_type = 'Lock'", 1);
    let (second, ()) = tokio::join!(second, async {
        waiting.await;
        first.commit().await.expect("it is kept");
    });
    assert_eq!(second, (1, 4), "it saw what the first one left");

    let mut other = begin(&units, theirs, Access::Write).await;
    assert_eq!(other.quotas().lock(Resource::Musicians).await.expect("the row is there").used, 0);
    assert_eq!(other.sequences().reserve(Kind::Musician, 1).await.expect("a number").first, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadlock_on_counters_is_told_as_contention_to_one_of_the_two() {
    let lab = seeded::lab().await;
    let units = lab.units();
    let [ours, _] = &lab.scopes;
    let mut first = begin(&units, ours, Access::Write).await;
    let mut second = begin(&units, ours, Access::Write).await;
    first.sequences().reserve(Kind::Musician, 1).await.expect("a number");
    second.sequences().reserve(Kind::Project, 1).await.expect("a number");
    let crossed = async |mut unit: Box<dyn UnitOfWork>, kind| {
        let reserved = unit.sequences().reserve(kind, 1).await.map_err(StoreError::from);
        // The one that was let through ends at once, the other is rolled back.
        drop(unit);
        reserved
    };
    let (a, b) = tokio::join!(crossed(first, Kind::Project), crossed(second, Kind::Musician));
    let (kept, refused): (Vec<_>, Vec<_>) = [a, b].into_iter().partition(Result::is_ok);
    assert_eq!((kept.len(), refused.len()), (1, 1), "{kept:?} {refused:?}");
    assert!(matches!(&refused[0], Err(StoreError::Contended(_))), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn older_limits_are_not_stored_over_newer_ones() {
    let lab = seeded::lab().await;
    let units = lab.units();
    let [ours, theirs] = &lab.scopes;
    let limits = |musicians| Limits { musicians, active_projects: Some(5), instruments: None };
    let mut unit = begin(&units, ours, Access::Write).await;
    for (musicians, version, stored) in
        [(Some(70), 5, Some(70)), (Some(60), 4, Some(70)), (None, 5, Some(70)), (None, 6, None)]
    {
        unit.quotas().set_limits(limits(musicians), version).await.expect("an answer");
        assert_eq!(unit.quotas().lock(Resource::Musicians).await.expect("a row").limit, stored, "{version}");
    }
    unit.commit().await.expect("they are kept");
    let mut other = begin(&units, theirs, Access::Read).await;
    let other = other.quotas().list().await.expect("rows");
    assert_eq!(other.iter().map(|quota| quota.limit).collect::<Vec<_>>(), [Some(5), Some(10), Some(50)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_is_looked_up_in_the_index_of_addresses() {
    const LOOK_UP: &str = "SELECT no FROM tenant.musician
        WHERE tenant_id = $1 AND email_key = ANY(ARRAY(SELECT lower(e) FROM UNNEST($2::text[]) AS e))";
    let lab = seeded::lab().await;
    let units = lab.units();
    let [ours, theirs] = &lab.scopes;
    let mut unit = begin(&units, ours, Access::Write).await;
    let many = (2..3_000).map(|no| musician(no, "Anna", "Vik", &format!("Anna.{no}@example.se")));
    unit.musicians().insert(many.collect()).await.expect("new ones are stored");
    unit.commit().await.expect("they are kept");
    run(&mut connect(&lab.admin).await, "ANALYZE tenant.musician").await;

    let sought = vec!["ANNA.77@EXAMPLE.SE".to_owned(), "nobody@example.se".to_owned()];
    let mut unit = begin(&units, ours, Access::Write).await;
    let found = unit.musicians().find_by_emails(sought.clone()).await.expect("they are looked for");
    assert_eq!(
        found.iter().map(|one| (one.no.get(), one.email.as_str())).collect::<Vec<_>>(),
        [(77, "Anna.77@example.se")]
    );
    drop(unit);
    let mut unit = begin(&units, theirs, Access::Write).await;
    assert_eq!(unit.musicians().find_by_emails(sought).await.expect("they are looked for"), []);
    drop(unit);

    for mode in ["force_custom_plan", "force_generic_plan"] {
        let db = lab.tenants();
        let mut tx = db.begin(ours, Access::Read).await.expect("it begins");
        let prepare =
            format!("SET LOCAL plan_cache_mode = {mode}; PREPARE look_up(uuid, text[]) AS {LOOK_UP}");
        sqlx::raw_sql(AssertSqlSafe(prepare)).execute(&mut tx).await.expect("it is prepared");
        let explain =
            format!("EXPLAIN (COSTS OFF) EXECUTE look_up('{}', '{{a@b.se,c@d.se}}')", ours.tenant_id());
        let plan: Vec<String> = sqlx::raw_sql(AssertSqlSafe(explain))
            .fetch_all(&mut tx)
            .await
            .expect("it is explained")
            .iter()
            .map(|row| row.get(0))
            .collect();
        let plan = plan.join("\n");
        let condition = plan.lines().find(|line| line.contains("Index Cond")).unwrap_or_default();
        assert!(
            plan.contains("musician_email_key") && condition.contains("email_key = ANY"),
            "{mode}: {plan}"
        );
        sqlx::raw_sql("DEALLOCATE look_up").execute(&mut tx).await.expect("it goes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_addresses_are_made_for_musicians_who_were_there_before() {
    const MIGRATION: &str =
        include_str!("../../crates/storage/migrations/tenant/20261125130000_musician_email_key.sql");
    let lab = seeded::lab().await;
    let mut owner = connect(&lab.admin).await;
    // As it was before, with an address in mixed case; then as the owner, who is bound to no tenant.
    run(
        &mut owner,
        "ALTER TABLE tenant.musician DROP COLUMN email_key;
         CREATE UNIQUE INDEX musician_email_key ON tenant.musician (tenant_id, lower(email));
         UPDATE tenant.musician SET email = 'Asa.BERG@Example.SE';
         SET ROLE stagesub_owner",
    )
    .await;
    run(&mut owner, &format!("BEGIN; {MIGRATION}; COMMIT")).await;
    let mut admin = connect(&lab.admin).await;
    let keys: i64 =
        scalar(&mut admin, "SELECT count(*) FROM tenant.musician WHERE email_key = 'asa.berg@example.se'")
            .await;
    assert_eq!(keys, 2);
    for scope in &lab.scopes {
        let mut unit = begin(&lab.units(), scope, Access::Write).await;
        let again = vec![musician(9, "Åsa", "Berg", "ASA.berg@example.se")];
        let refused = unit.musicians().insert(again).await;
        assert!(
            matches!(refused, Err(StoreError::Conflict { constraint: Constraint::MusicianEmail })),
            "{refused:?}"
        );
    }
}
