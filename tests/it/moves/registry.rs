//! Moves in the registry: one at a time, held by a token, decided once.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use sqlx::PgConnection;
use stagesub_storage::directory::PgTenantDirectory;
use stagesub_storage::registry::RegistryPools;
use stagesub_storage::registry::changes::PgChangeFeed;
use stagesub_storage::registry::moves::PgMoveRegistry;
use stagesub_tenancy::moves::record::Object;
use stagesub_tenancy::moves::{
    BeginMoveError, Cleanup, Decision, Held, Move, MoveId, MovePath, MovePrefix, MoveRegistry,
    MoveRegistryError, MoveState, NewMove, Note, Refusal, Renewed, Request, Requested, Requester, Side,
    TableProgress,
};
use stagesub_tenancy::{
    ChangeFeed, DatabaseId, Located, NodeId, PlacementEpoch, TenantDirectory, TenantId, TenantStatus,
};
use stagesub_tests::cluster::{Cluster, keys};
use stagesub_tests::database::{connect, copy, point_at_copies, run};
use stagesub_tests::proxy::{Cut, CutProxy};
use tokio::sync::Barrier;
use uuid::Uuid;

use MoveState::{Aborted, Active, Back, CatchUp, Copy, Decided, Fence, Finished, Prepare, Slot, Verify};

const LEASE: Duration = Duration::from_hours(1);

/// A registry with a few tenants in its shared database, and each one's own database beside it, on paper.
pub(super) struct Desk {
    pub(super) admin: PgConnection,
    pub(super) pools: RegistryPools,
    pub(super) moves: Arc<PgMoveRegistry>,
    shared: DatabaseId,
}

impl Desk {
    pub(super) async fn new() -> Self {
        Self::behind(None).await
    }

    async fn behind(proxy: Option<&CutProxy>) -> Self {
        let cluster = Cluster::get().await;
        let name = format!("stagesub_test_run{}_moves_{}", std::process::id(), Uuid::now_v7().simple());
        let name = &name[..name.len().min(63)];
        copy(&mut connect(cluster.admin()).await, cluster.registry_template(), name).await;
        let target = cluster.admin().with_database(name);
        let mut admin = connect(&target).await;
        point_at_copies(&mut admin, &keys(), &[(cluster.registry_template(), name)]).await;
        if let Some(proxy) = proxy {
            proxy.stand_before(&target, &["stagesub_control"]).await;
        }
        let pools = RegistryPools::open(&target, &keys()).await.unwrap();
        let shared = sqlx::query_scalar("SELECT id FROM registry.databases WHERE kind = 'shared'")
            .fetch_one(&mut admin)
            .await
            .unwrap();
        let moves = Arc::new(PgMoveRegistry::new(pools.clone()));
        Self { admin, pools, moves, shared: DatabaseId::from_uuid(shared) }
    }

    /// A tenant that is in use, at epoch 5 of the shared database; and a database of its own.
    pub(super) async fn tenant(&mut self, code: &str) -> (TenantId, DatabaseId) {
        let (tenant, own) = (Uuid::now_v7(), Uuid::now_v7());
        let sql = format!(
            "INSERT INTO registry.codes (code, tenant_id) VALUES ('{code}', '{tenant}');
            INSERT INTO registry.tenants (id, code, name, subdomain, subscription, status, version)
            VALUES ('{tenant}', '{code}', '{code}', lower('{code}'), 'small', 'active', 0);
            INSERT INTO registry.databases (id, kind, tenant_id, status, server_identifier, host, port, name)
            VALUES ('{own}', 'dedicated', '{tenant}', 'ready', 'paper', 'localhost', 5432, '{own}');
            INSERT INTO registry.directory (tenant_id, database_id, placement, epoch)
            VALUES ('{tenant}', '{}', 'shared', 5)",
            self.shared
        );
        run(&mut self.admin, &sql).await;
        (TenantId::from_uuid(tenant), DatabaseId::from_uuid(own))
    }

