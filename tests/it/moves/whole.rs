//! Whole moves on real databases: there and back while the tenant is in use, over the mover, the registry and the
//! engine as a server wires them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;
use sqlx::AssertSqlSafe;
use stagesub_domain::ports::registry::{DedicatedPlace, TenantDatabases};
use stagesub_storage::moves::plan::Contents;
use stagesub_storage::moves::plane::{PgDataPlane, PlaneSettings};
use stagesub_storage::registry::logins::PgDatabaseLogins;
use stagesub_storage::registry::moves::PgMoveRegistry;
use stagesub_storage::registry::tenant_databases::PgTenantDatabases;
use stagesub_tenancy::moves::{
    Driven, Move, MoveId, MovePath, MovePrefix, MoveRegistry, MoveState, Mover, MoverSettings, NewMove,
    Request, Requested, Requester, Side,
};
use stagesub_tenancy::{DatabaseId, NodeId, TenantId};
use stagesub_tests::TestPlatform;
use stagesub_tests::client::Client;
use stagesub_tests::cluster::keys;
use stagesub_tests::database::connect;
use stagesub_tests::history::driving::patient;
use stagesub_tests::orchestra::{Kept, Orchestra};
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::tenant_tx::lab::until;

const WRITERS: usize = 4;
/// Longest that a move may take to get anywhere.
const PATIENCE: Duration = Duration::from_mins(2);

/// A platform, and what moves its tenants.
pub(super) struct Ground {
    pub(super) platform: TestPlatform,
    pub(super) moves: Arc<PgMoveRegistry>,
    plane: Arc<PgDataPlane>,
}

impl Ground {
    async fn start() -> Self {
        Self::on(TestPlatform::start().await)
    }

    pub(super) fn on(platform: TestPlatform) -> Self {
        let registry = platform.wired().registry().clone();
        let logins = PgDatabaseLogins::new(registry.clone(), Arc::new(keys()));
        let contents = Contents { schemas: vec!["tenant".to_owned()], reference_tables: Vec::new() };
        let moves = Arc::new(PgMoveRegistry::new(registry));
        let plane = PgDataPlane::new(Arc::new(logins), moves.clone(), contents, PlaneSettings::default());
        Self { platform, moves, plane: Arc::new(plane) }
    }

    pub(super) async fn own_database(&self, tenant: TenantId) -> DatabaseId {
        let registry = self.platform.wired().registry().clone();
        PgTenantDatabases::new(registry, Arc::new(keys()))
            .create_dedicated(tenant, &DedicatedPlace::Beside)
            .await
            .unwrap()
    }

    pub(super) async fn begin(&self, tenant: TenantId, target: DatabaseId, path: MovePath) -> Move {
        let new = NewMove {
            id: MoveId::from_uuid(Uuid::now_v7()),
            tenant,
            target,
            path,
            prefix: MovePrefix::from_bytes(*Uuid::new_v4().as_bytes()),
            by: Requester::Platform,
            pace: None,
        };
        self.moves.begin(&new).await.unwrap()
    }

    /// Drives the one move there is, in the background.
    pub(super) fn drive(&self) -> JoinHandle<Driven> {
        let node = NodeId::from_uuid(Uuid::now_v7());
        let mover = Mover::new(self.moves.clone(), self.plane.clone(), node, MoverSettings::default());
        tokio::spawn(async move { mover.step().await.unwrap().expect("there is a move") })
    }

