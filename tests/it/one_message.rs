//! Reads in one message on a real PostgreSQL: the same rows as the ordinary way, the same guarantees, and what
//! becomes of statements that were prepared.

mod fence;

use std::sync::Arc;

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Row};
use stagesub_domain::ids::{InstrumentNo, MusicianNo, PositionNo, ProjectNo};
use stagesub_domain::instrument::{Instrument, Position};
use stagesub_domain::language::Language;
use stagesub_domain::musician::Musician;
use stagesub_domain::page::Page;
use stagesub_domain::ports::instruments::{InstrumentFilter, PositionFilter};
use stagesub_domain::ports::musicians::MusicianFilter;
use stagesub_domain::ports::projects::ProjectFilter;
use stagesub_domain::ports::{HotLists, UnitOfWork};
use stagesub_domain::project::{Project, ProjectStatus};
use stagesub_storage::factory::TenantDb;
use stagesub_storage::one_message::{PreparedRead, ReadError};
use stagesub_storage::pool::{BoundsBy, TenantPoolSettings, TxTimeouts};
use stagesub_storage::repo::PgHotLists;
use stagesub_storage::tx::TenantTx;
use stagesub_tenancy::{Access, BeginError, Placement, TenantScope};
use stagesub_tests::client::Client;
use stagesub_tests::database::{connect, run};
use stagesub_tests::orchestra::Kept;
use stagesub_tests::platform::TestPlatform;
use stagesub_tests::storm::polled;

use crate::isolation::seeded;
use crate::tenant_tx::lab::{Lab, scalar, sqlstate, until};

static OWNERS: PreparedRead = PreparedRead::new(
    "owners",
    "SELECT tenant_id FROM tenant.instrument WHERE tenant_id = $1 AND no > $2 ORDER BY no",
    1,
);
/// Says nothing of the tenant: the policies alone hold it.
static EVERYBODY: PreparedRead =
    PreparedRead::new("everybody", "SELECT tenant_id FROM tenant.musician WHERE $1::uuid IS NOT NULL", 0);

/// The application's only backend.
const BACKEND: &str =
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND usename = 'stagesub_app'";

/// Texts that a sloppy way of writing or reading rows would spoil.
const TEXTS: [&str; 6] = ["O'Hara", "a\\b\"c\"", "{1,2}", "två\nrader\tmed tabb", "NULL", "🎻 ½"];

/// Rows with every kind of value, among them some that are not listed.
async fn fill(unit: &mut dyn UnitOfWork) {
    let at = |n: i64| {
        DateTime::<Utc>::from_timestamp_micros(1_700_000_000_123_456 * (n % 3)).expect("a time")
            - TimeDelta::days(n * 4_000)
    };
    let violin = InstrumentNo::new(1);
    let positions = (2..9).map(|no| Position {
        no: PositionNo::new(no),
        instrument: violin,
        name: format!("Stämma {no}"),
        hierarchy_level: 1,
        created_at: at(no),
        updated_at: at(no),
    });
    unit.positions().insert(positions.collect()).await.expect("positions are stored");
    let instruments = (2..40).map(|no| Instrument {
        no: InstrumentNo::new(no),
        name: format!(
            "{} {no}",
            TEXTS[usize::try_from(no).unwrap() % TEXTS.len()].replace(['\n', '\t'], " ")
        ),
        display_order: (no % 2 == 0).then_some(i32::try_from(no).unwrap()),
        archived_at: (no % 5 == 0).then(|| at(no)),
        created_at: at(no),
        updated_at: at(no + 1),
    });
    unit.instruments().insert(instruments.collect()).await.expect("instruments are stored");
    let musicians = (2..60).map(|no| {
        let text = TEXTS[usize::try_from(no).unwrap() % TEXTS.len()];
        Musician {
            no: MusicianNo::new(no),
            first_name: text.to_owned(),
            last_name: format!("'{text}';--"),
            email: format!("Nr{no}@example.se"),
            phone: (no % 2 == 0).then(|| text.to_owned()),
            preferred_language: if no % 2 == 0 { Language::Sv } else { Language::En },
            local_residence: no % 3 == 0,
            notes: (no % 3 == 0).then(|| text.to_owned()),
            is_active: no % 4 != 0,
            archived_at: (no % 7 == 0).then(|| at(no)),
            qualifications: (1..=no % 9).map(PositionNo::new).collect(),
            created_at: at(no),
            updated_at: at(no + 1),
        }
    });
    unit.musicians().insert(musicians.collect()).await.expect("musicians are stored");
    for no in 2..25_i64 {
        let text = TEXTS[usize::try_from(no).unwrap() % TEXTS.len()];
        let project = Project {
            no: ProjectNo::new(no),
            name: format!("Projekt {no}"),
            start_date: NaiveDate::from_ymd_opt(1950 + i32::try_from(no).unwrap() * 8, 2, 28).expect("a day"),
            week_number: 9,
            rehearsal_schedule: (no % 2 == 0).then(|| text.to_owned()),
            concert_info: (no % 3 == 0).then(|| text.to_owned()),
            notes: (no % 5 == 0).then(|| text.to_owned()),
            status: if no % 2 == 0 { ProjectStatus::Cancelled } else { ProjectStatus::Active },
            created_at: at(no),
            updated_at: at(no + 1),
        };
        unit.projects().insert(&project).await.expect("a project is stored");
    }
}