    pub(super) async fn begun(&mut self, code: &str) -> Move {
        let (tenant, own) = self.tenant(code).await;
        self.moves.begin(&wanted(tenant, own)).await.unwrap()
    }

    /// A move that stands in its fence, in the hands of a node.
    pub(super) async fn fenced(&mut self, code: &str) -> Held {
        self.begun(code).await;
        let mut held = self.claimed().await;
        for state in [Slot, Copy, CatchUp, Verify, Fence] {
            self.advanced(&mut held, state).await;
        }
        held
    }

    /// The processes of connections that are kept for decisions.
    pub(super) async fn deciding(&mut self) -> Vec<i32> {
        let sql = "SELECT pid FROM pg_stat_activity WHERE application_name = 'stagesub decide'
            AND datname = current_database()";
        sqlx::query_scalar(sql).fetch_all(&mut self.admin).await.unwrap()
    }

    pub(super) async fn claimed(&self) -> Held {
        self.moves.claim(node(), LEASE).await.unwrap().expect("there is one to claim")
    }

    pub(super) async fn advanced(&self, held: &mut Held, to: MoveState) {
        let stepped = self.moves.advance(held, to, &Note::default()).await.unwrap();
        held.moved = stepped.unwrap_or_else(|| panic!("{to} follows on {}", held.moved.state));
    }

    pub(super) async fn located(&self, tenant: TenantId) -> Located {
        let located = self.moves.placement(tenant).await.unwrap().unwrap();
        let directory = PgTenantDirectory::new(self.pools.clone());
        assert_eq!(directory.find_placement(tenant).await.unwrap(), Some(located));
        located
    }

    /// What was said of a tenant in the platform's log.
    pub(super) async fn log(&mut self, tenant: TenantId) -> Vec<String> {
        sqlx::query_scalar(
            "SELECT concat_ws(' ', actor, action, model, changes ->> 'epoch', changes ->> 'state')
            FROM registry.platform_audit WHERE tenant_id = $1 ORDER BY id",
        )
        .bind(tenant.as_uuid())
        .fetch_all(&mut self.admin)
        .await
        .unwrap()
    }

    pub(super) async fn lease_is_over(&mut self, id: MoveId) {
        sqlx::query("UPDATE registry.moves SET lease_until = now() - interval '1 second' WHERE id = $1")
            .bind(id.as_uuid())
            .execute(&mut self.admin)
            .await
            .unwrap();
    }
}

pub(super) fn node() -> NodeId {
    NodeId::from_uuid(Uuid::now_v7())
}

pub(super) fn wanted(tenant: TenantId, target: DatabaseId) -> NewMove {
    NewMove {
        id: MoveId::from_uuid(Uuid::now_v7()),
        tenant,
        target,
        path: MovePath::Stream,
        prefix: MovePrefix::from_bytes(*Uuid::now_v7().as_bytes()),
        by: Requester::Platform,
        pace: NonZeroU32::new(3_000_000),
    }
}

fn refusal(result: Result<Move, BeginMoveError>) -> Refusal {
    match result {
        Err(BeginMoveError::Refused(refusal)) => refusal,
        other => panic!("it is refused: {other:?}"),
    }
}

