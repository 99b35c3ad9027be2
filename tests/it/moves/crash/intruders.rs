//! Others who do in the middle of a move what a move cannot bear, or what is to make it lose something.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use sqlx::{AssertSqlSafe, PgConnection};
use stagesub_storage::error::{ISOLATION, sqlstate};
use stagesub_storage::logins::{DatabaseLogins, LoginRole};
use stagesub_storage::moves::plane::Burden;
use stagesub_tenancy::moves::{Failpoints, Move, MoveId, MovePath, MoveState, NewMove, Point, Request, Side};
use stagesub_tests::database::{connect, run};
use stagesub_tests::history::driving::{DrivingNode, patient};
use stagesub_tests::history::planes::bearing;
use stagesub_tests::history::{Driving, Gate, Ground, Place, Resident};

use super::Course;

/// A session as the application's login.
async fn application(ground: &Ground, place: &Place) -> PgConnection {
    let login = ground.logins().find_login(place.id, LoginRole::App).await;
    connect(&login.expect("the registry answers").expect("the database has a login")).await
}

/// What a tenant's transaction begins with, where and when it is served.
async fn begin(ground: &Ground, place: &Place, resident: &Resident, mode: &str) -> String {
    let epoch = ground.serves(place, resident.tenant()).await.expect("it is served there");
    format!("BEGIN {mode}; SET LOCAL app.tenant_id = '{}'; CALL app.enter({epoch})", resident.tenant())
}

async fn refused(conn: &mut PgConnection, sql: &str) -> String {
    let answer = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut *conn).await;
    let error = answer.map(drop).expect_err("it is refused");
    run(conn, "ROLLBACK").await;
    sqlstate(&error).unwrap_or_default().into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_would_write_on_an_older_snapshot_is_refused_while_the_tenant_moves() {
    let (ground, mut residents) = Ground::start(&["isolated"]).await;
    ground.furnish(&mut residents[0], 50).await;
    let mut course = Course::of(&ground, &residents[0]);
    let id = course.begin(MovePath::Stream).await;
    let gate = Gate::at(Point::State(MoveState::Verify));
    let mover = course.driving.node(Some(Arc::clone(&gate) as Arc<dyn Failpoints>));
    gate.reached().await;
    let mut conn = application(&ground, &ground.source).await;
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        let begin =
            begin(&ground, &ground.source, course.resident, &format!("ISOLATION LEVEL {level}")).await;
        assert_eq!(refused(&mut conn, &begin).await, ISOLATION);
    }
    gate.open();
    course.there_and_back(id).await;
    course.is_over(id, Side::Source).await;
    mover.die().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_application_cannot_make_a_write_vanish_from_the_stream() {
    const FORGED: &str =
        "INSERT INTO ledger.entry (tenant_id, writer, number) VALUES (app.tenant_id(), 16, 1);
        UPDATE ledger.counter SET total = total + 1 WHERE tenant_id = app.tenant_id() AND writer = 16;
        UPDATE ledger.page SET touched = touched + 1 WHERE tenant_id = app.tenant_id() AND no = 1; COMMIT";
    let (ground, mut residents) = Ground::start(&["forger"]).await;
    ground.furnish(&mut residents[0], 50).await;
    let mut course = Course::of(&ground, &residents[0]);
    let id = course.begin(MovePath::Stream).await;
    let gate = Gate::at(Point::State(MoveState::CatchUp));
    let mover = course.driving.node(Some(Arc::clone(&gate) as Arc<dyn Failpoints>));
    gate.reached().await;

    let mut conn = application(&ground, &ground.source).await;
    let begin = begin(&ground, &ground.source, course.resident, "ISOLATION LEVEL READ COMMITTED").await;
    // It can see what a move is called, and has to guess the rest.
    let emit = format!("SELECT pg_logical_emit_message(true, '{}', '')", id.as_uuid().simple());
    assert_eq!(refused(&mut conn, &format!("{begin}; {emit}")).await, "42501");
    // Where the platform could not take that away.
    let grant = "GRANT EXECUTE ON FUNCTION pg_logical_emit_message(boolean, text, text) TO stagesub_app";
    run(&mut connect(&ground.source.admin).await, grant).await;
    run(&mut conn, &format!("{begin}; {emit}; {FORGED}")).await;
    gate.open();

    course.there_and_back(id).await;
    let found = ground.found(&ground.source, course.resident).await;
    assert_eq!(
        found.counted.get(&16),
        Some(&1),
        "what was written under another's message went there and back"
    );
    // The clients' own writes are judged without it.
    let forged = format!(
        "DELETE FROM ledger.entry WHERE tenant_id = '{0}' AND writer = 16;
        UPDATE ledger.counter SET total = total - 1 WHERE tenant_id = '{0}' AND writer = 16;
        UPDATE ledger.page SET touched = touched - 1 WHERE tenant_id = '{0}' AND no = 1",
        course.resident.tenant()
    );
    run(&mut connect(&ground.source.admin).await, &forged).await;
    course.is_over(id, Side::Source).await;
    mover.die().await;
}

