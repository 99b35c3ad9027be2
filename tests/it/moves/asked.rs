//! What moves are asked for with, and how they are found: by kind, by tenant, by size, by key.

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use sqlx::PgConnection;
use stagesub_domain::idempotency::{Asked, Fingerprint};
use stagesub_domain::ports::moves::{KeyedMove, MoveDesk};
use stagesub_storage::moves::plan::Contents;
use stagesub_storage::moves::survey::PgSurveyor;
use stagesub_storage::registry::logins::PgDatabaseLogins;
use stagesub_storage::registry::move_desk::PgMoveDesk;
use stagesub_tenancy::moves::{
    MoveId, MoveKind, MoveRegistry, MoveState, Note, PlaneError, Surveyor, TenantSize,
};
use stagesub_tenancy::{DatabaseId, Placement};
use stagesub_tests::cluster::keys;
use stagesub_tests::database::connect;
use stagesub_tests::dedicated::Dedicated;
use stagesub_tests::{Kept, Orchestra, TestPlatform};
use uuid::Uuid;

use super::registry::{Desk, node};

const LEASE: Duration = Duration::from_hours(1);

#[tokio::test(flavor = "multi_thread")]
async fn a_node_takes_the_kind_it_has_room_for_and_tenants_moves_are_their_own() {
    use MoveState::{Active, CatchUp, Copy, Decided, Fence, Slot, Verify};
    let mut desk = Desk::new().await;
    let (first, second) = (desk.begun("GOT").await, desk.begun("MAL").await);
    let active = async |kind| desk.moves.claim_kind(node(), LEASE, kind).await.unwrap();
    assert_eq!(active(MoveKind::Active).await, None);
    let mut held = active(MoveKind::Working).await.expect("there are two");
    assert_eq!(held.moved.id, first.id);
    for to in [Slot, Copy, CatchUp, Verify, Fence] {
        held.moved = desk.moves.advance(&held, to, &Note::default()).await.unwrap().expect("it steps");
    }
    desk.moves.decide(&held).await.unwrap();
    held.moved = desk.moves.find(first.id).await.unwrap().unwrap();
    assert_eq!(held.moved.state, Decided);
    desk.moves.advance(&held, Active, &Note::default()).await.unwrap().expect("it steps");
    let mut counts = desk.moves.count_live().await.unwrap();
    counts.sort_by_key(|(state, _)| state.as_str());
    assert_eq!(counts, [(Active, 1), (MoveState::Prepare, 1)]);

    desk.lease_is_over(first.id).await;
    let again = desk.moves.claim_kind(node(), LEASE, MoveKind::Active).await.unwrap().expect("it is free");
    assert_eq!(again.moved.id, first.id);
    let working =
        desk.moves.claim_kind(node(), LEASE, MoveKind::Working).await.unwrap().expect("one is left");
    assert_eq!(working.moved.id, second.id);
    assert_eq!(desk.moves.claim(node(), LEASE).await.unwrap(), None);

    let page = desk.moves.list_of(first.tenant, None, 1).await.unwrap();
    assert_eq!((page.items.len(), page.items[0].id, page.next), (1, first.id, None));
    let none = desk.moves.list_of(first.tenant, Some(first.id), 1).await.unwrap();
    assert!(none.items.is_empty());
}

/// A platform with two orchestras and what looks at their sizes.
async fn surveyed() -> (TestPlatform, [Orchestra; 2], PgSurveyor) {
    let platform = TestPlatform::start().await;
    let [ours, theirs] = platform.pair(Kept::Shared).await;
    for n in 0..7 {
        let body =
            serde_json::json!({"firstName": "Ada", "lastName": "Ek", "email": format!("a{n}@b.example")});
        ours.admin.post("/api/v1/musicians", &body).await.expect(201);
    }
    let logins = PgDatabaseLogins::new(platform.wired().registry().clone(), Arc::new(keys()));
    let contents = Contents { schemas: vec!["tenant".to_owned()], reference_tables: Vec::new() };
    (platform, [ours, theirs], PgSurveyor::new(Arc::new(logins), contents))
}

async fn shared_id(registry: &mut PgConnection) -> DatabaseId {
    let id =
        sqlx::query_scalar("SELECT id FROM registry.databases WHERE kind = 'shared' ORDER BY id LIMIT 1");
    DatabaseId::from_uuid(id.fetch_one(registry).await.unwrap())
}