pub(super) fn made(decision: Result<Decision, MoveRegistryError>) -> Move {
    match decision.unwrap() {
        Decision::Made(moved) => *moved,
        other => panic!("it is made: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_begins_where_the_directory_says_and_once() {
    let mut desk = Desk::new().await;
    let (tenant, own) = desk.tenant("GOT").await;
    let (other, others) = desk.tenant("MAL").await;
    let begin = async |new: NewMove| desk.moves.begin(&new).await;
    assert_eq!(refusal(begin(wanted(tenant, desk.shared)).await), Refusal::AlreadyThere);
    assert_eq!(refusal(begin(wanted(tenant, others)).await), Refusal::Anothers(others));
    let nowhere = DatabaseId::from_uuid(Uuid::now_v7());
    assert_eq!(refusal(begin(wanted(tenant, nowhere)).await), Refusal::NoDatabase(nowhere));
    let registry = desk.pools.database();
    assert_eq!(refusal(begin(wanted(tenant, registry)).await), Refusal::NoDatabase(registry));
    let nobody = TenantId::from_uuid(Uuid::now_v7());
    assert_eq!(refusal(begin(wanted(nobody, own)).await), Refusal::UnknownTenant);
    assert_eq!(desk.moves.claim(node(), LEASE).await.unwrap(), None);

    let person = Uuid::now_v7();
    let new = NewMove { by: Requester::Person(person), ..wanted(tenant, own) };
    let moved = begin(new.clone()).await.unwrap();
    assert_eq!(
        (moved.id, moved.tenant, moved.state, moved.heading, moved.epoch, moved.by, moved.pace),
        (new.id, tenant, Prepare, Side::Target, PlacementEpoch(5), new.by, new.pace)
    );
    assert_eq!((moved.source.database(), moved.target.database()), (desk.shared, own));
    assert_eq!((moved.target.as_str(), &moved.prefix), ("dedicated", &new.prefix));
    assert_eq!(desk.moves.find(new.id).await.unwrap(), Some(moved.clone()));
    assert_eq!(desk.moves.live_of(tenant).await.unwrap(), Some(moved.clone()));
    assert_eq!(desk.moves.live_of(other).await.unwrap(), None);
    assert_eq!(desk.located(tenant).await, moved.undecided());
    assert_eq!(refusal(desk.moves.begin(&wanted(tenant, own)).await), Refusal::Moving(new.id));
    assert_eq!(desk.log(tenant).await, ["superadmin move_begin move 5 prepare"]);

    run(&mut desk.admin, "UPDATE registry.tenants SET status = 'suspended' WHERE code = 'MAL'").await;
    let refused = refusal(desk.moves.begin(&wanted(other, others)).await);
    assert_eq!(refused, Refusal::NotActive(TenantStatus::Suspended));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_moves_that_begin_at_once_one_does() {
    let mut desk = Desk::new().await;
    let (tenant, own) = desk.tenant("GOT").await;
    let start = Arc::new(Barrier::new(4));
    let tasks: Vec<_> = (0..4)
        .map(|_| {
            let (moves, start) = (desk.moves.clone(), start.clone());
            tokio::spawn(async move {
                start.wait().await;
                moves.begin(&wanted(tenant, own)).await
            })
        })
        .collect();
    let mut begun = Vec::new();
    let mut moving = Vec::new();
    for task in tasks {
        match task.await.unwrap() {
            Ok(moved) => begun.push(moved.id),
            Err(BeginMoveError::Refused(Refusal::Moving(id))) => moving.push(id),
            Err(other) => panic!("{other:?}"),
        }
    }
    assert_eq!((begun.len(), moving), (1, vec![begun[0]; 3]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_is_one_nodes_at_a_time_and_a_stale_one_writes_nothing() {
    let mut desk = Desk::new().await;
    let id = desk.begun("GOT").await.id;
    let start = Arc::new(Barrier::new(4));
    let tasks: Vec<_> = (0..4)
        .map(|_| {
            let (moves, start) = (desk.moves.clone(), start.clone());
            tokio::spawn(async move {
                start.wait().await;
                moves.claim(node(), LEASE).await.unwrap()
            })
        })
        .collect();
    let mut claims = Vec::new();
    for task in tasks {
        claims.extend(task.await.unwrap());
    }
    let [stale] = <[Held; 1]>::try_from(claims).expect("one of them has it");
    assert_eq!(desk.moves.renew(&stale, LEASE).await.unwrap(), Renewed::Held { wanted: None });
    assert_eq!(desk.moves.claim(node(), LEASE).await.unwrap(), None);

    desk.lease_is_over(id).await;
    let mut held = desk.claimed().await;
    assert!(held.token > stale.token && held.node != stale.node);
    let cleanup = Cleanup { object: Object::Slot, database: desk.shared, name: "slot".to_owned() };
    let before = desk.moves.find(id).await.unwrap();
    assert_eq!(desk.moves.renew(&stale, LEASE).await.unwrap(), Renewed::Lost);
    assert!(!desk.moves.release(&stale, None, LEASE).await.unwrap());
    assert_eq!(desk.moves.advance(&stale, Slot, &Note::default()).await.unwrap(), None);
    assert!(!desk.moves.record_tables(&stale, Vec::new()).await.unwrap());
    assert!(!desk.moves.plan_cleanups(&stale, vec![cleanup.clone()]).await.unwrap());
    assert!(!desk.moves.cleaned(&stale, &cleanup).await.unwrap());
    assert_eq!(desk.moves.end(&stale).await.unwrap(), None);
    assert_eq!(desk.moves.find(id).await.unwrap(), before);
    assert_eq!(desk.moves.outstanding(id).await.unwrap(), []);

    for state in [Slot, Copy, CatchUp, Verify, Fence] {
        desk.advanced(&mut held, state).await;
    }
    // One that knows everything but has the token of before.
    let stale = Held { token: stale.token, ..held.clone() };
    assert_eq!(desk.moves.decide(&stale).await.unwrap(), Decision::Stale);
    assert_eq!(desk.moves.give_up(&stale, "stale").await.unwrap(), Decision::Stale);
    assert_eq!(desk.located(held.moved.tenant).await, held.moved.undecided());

    // Given out of hand it is anybody's, after the pause.
    assert!(desk.moves.release(&held, Some("the disk is full".to_owned()), LEASE).await.unwrap());
    assert_eq!(desk.moves.renew(&held, LEASE).await.unwrap(), Renewed::Lost);
    assert_eq!(desk.moves.claim(node(), LEASE).await.unwrap(), None);
    desk.lease_is_over(id).await;
    let next = desk.claimed().await;
    assert_eq!((next.moved.error.as_deref(), next.moved.state), (Some("the disk is full"), Fence));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_longest_is_claimed_first() {
    let mut desk = Desk::new().await;
    let (first, second) = (desk.begun("GOT").await.id, desk.begun("MAL").await.id);
    for id in [second, first] {
        let longer = if id == second { "2 hours" } else { "1 hour" };
        let sql = "UPDATE registry.moves SET lease_until = now() - $1::text::interval WHERE id = $2";
        sqlx::query(sql).bind(longer).bind(id.as_uuid()).execute(&mut desk.admin).await.unwrap();
    }
    assert_eq!((desk.claimed().await.moved.id, desk.claimed().await.moved.id), (second, first));
    assert_eq!(desk.moves.claim(node(), LEASE).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_decision_changes_the_directory_and_every_cache_hears_of_it() {
    let mut desk = Desk::new().await;
    let mut held = desk.fenced("GOT").await;
    let (tenant, before) = (held.moved.tenant, held.moved.clone());
    let feed = PgChangeFeed::new(&desk.pools);
    let since = feed.current().await.unwrap().version;

    held.moved = made(desk.moves.decide(&held).await);
    assert_eq!((held.moved.state, held.moved.epoch), (Decided, before.epoch));
    assert_eq!(desk.located(tenant).await, before.decided());
    assert_eq!(desk.located(tenant).await.epoch, PlacementEpoch(6));
    let changes = feed.changes_since(since).await.unwrap();
    assert_eq!((changes.tenants, changes.standing.version.0), (vec![tenant], since.0 + 1));
    // Once.
    assert_eq!(desk.moves.decide(&held).await.unwrap(), Decision::Stale);
    let again = Held { moved: before.clone(), ..held.clone() };
    assert_eq!(desk.moves.decide(&again).await.unwrap(), Decision::Stale);
    assert_eq!(desk.moves.give_up(&again, "too late").await.unwrap(), Decision::Stale);
    assert_eq!(feed.current().await.unwrap().version.0, since.0 + 1, "what was not made is not told");

    let note = Note { pause: Some(Duration::from_micros(10_300)), ..Note::default() };
    held.moved = desk.moves.advance(&held, Active, &note).await.unwrap().unwrap();
    assert_eq!(held.moved.pause, note.pause);

    // And back: the same, from e+1 to e+2.
    assert!(matches!(
        desk.moves.request(held.moved.id, Request::Back, Requester::Platform).await.unwrap(),
        Requested::Accepted(_)
    ));
    desk.advanced(&mut held, Back).await;
    assert_eq!(
        (held.moved.heading, held.moved.epoch, held.moved.wanted),
        (Side::Source, PlacementEpoch(6), None)
    );
    held.moved = made(desk.moves.decide(&held).await);
    assert_eq!(
        desk.located(tenant).await,
        Located { tenant, placement: before.source, epoch: PlacementEpoch(7) }
    );
    desk.advanced(&mut held, Active).await;

    // There once more is not begun by whoever does not want it any more.
    for request in [Request::Back, Request::Finish] {
        let asked = desk.moves.request(held.moved.id, request, Requester::Platform).await.unwrap();
        assert!(matches!(asked, Requested::Accepted(_)), "{asked:?}");
    }
    let asked = desk.moves.request(held.moved.id, Request::Back, Requester::Platform).await.unwrap();
    assert!(matches!(asked, Requested::Refused(_)), "{asked:?}");
    assert_eq!(desk.moves.advance(&held, Back, &Note::default()).await.unwrap(), None);
    desk.advanced(&mut held, Finished).await;
    let ended = desk.moves.end(&held).await.unwrap().unwrap();
    assert!(ended.ended_at.is_some() && desk.moves.live_of(tenant).await.unwrap().is_none());
    assert_eq!(desk.moves.claim(node(), LEASE).await.unwrap(), None);
    assert_eq!(
        desk.log(tenant).await,
        [
            "system move_begin move 5 prepare",
            "system move_decide move 6 decided",
            "system move_ask_back move 6 active",
            "system move_decide move 7 decided",
            "system move_ask_back move 7 active",
            "system move_ask_finish move 7 active",
            "system move_end move 7 finished",
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn giving_up_takes_an_epoch_and_the_one_before_is_nobodys() {
    let mut desk = Desk::new().await;
    let mut held = desk.fenced("GOT").await;
    let tenant = held.moved.tenant;
    let feed = PgChangeFeed::new(&desk.pools);
    let since = feed.current().await.unwrap().version;
    // Out of the fence there is no way but through the directory.
    for to in [CatchUp, Aborted, Decided] {
        assert_eq!(desk.moves.advance(&held, to, &Note::default()).await.unwrap(), None, "{to}");
    }
    let given_up = made(desk.moves.give_up(&held, "the drain took too long").await);
    assert_eq!((given_up.state, given_up.attempts, given_up.epoch), (Fence, 1, PlacementEpoch(5)));
    assert_eq!(desk.located(tenant).await, held.moved.given_up());
    assert_eq!(feed.changes_since(since).await.unwrap().tenants, [tenant]);
    assert_eq!(desk.moves.decide(&held).await.unwrap(), Decision::Lost);
    assert_eq!(desk.moves.give_up(&held, "again").await.unwrap(), Decision::Lost);
    assert_eq!(desk.located(tenant).await.epoch, PlacementEpoch(7));

    desk.advanced(&mut held, CatchUp).await;
    assert_eq!(
        (held.moved.epoch, held.moved.error.as_deref()),
        (PlacementEpoch(7), Some("the drain took too long"))
    );
    desk.advanced(&mut held, Verify).await;
    desk.advanced(&mut held, Fence).await;
    made(desk.moves.decide(&held).await);
    assert_eq!(desk.located(tenant).await.epoch, PlacementEpoch(8));
    let log = desk.log(tenant).await;
    assert_eq!(log[1..], ["system move_give_up move 7 fence", "system move_decide move 8 decided"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_decisions_and_giving_up_at_once_exactly_one_is_made() {
    let mut desk = Desk::new().await;
    let mut seen = [0, 0];
    for round in 0..12 {
        let held = desk.fenced(&format!("T{round}")).await;
        let feed = PgChangeFeed::new(&desk.pools);
        let since = feed.current().await.unwrap().version;
        let start = Arc::new(Barrier::new(4));
        let tasks: Vec<_> = (0..4)
            .map(|n| {
                let (moves, start, held) = (desk.moves.clone(), start.clone(), held.clone());
                tokio::spawn(async move {
                    start.wait().await;
                    if (n + round) % 2 == 0 {
                        moves.decide(&held).await.unwrap()
                    } else {
                        moves.give_up(&held, "raced").await.unwrap()
                    }
                })
            })
            .collect();
        let mut all = Vec::new();
        for task in tasks {
            if let Decision::Made(moved) = task.await.unwrap() {
                all.push(moved);
            }
        }
        let [made] = <[_; 1]>::try_from(all).expect("exactly one");
        let located = desk.located(held.moved.tenant).await;
        let decided = made.state == Decided;
        assert_eq!(located, if decided { held.moved.decided() } else { held.moved.given_up() });
        assert_eq!(feed.current().await.unwrap().version.0, since.0 + 1);
        seen[usize::from(decided)] += 1;
    }
    assert!(seen[0] > 0 && seen[1] > 0, "both come first at times: {seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_somebody_changed_is_not_decided_over() {
    let mut desk = Desk::new().await;
    let held = desk.fenced("GOT").await;
    run(&mut desk.admin, "UPDATE registry.directory SET epoch = 99").await;
    assert_eq!(desk.moves.decide(&held).await.unwrap(), Decision::Lost);
    assert_eq!(desk.moves.give_up(&held, "no").await.unwrap(), Decision::Lost);
    assert_eq!(desk.located(held.moved.tenant).await.epoch, PlacementEpoch(99));
    assert_eq!(desk.moves.find(held.moved.id).await.unwrap().unwrap().attempts, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abort_that_was_accepted_and_the_decision_exclude_each_other() {
    let mut desk = Desk::new().await;
    let held = desk.fenced("GOT").await;
    let asked = desk.moves.request(held.moved.id, Request::Abort, Requester::Platform).await.unwrap();
    assert!(matches!(asked, Requested::Accepted(_)));
    assert_eq!(desk.moves.decide(&held).await.unwrap(), Decision::Lost);
    assert_eq!(desk.located(held.moved.tenant).await, held.moved.undecided());
    for round in 0..12 {
        let held = desk.fenced(&format!("T{round}")).await;
        let start = Arc::new(Barrier::new(2));
        let (moves, other) = (desk.moves.clone(), start.clone());
        let id = held.moved.id;
        let asking = tokio::spawn(async move {
            other.wait().await;
            if round % 2 == 0 {
                tokio::task::yield_now().await;
            }
            moves.request(id, Request::Abort, Requester::Platform).await.unwrap()
        });
        start.wait().await;
        let decided = matches!(desk.moves.decide(&held).await.unwrap(), Decision::Made(_));
        let accepted = matches!(asking.await.unwrap(), Requested::Accepted(_));
        assert!(decided != accepted, "one of them: decided {decided}, accepted {accepted}");
        if accepted {
            made(desk.moves.give_up(&held, "it was asked for").await);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_ends_when_what_it_planned_is_removed_and_the_next_may_begin_then() {
    let mut desk = Desk::new().await;
    let (tenant, own) = desk.tenant("GOT").await;
    let moved = desk.moves.begin(&wanted(tenant, own)).await.unwrap();
    let mut held = desk.claimed().await;
    let cleanup = |object, database, name: &str| Cleanup { object, database, name: name.to_owned() };
    let plan = vec![
        cleanup(Object::Rows, own, "rows"),
        cleanup(Object::Publication, desk.shared, "publication"),
        cleanup(Object::Slot, desk.shared, "slot"),
    ];
    assert!(desk.moves.plan_cleanups(&held, plan.clone()).await.unwrap());
    assert!(desk.moves.plan_cleanups(&held, plan.clone()).await.unwrap(), "twice is once");
    let mut backwards = plan.clone();
    backwards.reverse();
    assert_eq!(desk.moves.outstanding(moved.id).await.unwrap(), backwards);

    let table = |rows, done| TableProgress {
        schema: "tenant".to_owned(),
        table: "musician".to_owned(),
        rows,
        bytes: rows * 100,
        done,
    };
    let parent = TableProgress { table: "instrument".to_owned(), ..table(3, true) };
    for rows in [1, 7] {
        let tables = vec![parent.clone(), table(rows, rows == 7)];
        assert!(desk.moves.record_tables(&held, tables.clone()).await.unwrap());
        assert_eq!(desk.moves.tables(moved.id).await.unwrap(), tables);
    }

    desk.advanced(&mut held, Aborted).await;
    for (n, cleanup) in backwards.iter().enumerate() {
        assert_eq!(desk.moves.end(&held).await.unwrap(), None, "{n} of 3 are removed");
        assert_eq!(refusal(desk.moves.begin(&wanted(tenant, own)).await), Refusal::Moving(moved.id));
        assert!(desk.moves.cleaned(&held, cleanup).await.unwrap());
    }
    assert!(desk.moves.end(&held).await.unwrap().is_some());
    assert!(!desk.moves.record_tables(&held, Vec::new()).await.unwrap(), "it is nobody's any more");
    let next = desk.moves.begin(&wanted(tenant, own)).await.unwrap();
    let page = desk.moves.list(None, 1).await.unwrap();
    assert_eq!((page.items[0].id, page.next), (next.id, Some(next.id)));
    let page = desk.moves.list(page.next, 1).await.unwrap();
    assert_eq!((page.items[0].id, page.items.len(), page.next), (moved.id, 1, None));
}

/// The connection is cut at the COMMIT, before the server heard of it or after it had done it. Whichever it was, giving
/// up says so: it is made, or it hits no row.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_was_cut_off_is_unknown_and_the_directory_knows() {
    let proxy = CutProxy::start(Cluster::get().await.admin()).await;
    let mut desk = Desk::behind(Some(&proxy)).await;
    // Also on the connection that is kept for decisions, which is then another one.
    let each = Cut::ALL.into_iter().flat_map(|cut| [(cut, false), (cut, true)]);
    for (n, (cut, ready)) in each.enumerate() {
        let held = desk.fenced(&format!("D{n}")).await;
        if ready {
            desk.moves.get_ready(&held).await.unwrap();
        }
        proxy.cut(cut, 1);
        let unknown = desk.moves.decide(&held).await;
        assert!(matches!(unknown, Err(MoveRegistryError::Unknown(_))), "{cut:?}: {unknown:?}");
        let kept = cut == Cut::AfterCommit;
        let given_up = desk.moves.give_up(&held, "unknown").await.unwrap();
        let located = desk.located(held.moved.tenant).await;
        if kept {
            assert_eq!((given_up, located), (Decision::Stale, held.moved.decided()));
        } else {
            assert!(matches!(given_up, Decision::Made(_)), "{given_up:?}");
            assert_eq!(located, held.moved.given_up());
        }

        let held = desk.fenced(&format!("G{n}")).await;
        proxy.cut(cut, 1);
        let unknown = desk.moves.give_up(&held, "cut").await;
        assert!(matches!(unknown, Err(MoveRegistryError::Unknown(_))), "{cut:?}: {unknown:?}");
        let decided = desk.moves.decide(&held).await.unwrap();
        let located = desk.located(held.moved.tenant).await;
        if kept {
            assert_eq!((decided, located), (Decision::Lost, held.moved.given_up()));
        } else {
            assert!(matches!(decided, Decision::Made(_)), "{decided:?}");
            assert_eq!(located, held.moved.decided());
        }
    }
}