/// A move that stands at the beginning of a cutover.
struct Cutover {
    id: MoveId,
    gate: Arc<Gate>,
    mover: DrivingNode,
    /// Where the tenant is served.
    stays: Side,
}

impl Course<'_> {
    /// A move begins and stops where it is about to cut over: to the target, or back.
    async fn comes_to(&self, state: MoveState) -> Cutover {
        let id = self.begin(MovePath::Stream).await;
        let gate = Gate::at(Point::State(state));
        let mover = self.driving.node(Some(Arc::clone(&gate) as Arc<dyn Failpoints>));
        let stays = if state == MoveState::Back {
            self.driving.until_active(id, Side::Target).await;
            self.driving.ask(id, Request::Back).await;
            Side::Target
        } else {
            Side::Source
        };
        gate.reached().await;
        Cutover { id, gate, mover, stays }
    }
}

/// Everything was compared, and what is compared in the cutover is what the tenant's own side has changed.
#[tokio::test(flavor = "multi_thread")]
async fn who_writes_where_the_tenant_is_not_served_ends_the_cutover() {
    for (n, state) in [MoveState::Fence, MoveState::Back].into_iter().enumerate() {
        let label = format!("rogue{n}");
        let (ground, mut residents) = Ground::start(&[label.as_str()]).await;
        ground.furnish(&mut residents[0], 50).await;
        let mut course = Course::of(&ground, &residents[0]);
        let Cutover { id, gate, mover, stays } = course.comes_to(state).await;
        let other = course.place(stays.other());
        let rogue = format!(
            "UPDATE ledger.page SET touched = touched + 1 WHERE tenant_id = '{}' AND no = 1",
            course.resident.tenant()
        );
        run(&mut connect(&other.admin).await, &rogue).await;
        gate.open();
        let given_up = if state == MoveState::Back {
            let active = course.driving.until_active(id, Side::Target).await;
            let ended = course.driving.finish(id).await;
            assert_eq!(ended.state, MoveState::Finished, "{ended:?}");
            active
        } else {
            let ended = course.ends(id).await;
            assert_eq!(ended.state, MoveState::Aborted, "{ended:?}");
            ended
        };
        let error = given_up.error.clone().unwrap_or_default();
        assert!(error.contains("ledger.page") && error.contains("by somebody else"), "{error}");
        course.is_over(id, stays).await;
        mover.die().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_changes_in_the_middle_ends_the_move_and_the_tenant_stays() {
    // Under the lock nobody gets at a table of the serving side: its transactions are in nobody's way there but at the
    // target.
    let moments =
        [MoveState::Copy, MoveState::CatchUp, MoveState::Verify, MoveState::Fence].map(Point::State);
    let both = moments.into_iter().flat_map(|point| [(point, false), (point, true)]);
    for (n, (point, on_target)) in both.chain([(Point::Locked, true), (Point::Fenced, true)]).enumerate() {
        let label = format!("changed{n}");
        println!("{label}: {point:?}, on the target: {on_target}");
        let (ground, mut residents) = Ground::start(&[label.as_str()]).await;
        ground.furnish(&mut residents[0], 50).await;
        let mut course = Course::of(&ground, &residents[0]);
        let id = course.begin(MovePath::Stream).await;
        let gate = Gate::at(point);
        let mover = course.driving.node(Some(Arc::clone(&gate) as Arc<dyn Failpoints>));
        gate.reached().await;
        let side = if on_target { &ground.target } else { &ground.source };
        let change = "ALTER TABLE ledger.page ADD COLUMN colour text NOT NULL DEFAULT 'red'";
        run(&mut connect(&side.admin).await, change).await;
        gate.open();
        let ended = course.ends(id).await;
        assert_eq!(ended.state, MoveState::Aborted, "{ended:?}");
        let error = ended.error.clone().unwrap_or_default();
        assert!(error.contains("ledger") || error.contains("schema"), "{error}");
        course.is_over(id, Side::Source).await;
        mover.die().await;
    }
}

/// No stream tells of it, since it empties everybody's rows. What is seen is that the table is another one.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_emptied_where_the_tenant_is_not_served_bars_the_way_there() {
    for (n, state) in [MoveState::Fence, MoveState::Back].into_iter().enumerate() {
        let label = format!("emptied{n}");
        let (ground, mut residents) = Ground::start(&[label.as_str()]).await;
        ground.furnish(&mut residents[0], 50).await;
        let course = Course::of(&ground, &residents[0]);
        let Cutover { id, gate, mover, stays } = course.comes_to(state).await;
        let other = course.place(stays.other());
        run(&mut connect(&other.admin).await, "TRUNCATE ledger.page").await;
        gate.open();
        let error = if state == MoveState::Back {
            // The cutover that was on is given up, and everything is compared before the next one.
            let settled = |found: &Move| found.state == MoveState::Active && found.wanted.is_none();
            let given_up = course.driving.until(id, "it stays", settled).await;
            assert_eq!(given_up.serving(), Side::Target, "{given_up:?}");
            course.driving.ask(id, Request::Back).await;
            let barred = course.driving.until(id, "it stays for good", settled).await;
            let ended = course.driving.finish(id).await;
            assert_eq!(ended.state, MoveState::Finished, "{ended:?}");
            barred.error
        } else {
            // Nobody writes: a row that changes at the source and is not there would tell as well.
            let ended = course.driving.until_ended(id).await;
            assert_eq!(ended.state, MoveState::Aborted, "{ended:?}");
            ended.error
        };
        let error = error.unwrap_or_default();
        assert!(error.contains("differ") && error.contains("ledger.page"), "{error}");
        course.is_over(id, stays).await;
        mover.die().await;
    }
}

/// What a slot keeps fills the disk of everybody who is in that server.
#[tokio::test(flavor = "multi_thread")]
async fn a_move_that_has_its_source_keep_too_much_is_aborted() {
    const MIB: u64 = 1 << 20;
    let (ground, mut residents) = Ground::start(&["burden"]).await;
    ground.furnish(&mut residents[0], 500).await;
    let mut course = Course::of(&ground, &residents[0]);
    let burden = Burden { most: 2 * MIB, look: Duration::from_millis(10) };
    course.driving = Driving::over(&ground, bearing(&ground, burden), patient());
    for path in [MovePath::Stream, MovePath::Triggers] {
        // It would take a minute.
        let pace = NonZeroU32::new(1_000);
        let wanted =
            NewMove { pace, ..course.driving.wanted(course.resident.tenant(), &ground.target, path) };
        let id = course.driving.begin_as(&wanted).await;
        let gate = Gate::at(Point::State(MoveState::Copy));
        let mover = course.driving.node(Some(Arc::clone(&gate) as Arc<dyn Failpoints>));
        gate.reached().await;
        let written = if path == MovePath::Stream {
            "SELECT pg_logical_emit_message(false, 'others', repeat('x', 8388608))".to_owned()
        } else {
            format!(
                "UPDATE ledger.page SET note = (SELECT string_agg(md5(no || '.' || n), '') FROM generate_series(1, 500) AS n)
                WHERE tenant_id = '{}'",
                course.resident.tenant()
            )
        };
        run(&mut connect(&ground.source.admin).await, &written).await;
        gate.open();
        let ended = course.driving.until_ended(id).await;
        assert_eq!(ended.state, MoveState::Aborted, "{ended:?}");
        let error = ended.error.clone().unwrap_or_default();
        assert!(error.contains("MiB of log for the move, and 2 MiB are the most"), "{error}");
        let steps: Vec<MoveState> = course.driving.registry.steps(id).iter().map(|step| step.to).collect();
        assert!(!steps.contains(&MoveState::CatchUp), "it is seen while rows are copied: {steps:?}");
        let clients = course.clients();
        clients.write_on(3).await;
        course.history.merge(clients.stop().await);
        course.is_over(id, Side::Source).await;
        mover.die().await;
    }
}