    /// Drives it until nothing of it is left, as nodes do: a move that is lost or given out of hand, as where the machine stood
    /// still for longer than a lease, is taken up again.
    pub(super) async fn drive_to_its_end(&self) -> Box<Move> {
        let node = NodeId::from_uuid(Uuid::now_v7());
        let mover = Mover::new(self.moves.clone(), self.plane.clone(), node, patient());
        let mut seen = Vec::new();
        let driven = async {
            loop {
                match mover.step().await.expect("the registry answers") {
                    Some(Driven::Ended(ended)) => return ended,
                    Some(driven) => {
                        seen.push(driven);
                        // Lost may be what has ended: the lease was asked for before the answer to that had come.
                        let newest =
                            self.moves.list(None, 1).await.expect("the registry answers").items.pop();
                        if let Some(ended) = newest.filter(|newest| newest.ended_at.is_some()) {
                            return Box::new(ended);
                        }
                    }
                    None => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        };
        let ended = tokio::time::timeout(PATIENCE, driven).await;
        ended.unwrap_or_else(|_| panic!("it ends; until then: {seen:?}"))
    }

    pub(super) async fn reaches(&self, id: MoveId, state: MoveState, serving: Side) -> Move {
        let there = async {
            loop {
                let moved = self.moves.find(id).await.unwrap().unwrap();
                assert_ne!(moved.state, MoveState::Aborted, "{:?}", moved.error);
                if moved.state == state && moved.serving() == serving {
                    return moved;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, there).await.expect("the move gets there")
    }

    pub(super) async fn ask(&self, id: MoveId, request: Request) {
        let asked = self.moves.request(id, request, Requester::Platform).await.unwrap();
        assert!(matches!(asked, Requested::Accepted(_)), "{asked:?}");
    }

    /// Drives the one move there is through every cutover that it can make, and ends it at the target.
    pub(super) async fn there_and_back_and_there(&self, id: MoveId) {
        let driven = self.drive();
        self.reaches(id, MoveState::Active, Side::Target).await;
        self.ask(id, Request::Back).await;
        self.reaches(id, MoveState::Active, Side::Source).await;
        self.ask(id, Request::Back).await;
        self.reaches(id, MoveState::Active, Side::Target).await;
        self.ask(id, Request::Finish).await;
        let Driven::Ended(ended) = driven.await.unwrap() else { panic!("it ends") };
        assert_eq!((ended.state, ended.serving()), (MoveState::Finished, Side::Target));
    }

    /// That nothing of a move is left in these databases. Sessions that were closed are gone a moment later.
    pub(super) async fn nothing_left(&self, id: MoveId, databases: &[DatabaseId]) {
        until("nothing is left of the move", async || {
            let left = self.leftovers(id, databases).await;
            left.is_empty()
        })
        .await;
    }

    /// What a move may leave on a server, counted: slots, publications, logs, words of progress, sessions.
    async fn leftovers(&self, id: MoveId, databases: &[DatabaseId]) -> Vec<(String, i64)> {
        let mut registry = connect(self.platform.registry()).await;
        let mut all = Vec::new();
        for database in databases {
            let name: String = sqlx::query_scalar("SELECT name FROM registry.databases WHERE id = $1")
                .bind(database.as_uuid())
                .fetch_one(&mut registry)
                .await
                .unwrap();
            let mut conn = connect(&self.platform.registry().with_database(&name)).await;
            for (what, sql) in [
                (
                    "slots",
                    "SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'stagesub_move_' || replace($1::text, '-', '') || '%'",
                ),
                (
                    "publications",
                    "SELECT count(*) FROM pg_publication WHERE pubname LIKE 'stagesub_move_' || replace($1::text, '-', '') || '%'",
                ),
                (
                    "logs",
                    "SELECT count(*) FROM (SELECT relname FROM pg_class UNION ALL SELECT proname FROM pg_proc
                         UNION ALL SELECT tgname FROM pg_trigger) AS made (name)
                     WHERE name LIKE 'stagesub_move_' || replace($1::text, '-', '') || '%'",
                ),
                ("progress", "SELECT count(*) FROM app.move_progress WHERE move_id = $1::uuid"),
                (
                    "sessions",
                    "SELECT count(*) FROM pg_stat_activity WHERE starts_with(application_name, 'stagesub-move:' || $1::text)",
                ),
            ] {
                let count: i64 =
                    sqlx::query_scalar(sql).bind(id.to_string()).fetch_one(&mut conn).await.unwrap();
                if count > 0 {
                    all.push((format!("{what} in {name}"), count));
                }
            }
        }
        all
    }

    pub(super) async fn rows(&self, database: DatabaseId, table: &str, tenant: TenantId) -> Vec<String> {
        let mut registry = connect(self.platform.registry()).await;
        let name: String = sqlx::query_scalar("SELECT name FROM registry.databases WHERE id = $1")
            .bind(database.as_uuid())
            .fetch_one(&mut registry)
            .await
            .unwrap();
        let mut conn = connect(&self.platform.registry().with_database(&name)).await;
        let sql = format!("SELECT t::text FROM {table} AS t WHERE tenant_id = $1 ORDER BY 1");
        sqlx::query_scalar(AssertSqlSafe(sql)).bind(tenant.as_uuid()).fetch_all(&mut conn).await.unwrap()
    }
}

/// People who make musicians all the while.
pub(super) struct Writers {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<Vec<String>>>,
}

impl Writers {
    pub(super) fn start(admin: &Client) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let tasks = (0..WRITERS).map(|writer| {
            let (admin, stop) = (admin.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut made = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let email = format!("m{writer}.{}@gbg.example", made.len());
                    let body = json!({"firstName": "Ada", "lastName": "Ek", "email": email});
                    admin.post("/api/v1/musicians", &body).await.expect(201);
                    made.push(email);
                }
                made
            })
        });
        Self { tasks: tasks.collect(), stop }
    }

    pub(super) async fn stop(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        let mut made = Vec::new();
        for task in self.tasks {
            made.extend(task.await.expect("every write is answered with 201"));
        }
        made
    }
}