/// Rows of a tenant in every tenant table, as the administrator counts them.
async fn counted(platform: &TestPlatform, orchestra: &Orchestra) -> u64 {
    let target = platform.registry().with_database(&platform.database_of(orchestra).await);
    let mut conn = connect(&target).await;
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class AS c
        JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE n.nspname = 'tenant' AND c.relkind = 'r'",
    )
    .fetch_all(&mut conn)
    .await
    .unwrap();
    let mut rows = 0;
    for table in tables {
        let sql = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table} WHERE tenant_id = $1"));
        let count: i64 =
            sqlx::query_scalar(sql).bind(orchestra.tenant.as_uuid()).fetch_one(&mut conn).await.unwrap();
        rows += count.unsigned_abs();
    }
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn sizes_are_each_tenants_own_and_counted_no_further_than_wanted() {
    let (platform, [ours, theirs], surveyor) = surveyed().await;
    let shared = shared_id(&mut connect(platform.registry()).await).await;
    let placement = Placement::Shared(shared);
    let rows = counted(&platform, &ours).await;
    assert!(rows > 50, "{rows}");
    assert_eq!(surveyor.rows(ours.tenant, placement, 5_000).await.unwrap(), rows);
    assert_eq!(surveyor.rows(ours.tenant, placement, 20).await.unwrap(), 21);
    assert_eq!(surveyor.rows(ours.tenant, placement, rows).await.unwrap(), rows);
    let mut sizes = surveyor.sizes(shared).await.unwrap();
    sizes.sort_by_key(|size| std::cmp::Reverse(size.rows));
    let [TenantSize { tenant, rows: most, bytes }, other] = sizes[..] else { panic!("{sizes:?}") };
    assert_eq!((tenant, most, other.tenant), (ours.tenant, rows, theirs.tenant));
    assert!(bytes > 20 * rows && other.rows < most, "{sizes:?}");
    // Texts that repeat nothing, so they are stored as they are.
    let notes: String = (0..100).map(|_| Uuid::new_v4().simple().to_string()).collect();
    let large =
        serde_json::json!({"firstName": "Bo", "lastName": "Ek", "email": "b@b.example", "notes": notes});
    ours.admin.post("/api/v1/musicians", &large).await.expect(201);
    let rows = counted(&platform, &ours).await;
    let weighed = surveyor.rows(ours.tenant, placement, 5_000).await.unwrap();
    assert!(
        (rows + 3..rows + 8).contains(&weighed),
        "its 3,200 bytes are copied, and noted in the audit: {weighed}, {rows}"
    );
    // This cluster decodes.
    assert!(surveyor.decodes(ours.tenant, placement).await.unwrap());
    let nowhere = Placement::Shared(DatabaseId::from_uuid(Uuid::now_v7()));
    assert!(matches!(surveyor.decodes(ours.tenant, nowhere).await, Err(PlaneError::Refused(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_one_moves_for_a_day_and_a_refused_requests_not_at_all() {
    let platform = TestPlatform::start().await;
    let ours = platform.orchestra(Kept::Shared, "ours").await;
    let superadmin: Uuid = sqlx::query_scalar("SELECT id FROM registry.users WHERE is_superadmin LIMIT 1")
        .fetch_one(&mut connect(platform.registry()).await)
        .await
        .unwrap();
    let desk = PgMoveDesk::new(platform.wired().registry().clone());
    let asked = |key: &str, print| Asked {
        user: superadmin,
        key: key.parse().unwrap(),
        fingerprint: Fingerprint::new([print; Fingerprint::LEN]),
    };
    let id = || MoveId::from_uuid(Uuid::now_v7());
    let (first, now) = (id(), platform.now());
    let claim = async |asked: &Asked, id, at| desk.claim_key(asked, ours.tenant, id, at).await.unwrap();
    assert_eq!(claim(&asked("k", 1), first, now).await, KeyedMove::Now);
    let before = KeyedMove::Before { fingerprint: asked("k", 1).fingerprint, id: Some(first) };
    assert_eq!(claim(&asked("k", 2), id(), now).await, before);
    // Another move's key is not forgotten.
    desk.forget_key(&asked("k", 1), id()).await.unwrap();
    assert_eq!(claim(&asked("k", 1), id(), now).await, before);
    let next = id();
    assert_eq!(claim(&asked("k", 1), next, now + TimeDelta::hours(25)).await, KeyedMove::Now);
    desk.forget_key(&asked("k", 1), next).await.unwrap();
    assert_eq!(claim(&asked("k", 3), id(), now).await, KeyedMove::Now);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_orchestras_can_go_is_what_the_registry_has_ready() {
    let platform = TestPlatform::start().await;
    let desk = PgMoveDesk::new(platform.wired().registry().clone());
    let shared = shared_id(&mut connect(platform.registry()).await).await;
    let own = platform.orchestra(Kept::Dedicated, "own").await;
    let among = platform.orchestra(Kept::Shared, "among").await;
    assert!(desk.find_own(own.tenant).await.unwrap().is_some());
    assert_eq!(desk.find_own(among.tenant).await.unwrap(), None);
    assert_eq!(desk.find_shared(shared).await.unwrap(), Some(shared));
    let nowhere = DatabaseId::from_uuid(Uuid::now_v7());
    assert_eq!(desk.find_shared(nowhere).await.unwrap(), None);
    assert_eq!(desk.choose_other_shared(shared).await.unwrap(), None);
    let other = Dedicated::group(&platform, "other").await.make_shared(&[]).await;
    assert_eq!(desk.choose_other_shared(shared).await.unwrap(), Some(other));
    assert_eq!(desk.choose_other_shared(other).await.unwrap(), Some(shared));
}