async fn filled() -> Lab {
    let lab = seeded::lab().await;
    let mut unit = lab.units().begin(&lab.scopes[0], Access::Write).await.expect("the tenant is served");
    fill(&mut *unit).await;
    unit.commit().await.expect("what was written is kept");
    lab
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_the_same_whichever_way_it_is_read() {
    let lab = filled().await;
    let units = lab.units();
    let hot = PgHotLists::new(lab.tenants(), true);
    let ordinary = PgHotLists::new(lab.tenants(), false);
    let mut seen = 0;
    for scope in &lab.scopes {
        for (after, limit) in [(None, 200), (None, 1), (Some(3), 7), (Some(10_000), 50), (Some(-1), 20)] {
            let page = Page::new(after, limit).expect("a page");
            let mut unit = units.begin(scope, Access::Read).await.expect("the tenant is served");
            let list = unit.musicians().list(&MusicianFilter::unasked(), page).await.expect("a list");
            assert_eq!(hot.musicians(scope, page).await.expect("a list"), list);
            assert_eq!(ordinary.musicians(scope, page).await.expect("a list"), list);
            // The general statement, asked for the same.
            let active = MusicianFilter { is_active: Some(true), ..MusicianFilter::unasked() };
            let general = unit.musicians().list(&active, Page::first()).await.expect("a list");
            let whole = hot.musicians(scope, Page::first()).await.expect("a list");
            assert_eq!(
                whole.items.iter().filter(|m| m.is_active).cloned().collect::<Vec<_>>(),
                general.items
            );
            seen += list.items.len();

            let list = unit.instruments().list(&InstrumentFilter::unasked(), page).await.expect("a list");
            assert_eq!(hot.instruments(scope, page).await.expect("a list"), list);
            assert_eq!(ordinary.instruments(scope, page).await.expect("a list"), list);
            let list = unit.projects().list(&ProjectFilter::unasked(), page).await.expect("a list");
            assert_eq!(hot.projects(scope, page).await.expect("a list"), list);
            assert_eq!(ordinary.projects(scope, page).await.expect("a list"), list);
        }
    }
    assert!(seen > 60, "there was something to compare: {seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_the_same_to_the_byte_with_the_setting_on_and_off() {
    let platform = TestPlatform::start().await;
    let ordinary = platform.node_of_ordinary_reads().await;
    for kept in [Kept::Shared, Kept::Dedicated] {
        let [ours, theirs] = platform.pair(kept).await;
        let scope = platform.scope(&ours).await;
        let mut unit = platform.state().units.begin(&scope, Access::Write).await.expect("it is served");
        // What a new orchestra starts with is in the way of nothing: the numbers are its own.
        let taken = unit.positions().list(&PositionFilter::default(), Page::first()).await.expect("a list");
        assert!(!taken.items.is_empty());
        drop(unit);
        for n in 0..30 {
            let musician = serde_json::json!({
                "firstName": TEXTS[n % TEXTS.len()].replace(['\n', '\t'], " "), "lastName": format!("Nr {n}"),
                "email": format!("nr{n}@example.se"), "notes": TEXTS[n % TEXTS.len()],
                "qualifications": taken.items.iter().take(n % 4)
                    .map(|position| ours.id("POS", u32::try_from(position.no.get()).unwrap()))
                    .collect::<Vec<_>>(),
            });
            ours.admin.post("/api/v1/musicians", &musician).await.expect(201);
        }
        for orchestra in [&ours, &theirs] {
            let other = Client::new(ordinary.clone(), orchestra.admin.host())
                .with_token(orchestra.admin.token().expect("signed in"));
            for path in [
                "/api/v1/musicians",
                "/api/v1/musicians?limit=20",
                "/api/v1/musicians?limit=3&cursor=NQ",
                "/api/v1/instruments",
                "/api/v1/instruments?limit=2",
                "/api/v1/projects",
            ] {
                let [hot, cold] = [orchestra.admin.get(path).await, other.get(path).await];
                assert_eq!((hot.status, &hot.body), (cold.status, &cold.body), "{path}");
                assert_eq!(hot.status, 200, "{path}");
            }
        }
    }
}

/// How many rows there are, each of which must be the scope's.
async fn owned(db: &TenantDb, scope: &TenantScope, what: &PreparedRead, numbers: &[i64]) -> usize {
    let rows = db.read_in_one_message(scope, what, numbers).await.expect("it is read");
    let own = |row: &PgRow| row.get::<uuid::Uuid, _>(0) == scope.tenant_id().as_uuid();
    assert!(rows.iter().all(own), "a foreign row");
    rows.len()
}

/// Statements that were prepared on the only connection for reads and writes in one message, and what its session is set
/// to.
pub(crate) async fn session(db: &TenantDb, scope: &TenantScope) -> (i64, String) {
    let mut tx = db.begin(scope, Access::Read).await.expect("it begins");
    // Outside the transaction: what is seen is the session's own.
    let look = "ROLLBACK; SELECT (SELECT count(*) FROM pg_prepared_statements
            WHERE from_sql AND name <> 'stagesub_look' OR statement LIKE '%stagesub_bound%'),
        concat_ws('|', coalesce(current_setting('app.tenant_id', true), ''), current_setting('statement_timeout'),
            current_setting('lock_timeout'), current_setting('plan_cache_mode'),
            current_setting('default_transaction_read_only'))";
    let seen = sqlx::raw_sql(look).fetch_one(&mut tx).await.expect("it can be looked at");
    // Dropped, it would be cleaned up while the next thing happens.
    tx.commit().await.expect("it ends");
    (seen.get(0), seen.get(1))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_is_prepared_once_and_nothing_of_the_read_stays() {
    let lab = one_connection().await;
    let db = lab.tenants();
    let (prepared, untouched) = session(&db, &lab.scopes[0]).await;
    assert_eq!(prepared, 0);
    for round in 0..20 {
        let scope = &lab.scopes[round % 2];
        assert_eq!(owned(&db, scope, &OWNERS, &[0]).await, 1);
        assert_eq!(owned(&db, scope, &OWNERS, &[1]).await, 0);
        assert_eq!(owned(&db, scope, &EVERYBODY, &[]).await, 1, "the policies hold it");
        assert_eq!(session(&db, scope).await, (2, untouched.clone()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_enter_by_what_is_prepared_and_begin_anew_where_it_is_gone() {
    /// The connection, and what readers enter by on it.
    async fn seen(tx: &mut TenantTx) -> (i32, i64) {
        let sql =
            "SELECT pg_backend_pid(), count(*) FROM pg_prepared_statements WHERE name = 'stagesub_look'";
        let row = sqlx::query(sql).fetch_one(tx).await.expect("it can be looked at");
        (row.get(0), row.get(1))
    }
    let lab = one_connection().await;
    let db = lab.tenants();
    let mut writer = db.begin(&lab.scopes[0], Access::Write).await.expect("it begins");
    let (first, prepared) = seen(&mut writer).await;
    assert_eq!(prepared, 0, "a writer locks, which takes app.enter");
    writer.commit().await.expect("it ends");
    for round in 0..10 {
        let mut reader = db.begin(&lab.scopes[round % 2], Access::Read).await.expect("it begins");
        assert_eq!(seen(&mut reader).await, (first, 1));
        reader.commit().await.expect("it ends");
    }
    let mut before = first;
    for access in [Access::Write, Access::Read] {
        let mut tx = db.begin(&lab.scopes[0], access).await.expect("it begins");
        sqlx::raw_sql("DEALLOCATE stagesub_look").execute(&mut tx).await.expect("it is there");
        tx.commit().await.expect("it ends");
        let mut reader = db.begin(&lab.scopes[0], Access::Read).await.expect("it begins without it");
        let (connection, prepared) = seen(&mut reader).await;
        assert!(connection != before && prepared == 0, "{access:?}: {prepared}");
        reader.commit().await.expect("it ends");
        let mut reader = db.begin(&lab.scopes[1], Access::Read).await.expect("it begins");
        assert_eq!(seen(&mut reader).await, (connection, 1));
        reader.commit().await.expect("it ends");
        before = connection;
    }
}

/// The seeded tenants over one connection.
async fn one_connection() -> Lab {
    let lab = Lab::start(1).await;
    for scope in &lab.scopes {
        let mut unit = lab.units().begin(scope, Access::Write).await.expect("the tenant is served");
        stagesub_storage::prove::orchestra::seed(&mut *unit).await.expect("first contents");
        unit.commit().await.expect("what was written is kept");
    }
    lab
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_is_dropped_at_any_point_leaves_nothing() {
    let lab = one_connection().await;
    let db = lab.tenants();
    let [ours, theirs] = &lab.scopes;
    let untouched = session(&db, ours).await.1;
    let mut finished = 0;
    for polls in (1..12).cycle().take(120) {
        // A connection that has not prepared it yet, every other time.
        if polls % 2 == 0 {
            end_backend(&lab).await;
        }
        let read = polled(polls, db.read_in_one_message(ours, &OWNERS, &[0])).await;
        finished += usize::from(read.is_some());
        assert_eq!(owned(&db, theirs, &OWNERS, &[0]).await, 1, "after {polls} polls");
        assert_eq!(session(&db, theirs).await, (1, untouched.clone()), "after {polls} polls");
    }
    assert!(finished < 120, "some were dropped");
    assert_eq!(lab.backends("state <> 'idle'").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_lost_its_statement_is_replaced_and_the_rows_come_all_the_same() {
    let lab = one_connection().await;
    let db = lab.tenants();
    let [ours, _] = &lab.scopes;
    let hot = PgHotLists::new(lab.tenants(), true);
    let whole = hot.instruments(ours, Page::first()).await.expect("a list");
    assert_eq!(whole.items.len(), 1);
    let types = "ALTER TABLE tenant.instrument ALTER COLUMN name TYPE varchar(100)";
    let taken: Vec<String> = (1..40).map(|n| format!("PREPARE sqlx_s_{n} AS SELECT 1;")).collect();
    let taken = taken.concat();
    for (code, meddle, as_owner) in
        [("26000", "DEALLOCATE ALL", false), ("42P05", taken.as_str(), false), ("0A000", types, true)]
    {
        // The second way is with a connection on which nothing was prepared.
        let fresh = code == "42P05";
        if !fresh {
            assert_eq!(owned(&db, ours, &OWNERS, &[0]).await, 1);
            hot.instruments(ours, Page::first()).await.expect("a list");
        }
        if as_owner {
            run(&mut connect(&lab.admin).await, meddle).await;
            assert_eq!(hot.instruments(ours, Page::first()).await.expect("the ordinary way"), whole);
        } else {
            let spoil = async || {
                let mut tx = db.begin(ours, Access::Read).await.expect("it begins");
                sqlx::raw_sql(AssertSqlSafe(meddle.to_owned())).execute(&mut tx).await.expect("it is done");
                tx.commit().await.expect("it ends");
            };
            spoil().await;
            let refused = db.read_in_one_message(ours, &OWNERS, &[0]).await;
            assert!(
                matches!(&refused, Err(ReadError::Unprepared(error)) if sqlstate(error) == code),
                "{code}: {refused:?}"
            );
            if !fresh {
                hot.instruments(ours, Page::first()).await.expect("a list");
            }
            spoil().await;
            assert_eq!(
                hot.instruments(ours, Page::first()).await.expect("the ordinary way"),
                whole,
                "{code}"
            );
        }
        // On another connection, and on that one in one message again.
        assert_eq!(hot.instruments(ours, Page::first()).await.expect("a list"), whole, "{code}");
        assert_eq!(owned(&db, ours, &OWNERS, &[0]).await, 1);
        until("one backend is left", async || lab.backends("true").await == 1).await;
        end_backend(&lab).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_somebody_already_is_closed_and_the_ordinary_way_is_taken() {
    let lab = one_connection().await;
    let db = lab.tenants();
    let [ours, theirs] = &lab.scopes;
    // Whom it is bound to makes no difference.
    for tenant in [ours, theirs] {
        let sets = format!(
            "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET app.tenant_id = ''{}''', current_database()); END $$",
            tenant.tenant_id()
        );
        run(&mut connect(&lab.admin).await, &sets).await;
        end_backend(&lab).await;
        let refused = db.read_in_one_message(ours, &OWNERS, &[0]).await;
        assert!(
            matches!(&refused, Err(ReadError::Unprepared(error)) if sqlstate(error) == "TN003"),
            "{refused:?}"
        );
        until("the connection is closed", async || lab.backends("true").await == 0).await;
        let hot = PgHotLists::new(lab.tenants(), true);
        assert_eq!(hot.instruments(ours, Page::first()).await.expect("a list").items.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_whose_sessions_are_not_its_own_reads_in_transactions() {
    let lab =
        Lab::start_with(TenantPoolSettings { bounds: BoundsBy::Transaction, ..Default::default() }).await;
    let refused = lab.tenants().read_in_one_message(&lab.scopes[0], &OWNERS, &[0]).await;
    assert!(matches!(refused, Err(ReadError::Unprepared(_))), "{refused:?}");
    assert_eq!(lab.backends("true").await, 1, "the one that opened the pool");
    let hot = PgHotLists::new(lab.tenants(), true);
    assert!(hot.instruments(&lab.scopes[0], Page::first()).await.expect("a list").items.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_fails_after_an_ordinary_one_fails_once_and_on_the_same_connection() {
    static WRONG: PreparedRead = PreparedRead::new(
        "wrong",
        "SELECT 1 / ($2 - $2 * n) FROM (SELECT count(*) AS n FROM app.tenant_fence WHERE tenant_id = $1) AS f",
        1,
    );
    let lab = one_connection().await;
    let db = lab.tenants();
    let connection = async |lingers: bool| {
        let mut tx = db.begin(&lab.scopes[0], Access::Read).await.expect("it begins");
        let pid: i32 =
            sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut tx).await.expect("a number");
        if !lingers {
            // After text its end is sent, and the answer owed.
            sqlx::raw_sql("SELECT 1").execute(&mut tx).await.expect("it is read");
        }
        tx.commit().await.expect("it ends");
        pid
    };
    let before = connection(true).await;
    for lingers in [true, false, true, false] {
        let failed = db.read_in_one_message(&lab.scopes[0], &WRONG, &[1]).await;
        assert!(
            matches!(&failed, Err(ReadError::Statement(error)) if sqlstate(error) == "22012"),
            "{failed:?}"
        );
        assert_eq!(connection(lingers).await, before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_was_not_migrated_yet_is_read_in_transactions() {
    let lab = one_connection().await;
    let mut admin = connect(&lab.admin).await;
    run(&mut admin, "DROP FUNCTION app.bind(uuid)").await;
    let hot = PgHotLists::new(lab.tenants(), true);
    let before: i32 = scalar(&mut admin, BACKEND).await;
    for _ in 0..3 {
        assert_eq!(hot.instruments(&lab.scopes[0], Page::first()).await.expect("a list").items.len(), 1);
        assert_eq!(scalar::<i32>(&mut admin, BACKEND).await, before, "nothing is wrong with the connection");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_says_nothing_is_told_from_one_that_is_slow() {
    let timeouts = TxTimeouts { statement: std::time::Duration::from_millis(100), ..Default::default() };
    let lab =
        Lab::start_with(TenantPoolSettings { max_connections: 1, timeouts, ..Default::default() }).await;
    let db = lab.tenants();
    assert_eq!(owned(&db, &lab.scopes[0], &OWNERS, &[0]).await, 0);
    let pid = Pid::from_raw(scalar(&mut connect(&lab.admin).await, BACKEND).await);
    kill(pid, Signal::SIGSTOP).expect("it is there");
    let silent = db.read_in_one_message(&lab.scopes[0], &OWNERS, &[0]).await;
    kill(pid, Signal::SIGCONT).expect("it is there still");
    assert!(matches!(silent, Err(ReadError::Begin(BeginError::Unavailable(_)))), "{silent:?}");
    assert_eq!(owned(&db, &lab.scopes[0], &OWNERS, &[0]).await, 0, "one is no reason to leave it alone");
}

/// Ends the only backend: the next connection has prepared nothing.
pub(crate) async fn end_backend(lab: &Lab) {
    run(
        &mut connect(&lab.admin).await,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE datname = current_database() AND usename = 'stagesub_app'",
    )
    .await;
    until("the backend is gone", async || lab.backends("true").await == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_died_while_idle_is_replaced_unnoticed() {
    let lab = one_connection().await;
    let db = lab.tenants();
    for _ in 0..3 {
        assert_eq!(owned(&db, &lab.scopes[0], &OWNERS, &[0]).await, 1);
        end_backend(&lab).await;
    }
    assert_eq!(owned(&db, &lab.scopes[1], &OWNERS, &[0]).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_serves_the_tenant_no_more_refuses_the_read() {
    let lab = one_connection().await;
    let db = lab.tenants();
    let [ours, theirs] = &lab.scopes;
    let mut admin = connect(&lab.admin).await;
    let fence =
        |set: &str| format!("UPDATE app.tenant_fence SET {set} WHERE tenant_id = '{}'", ours.tenant_id());
    for set in ["epoch = 3", "state = 'moving'", "state = 'moved'"] {
        run(&mut admin, &fence(set)).await;
        let refused = db.read_in_one_message(ours, &OWNERS, &[0]).await;
        assert!(matches!(refused, Err(ReadError::Begin(BeginError::Moved))), "{set}: {refused:?}");
        assert_eq!(owned(&db, theirs, &OWNERS, &[0]).await, 1);
        run(&mut admin, &fence("state = 'active', epoch = 1")).await;
    }
    run(&mut admin, &fence("epoch = 2")).await;
    lab.directory.place_when_forgotten(ours.tenant_id(), Placement::Shared(lab.database), 2);
    assert_eq!(owned(&db, ours, &OWNERS, &[0]).await, 1, "a fresh placement is asked for");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_takes_too_long_or_is_wrong_fails_and_the_connection_is_kept() {
    static SLOW: PreparedRead =
        PreparedRead::new("slow", "SELECT pg_sleep(600) FROM app.tenant_fence WHERE tenant_id = $1", 0);
    static WRONG: PreparedRead =
        PreparedRead::new("wrong", "SELECT 1 / $2 FROM app.tenant_fence WHERE tenant_id = $1", 1);
    static NO_TABLE: PreparedRead = PreparedRead::new("no_table", "SELECT $1 FROM tenant.nothing", 0);
    // What is no SELECT is not prepared at all.
    static WRITES: PreparedRead =
        PreparedRead::new("writes", "UPDATE tenant.project SET name = 'x' WHERE tenant_id = $1", 0);
    static LOCKS: PreparedRead =
        PreparedRead::new("locks", "SELECT no FROM tenant.project WHERE tenant_id = $1 FOR UPDATE", 0);
    let timeouts = TxTimeouts { statement: std::time::Duration::from_millis(100), ..Default::default() };
    let lab =
        Lab::start_with(TenantPoolSettings { max_connections: 1, timeouts, ..Default::default() }).await;
    let db = Arc::new(lab.tenants());
    let scope = &lab.scopes[0];
    for (what, numbers, code) in [
        (&SLOW, &[][..], "57014"),
        (&WRONG, &[0][..], "22012"),
        (&NO_TABLE, &[][..], "42P01"),
        (&WRITES, &[][..], "42601"),
        (&LOCKS, &[][..], "25006"),
    ] {
        for _ in 0..2 {
            let failed = db.read_in_one_message(scope, what, numbers).await;
            assert!(
                matches!(&failed, Err(ReadError::Statement(error)) if sqlstate(error) == code),
                "{}: {failed:?}",
                what.name()
            );
            // It was a transaction by itself: nothing was left to be rolled back.
            assert_eq!(lab.backends("query LIKE 'ROLLBACK%'").await, 0, "{}", what.name());
            assert_eq!(owned(&db, scope, &OWNERS, &[0]).await, 0);
        }
    }
    assert_eq!(lab.backends("true").await, 1, "it is the same connection");
}