pub(super) async fn emails(orchestra: &Orchestra) -> Vec<String> {
    let all = orchestra.admin.list_all("/api/v1/musicians?limit=200").await;
    let mut emails: Vec<String> = all.iter().map(|one| one["email"].as_str().unwrap().to_owned()).collect();
    emails.sort();
    emails
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_moves_to_its_own_database_and_back_while_it_is_in_use() {
    let ground = Ground::start().await;
    let orchestra = ground.platform.orchestra(Kept::Shared, "gbg").await;
    let other = ground.platform.orchestra(Kept::Shared, "sthlm").await;
    let own = ground.own_database(orchestra.tenant).await;
    let moved = ground.begin(orchestra.tenant, own, MovePath::Stream).await;
    let shared = moved.source.database();
    let others = ground.rows(shared, "tenant.audit", other.tenant).await;
    let writers = Writers::start(&orchestra.admin);
    ground.there_and_back_and_there(moved.id).await;
    let mut made = writers.stop().await;
    made.sort();
    assert!(!made.is_empty());
    assert_eq!(emails(&orchestra).await, made);
    assert_eq!(ground.rows(shared, "tenant.musician", orchestra.tenant).await, Vec::<String>::new());
    assert_eq!(ground.rows(own, "tenant.musician", orchestra.tenant).await.len(), made.len());
    assert_eq!(ground.rows(shared, "tenant.audit", other.tenant).await, others);
    ground.nothing_left(moved.id, &[shared, own]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_tenant_takes_the_short_path() {
    let ground = Ground::start().await;
    let orchestra = ground.platform.orchestra(Kept::Shared, "gbg").await;
    let own = ground.own_database(orchestra.tenant).await;
    let moved = ground.begin(orchestra.tenant, own, MovePath::Short).await;
    let shared = moved.source.database();
    let writers = Writers::start(&orchestra.admin);
    let ended = ground.drive_to_its_end().await;
    assert_eq!((ended.state, ended.serving()), (MoveState::Finished, Side::Target), "{ended:?}");
    let mut made = writers.stop().await;
    made.sort();
    assert_eq!(emails(&orchestra).await, made);
    assert_eq!(ground.rows(shared, "tenant.musician", orchestra.tenant).await, Vec::<String>::new());
    ground.nothing_left(moved.id, &[shared, own]).await;
    // And back, by another move.
    let moved = ground.begin(orchestra.tenant, shared, MovePath::Short).await;
    let ended = ground.drive_to_its_end().await;
    assert_eq!((ended.state, ended.serving()), (MoveState::Finished, Side::Target));
    assert_eq!(emails(&orchestra).await, made);
    ground.nothing_left(moved.id, &[shared, own]).await;
}

/// Where servers do not decode, each move has triggers of its own on the tables that all tenants share.
#[tokio::test(flavor = "multi_thread")]
async fn moves_that_come_and_go_in_one_database_do_not_hold_each_other_up() {
    let ground = Ground::start().await;
    let staying = ground.platform.orchestra(Kept::Shared, "gbg").await;
    let passing = ground.platform.orchestra(Kept::Shared, "sthlm").await;
    let (own, others) =
        (ground.own_database(staying.tenant).await, ground.own_database(passing.tenant).await);
    let stays = ground.begin(staying.tenant, own, MovePath::Triggers).await;
    let staying = ground.drive();
    ground.reaches(stays.id, MoveState::Active, Side::Target).await;

    let passes = ground.begin(passing.tenant, others, MovePath::Triggers).await;
    let passing = ground.drive();
    ground.reaches(passes.id, MoveState::Active, Side::Target).await;
    ground.ask(passes.id, Request::Finish).await;
    assert!(matches!(passing.await.unwrap(), Driven::Ended(_)));

    // It read the tables before that.
    ground.ask(stays.id, Request::Back).await;
    let back = ground.reaches(stays.id, MoveState::Active, Side::Source).await;
    assert_eq!((back.attempts, back.error), (0, None), "nothing was given up");
    ground.ask(stays.id, Request::Finish).await;
    assert!(matches!(staying.await.unwrap(), Driven::Ended(_)));
    for moved in [stays, passes] {
        ground.nothing_left(moved.id, &[moved.source.database(), own, others]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_aborted_move_leaves_nothing() {
    let ground = Ground::start().await;
    let orchestra = ground.platform.orchestra(Kept::Shared, "gbg").await;
    let own = ground.own_database(orchestra.tenant).await;
    let moved = ground.begin(orchestra.tenant, own, MovePath::Stream).await;
    ground.ask(moved.id, Request::Abort).await;
    let ended = ground.drive_to_its_end().await;
    assert_eq!((ended.state, ended.serving()), (MoveState::Aborted, Side::Source));
    ground.nothing_left(moved.id, &[moved.source.database(), own]).await;
    orchestra.admin.get("/api/v1/musicians").await.expect(200);
}
