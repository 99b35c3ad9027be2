//! What stands in the way of a move, said before anything is made.

use std::sync::Arc;
use std::time::Duration;

use chrono::DateTime;
use stagesub_storage::catalogue::TableName;
use stagesub_storage::databases::{Home, NewShared, SharedDatabases};
use stagesub_storage::doctor::Expectations;
use stagesub_storage::embedded::{Cluster, ClusterOptions};
use stagesub_storage::identity::Identity;
use stagesub_storage::logins::{DatabaseLogins, LoginRole};
use stagesub_storage::moves::change_log::ChangeLog;
use stagesub_storage::moves::plan::Contents;
use stagesub_storage::moves::plane::{PgDataPlane, PlaneSettings};
use stagesub_storage::moves::preflight::{obstacles, obstacles_at_source, sweep};
use stagesub_storage::moves::progress::Direction;
use stagesub_storage::moves::session::Site;
use stagesub_storage::moves::slot::stream_name;
use stagesub_storage::registry::RegistryPools;
use stagesub_storage::registry::logins::PgDatabaseLogins;
use stagesub_storage::registry::moves::PgMoveRegistry;
use stagesub_tenancy::moves::{DataPlane, Move, MoveId, MovePath, MovePrefix, NewMove, NewTarget, Requester};
use stagesub_tenancy::{DatabaseId, Located, Placement, PlacementEpoch, PoolTarget, TenantId};
use stagesub_tests::database::connect;
use uuid::Uuid;

use crate::databases::allowing;
use crate::registry::Server;

/// How long tables that nobody uses are waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// A tenant in the shared database of one server, and a shared database on another for it to go to.
struct Ground {
    ours: Server,
    other: Server,
    registry: RegistryPools,
    moved: Move,
    source: Site,
    target: Site,
}

impl Ground {
    async fn new() -> Self {
        Self::on(ClusterOptions::throwaway()).await
    }

    async fn on(other: ClusterOptions) -> Self {
        let (ours, other) =
            tokio::join!(Server::installed(), async { Server::on(Cluster::start(other).await.unwrap()) });
        let registry = ours.open().await;
        let shared = SharedDatabases::new(
            registry.clone(),
            Arc::clone(&ours.keys),
            allowing(&[&ours, &other]),
            Expectations::default(),
        );
        let home = Home::Server(other.admin("postgres"));
        let new = NewShared { home, name: Some("there".to_owned()), adopt_logins: false };
        let target = shared.add(&new).await.unwrap().id;
        let source = ours.texts("reg", "SELECT id::text FROM registry.databases WHERE name = 'shr'").await;
        let source = DatabaseId::from_uuid(source[0].parse().unwrap());
        let moved = moved(source, target);
        let logins = PgDatabaseLogins::new(registry.clone(), Arc::clone(&ours.keys));
        let site = async |id| {
            let login = logins.find_login(id, LoginRole::Mover).await.unwrap().unwrap();
            Site::new(moved.id.as_uuid(), login, Identity::of(&PoolTarget::Shared(id)))
        };
        let (from, to) = (site(source).await, site(target).await);
        let fence = "INSERT INTO app.tenant_fence (tenant_id, state, epoch) VALUES ('{t}', 'active', 5)";
        ours.run("shr", &fence.replace("{t}", &moved.tenant.to_string())).await;
        Self { ours, other, registry, moved, source: from, target: to }
    }

    async fn told(&self) -> Vec<String> {
        self.told_of(&self.moved).await
    }

    async fn told_of(&self, moved: &Move) -> Vec<String> {
        obstacles(moved, &self.source, &self.target, &contents()).await.unwrap()
    }

    async fn at_source(&self, sql: &str) {
        self.ours.run("shr", &sql.replace("{t}", &self.moved.tenant.to_string())).await;
    }

    async fn at_target(&self, sql: &str) {
        self.other.run("there", &sql.replace("{t}", &self.moved.tenant.to_string())).await;
    }

    /// The registry knows the tenant and these moves of it: each in a state, and when it ended.
    async fn has_moves(&self, moves: &[(Uuid, &str, &str)]) {
        let tenant = self.moved.tenant;
        let known = format!(
            "INSERT INTO registry.codes (code, tenant_id) VALUES ('AAA', '{tenant}');
            INSERT INTO registry.tenants (id, code, name, subdomain, subscription, status, version)
            VALUES ('{tenant}', 'AAA', 'A', 'aaa', 'institution', 'active', 0)"
        );
        self.ours.run("reg", &known).await;
        let (source, target) = (self.moved.source.database(), self.moved.target.database());
        for (id, state, ended) in moves {
            let sql = format!(
                "INSERT INTO registry.moves
                    (id, tenant_id, source_id, source_placement, target_id, target_placement, path, state, heading, epoch, prefix, ended_at)
                VALUES ('{id}', '{tenant}', '{source}', 'shared', '{target}', 'shared', 'stream', '{state}', 'target', 5, repeat('a', 32), {ended})"
            );
            self.ours.run("reg", &sql).await;
        }
    }

    /// Exactly one obstacle, with these words in it.
    async fn only(&self, words: &[&str]) {
        let told = self.told().await;
        assert_eq!(told.len(), 1, "{told:#?}");
        for word in words {
            assert!(told[0].contains(word), "{word}: {told:?}");
        }
    }
}

fn contents() -> Contents {
    Expectations::default().contents()
}

fn moved(source: DatabaseId, target: DatabaseId) -> Move {
    let tenant = TenantId::from_uuid(Uuid::now_v7());
    let wanted = NewMove {
        id: MoveId::from_uuid(Uuid::now_v7()),
        tenant,
        target,
        path: MovePath::Stream,
        prefix: MovePrefix::from_bytes([7; 16]),
        by: Requester::Platform,
        pace: None,
    };
    let source = Located { tenant, placement: Placement::Shared(source), epoch: PlacementEpoch(5) };
    Move::begun(wanted, source, Placement::Shared(target), DateTime::UNIX_EPOCH)
}

#[tokio::test]
async fn nothing_stands_in_the_way_between_two_servers_that_are_as_they_were_made() {
    let ground = Ground::new().await;
    assert_eq!(ground.told().await, [""; 0]);
    for path in MovePath::ALL {
        assert_eq!(ground.told_of(&Move { path, ..ground.moved.clone() }).await, [""; 0]);
    }
    // And it left nothing: no slot, no session.
    for server in [&ground.ours, &ground.other] {
        assert_eq!(
            server.texts("postgres", "SELECT slot_name::text FROM pg_replication_slots").await,
            [""; 0]
        );
    }
}

#[tokio::test]
async fn what_the_movers_login_lacks_is_told_all_at_once() {
    let ground = Ground::new().await;
    ground.at_target("ALTER ROLE stagesub_mover NOREPLICATION NOBYPASSRLS").await;
    ground
        .at_target(
            "REVOKE EXECUTE ON FUNCTION pg_logical_emit_message(boolean, text, text) FROM stagesub_mover",
        )
        .await;
    ground
        .at_target("REVOKE EXECUTE ON FUNCTION pg_terminate_backend(integer, bigint) FROM stagesub_mover")
        .await;
    ground.at_target("REVOKE UPDATE ON app.tenant_fence FROM stagesub_mover; REVOKE DELETE ON tenant.musician FROM stagesub_mover").await;
    ground.at_target("REVOKE stagesub_owner FROM stagesub_mover").await;
    let told = ground.told().await;
    for mend in [
        "ALTER ROLE stagesub_mover REPLICATION",
        "ALTER ROLE stagesub_mover BYPASSRLS",
        "GRANT EXECUTE ON FUNCTION pg_logical_emit_message(boolean, text, text) TO stagesub_mover",
        "GRANT EXECUTE ON FUNCTION pg_terminate_backend(integer, bigint) TO stagesub_mover",
        "GRANT stagesub_owner TO stagesub_mover",
        "app.tenant_fence and app.move_progress",
        "GRANT DELETE ON tenant.musician TO stagesub_mover",
    ] {
        assert!(told.iter().any(|sentence| sentence.contains(mend)), "{mend}: {told:#?}");
    }
    // All of it is of the target.
    assert!(told.iter().all(|sentence| sentence.contains("/there")), "{told:#?}");
}

#[tokio::test]
async fn what_a_server_is_set_to_is_told_and_only_to_a_path_that_needs_it() {
    let small = ClusterOptions::throwaway()
        .setting("wal_level", "replica")
        .setting("max_replication_slots", "0")
        .setting("max_wal_senders", "0");
    let ground = Ground::on(small).await;
    let told = ground.told().await;
    for word in ["wal_level = replica", "0 of 0 replication slots", "0 of 0 WAL senders"] {
        assert!(told.iter().any(|sentence| sentence.contains(word)), "{word}: {told:#?}");
    }
    assert_eq!(told.len(), 3, "{told:#?}");
    for path in [MovePath::Triggers, MovePath::Short] {
        assert_eq!(ground.told_of(&Move { path, ..ground.moved.clone() }).await, [""; 0]);
    }
}

#[tokio::test]
async fn a_slot_that_is_taken_a_login_that_is_not_let_in_and_a_long_transaction_are_told() {
    let ground = Ground::on(ClusterOptions::throwaway().setting("max_replication_slots", "1")).await;
    ground.at_target("SELECT pg_create_logical_replication_slot('other', 'pgoutput')").await;
    ground.only(&["0 of 1 replication slots", "max_replication_slots"]).await;
    ground.at_target("SELECT pg_drop_replication_slot('other')").await;
    // The move's own is no obstacle to it.
    let own = stream_name(ground.moved.id.as_uuid(), Direction::Reverse);
    ground.at_target(&format!("SELECT pg_create_logical_replication_slot('{own}', 'pgoutput')")).await;
    assert_eq!(ground.told().await, [""; 0]);

    // As the mover, to whom the server tells nothing of another's transaction but how many have begun since.
    let mut long = ground.ours.connect("shr").await;
    stagesub_tests::database::run(&mut long, "BEGIN; SELECT pg_current_xact_id()").await;
    ground
        .ours
        .run(
            "shr",
            "DO $$ BEGIN FOR n IN 1..10002 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$",
        )
        .await;
    ground.only(&["shr", "has been open for", "transactions"]).await;
    stagesub_tests::database::run(&mut long, "ROLLBACK").await;
    assert_eq!(ground.told().await, [""; 0]);

    ground.at_target("ALTER ROLE stagesub_mover PASSWORD 'changed'").await;
    ground.only(&["the target", "let stagesub_mover in"]).await;
}

#[tokio::test]
async fn two_schemas_that_differ_are_told_by_what_differs() {
    let ground = Ground::new().await;
    ground.at_target("ALTER TABLE tenant.musician ADD COLUMN nickname text").await;
    ground.only(&["tenant.musician.nickname", "the source has no column"]).await;
    ground.at_target("ALTER TABLE tenant.musician DROP COLUMN nickname").await;
    assert_eq!(ground.told().await, [""; 0]);

    ground
        .at_target("DELETE FROM app.migrations WHERE version = (SELECT max(version) FROM app.migrations)")
        .await;
    ground.only(&["/there lacks the migrations", "stagesub migrate"]).await;
}

#[tokio::test]
async fn a_table_that_cannot_move_and_a_fence_that_is_not_ours_are_told() {
    let ground = Ground::new().await;
    ground.at_source("ALTER TABLE tenant.musician REPLICA IDENTITY NOTHING").await;
    ground.only(&["a move cannot take", "tenant.musician", "replica identity"]).await;
    ground.at_source("ALTER TABLE tenant.musician REPLICA IDENTITY DEFAULT").await;

    // A fence that reads nothing anew would let a writer that queued slip past the cutover.
    ground
        .at_source(
            "CREATE OR REPLACE PROCEDURE app.enter(expected_epoch bigint) LANGUAGE plpgsql AS 'BEGIN END'",
        )
        .await;
    ground.only(&["app.enter(bigint)", "its body", "stagesub doctor"]).await;
}

#[tokio::test]
async fn who_serves_the_tenant_and_rows_that_nobody_brought_are_told() {
    let ground = Ground::new().await;
    ground.at_source("UPDATE app.tenant_fence SET epoch = 6").await;
    ground.only(&["active at epoch 6", "at epoch 5"]).await;
    ground.at_source("UPDATE app.tenant_fence SET epoch = 5").await;

    ground
        .at_target(
            "INSERT INTO tenant.instrument (tenant_id, no, name, created_at, updated_at)
        VALUES ('{t}', 1, 'Harpa', now(), now())",
        )
        .await;
    ground.only(&["no move brought there", "\"tenant\".\"instrument\"", "remove them"]).await;
    // A move that was there before explains them.
    ground
        .at_target("INSERT INTO app.tenant_fence (tenant_id, state, epoch) VALUES ('{t}', 'moved', 3)")
        .await;
    assert_eq!(ground.told().await, [""; 0]);
    ground.at_target("UPDATE app.tenant_fence SET state = 'active'").await;
    ground.only(&["serves the tenant already", "epoch 3"]).await;

    ground.at_target("UPDATE app.marker SET database_id = gen_random_uuid()").await;
    ground.only(&["the target", "not the database that the registry has there"]).await;
}

#[tokio::test]
async fn a_tenants_own_database_holds_no_others() {
    let ground = Ground::new().await;
    let id = ground.moved.target.database();
    ground.at_target("UPDATE app.marker SET role = 'dedicated', tenant_id = '{t}'").await;
    let tenant = ground.moved.tenant;
    let target = PoolTarget::Dedicated { tenant, database: id, epoch: PlacementEpoch(6) };
    let logins = PgDatabaseLogins::new(ground.registry.clone(), Arc::clone(&ground.ours.keys));
    let login = logins.find_login(id, LoginRole::Mover).await.unwrap().unwrap();
    let site = Site::new(ground.moved.id.as_uuid(), login, Identity::of(&target));
    let moved = Move { target: Placement::Dedicated(id), ..ground.moved.clone() };
    let told = async || obstacles(&moved, &ground.source, &site, &contents()).await.unwrap();
    assert_eq!(told().await, [""; 0]);
    ground
        .at_target(
            "INSERT INTO tenant.instrument (tenant_id, no, name, created_at, updated_at)
            VALUES (gen_random_uuid(), 1, 'Harpa', now(), now())",
        )
        .await;
    let found = told().await;
    assert!(found.len() == 1 && found[0].contains("holds rows of others"), "{found:?}");
}

#[tokio::test]
async fn what_moves_left_that_are_over_is_removed_and_nothing_else() {
    let ground = Ground::new().await;
    let tenant = ground.moved.tenant;
    let (over, live, unknown) = (Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7());
    ground.has_moves(&[(over, "aborted", "now()"), (live, "copy", "NULL")]).await;
    for id in [over, live, unknown] {
        let name = stream_name(id, Direction::Forward);
        ground
            .at_source(&format!(
                "SELECT pg_create_logical_replication_slot('{name}', 'pgoutput');
                SET ROLE stagesub_owner; CREATE PUBLICATION {name} FOR TABLE tenant.musician"
            ))
            .await;
    }
    let mut session = ground.source.open("sweep").await.unwrap();
    // A log of changes keeps nothing of the server's, and grows with every row that its tenant writes.
    let logins = PgDatabaseLogins::new(ground.registry.clone(), Arc::clone(&ground.ours.keys));
    let login = logins.find_login(ground.moved.source.database(), LoginRole::Mover).await.unwrap().unwrap();
    let mut mover = connect(&login).await;
    let logged = vec![TableName { schema: "tenant".to_owned(), name: "musician".to_owned() }];
    for id in [over, live] {
        let log = ChangeLog::new(id, Direction::Reverse, tenant, logged.clone());
        log.create(&mut mover, PATIENCE).await.unwrap();
    }
    let swept = sweep(&mut session, &PgMoveRegistry::new(ground.registry.clone())).await.unwrap();
    session.close().await;
    let gone = stream_name(over, Direction::Forward);
    let log = stream_name(over, Direction::Reverse);
    assert_eq!(swept.removed.len(), 3, "{swept:?}");
    assert!(
        swept
            .removed
            .iter()
            .all(|told| told.contains(&gone) || told.contains(&format!("log of changes {log}"))),
        "{swept:?}"
    );
    let odd = stream_name(unknown, Direction::Forward);
    assert_eq!(swept.left.len(), 2, "{swept:?}");
    assert!(swept.left.iter().all(|told| told.contains(&odd) && told.contains("drop it")), "{swept:?}");
    for left in [
        "SELECT slot_name::text FROM pg_replication_slots ORDER BY 1",
        "SELECT pubname::text FROM pg_publication ORDER BY 1",
    ] {
        let mut expected = [stream_name(live, Direction::Forward), odd.clone()];
        expected.sort();
        assert_eq!(ground.ours.texts("shr", left).await, expected);
    }
    let triggers =
        "SELECT DISTINCT left(tgname::text, 50) FROM pg_trigger WHERE starts_with(tgname, 'stagesub_')";
    assert_eq!(ground.ours.texts("shr", triggers).await, [stream_name(live, Direction::Reverse)]);
}

/// The same, by the engine before it looks for obstacles: each move takes away what older ones left.
#[tokio::test]
async fn a_move_removes_what_older_ones_left_at_both_sides() {
    let ground = Ground::new().await;
    let moves = Arc::new(PgMoveRegistry::new(ground.registry.clone()));
    let logins = PgDatabaseLogins::new(ground.registry.clone(), Arc::clone(&ground.ours.keys));
    let engine = PgDataPlane::new(Arc::new(logins), moves, contents(), PlaneSettings::default());
    let older = Uuid::now_v7();
    ground.has_moves(&[(older, "aborted", "now()")]).await;
    let make =
        |way| format!("SELECT pg_create_logical_replication_slot('{}', 'pgoutput')", stream_name(older, way));
    ground.at_source(&make(Direction::Forward)).await;
    ground.at_target(&make(Direction::Reverse)).await;
    engine.sweep(&ground.moved).await.unwrap();
    let slots = "SELECT slot_name::text FROM pg_replication_slots";
    for server in [&ground.ours, &ground.other] {
        assert_eq!(server.texts("postgres", slots).await, [""; 0]);
    }
}

#[tokio::test]
async fn where_a_tenant_is_is_looked_at_before_there_is_a_place_for_it() {
    let ground = Ground::new().await;
    let source = ground.moved.undecided();
    let told = async |at: &Located| {
        obstacles_at_source(&ground.source, at, &contents(), MovePath::Stream, None).await.unwrap()
    };
    assert_eq!(told(&source).await, [""; 0]);
    // And where it is to be made; a server that is both sides is asked for both.
    let identifier =
        ground.ours.texts("postgres", "SELECT system_identifier::text FROM pg_control_system()").await;
    let beyond = ["it is full", "it has no slot"].map(str::to_owned).to_vec();
    for (server_identifier, path, expected) in [
        (&*identifier[0], MovePath::Stream, &beyond[..0]),
        ("7", MovePath::Stream, &beyond[..]),
        ("7", MovePath::Triggers, &beyond[..1]),
    ] {
        let target = NewTarget {
            server_identifier: server_identifier.to_owned(),
            decodes: true,
            obstacles: beyond[..1].to_vec(),
            streaming: beyond.clone(),
        };
        let told = obstacles_at_source(&ground.source, &source, &contents(), path, Some(&target)).await;
        assert_eq!(told.unwrap(), expected, "{server_identifier} {path}");
    }
    let earlier = told(&Located { epoch: PlacementEpoch(4), ..source }).await;
    assert!(earlier.len() == 1 && earlier[0].contains("at epoch 5"), "{earlier:?}");
    ground.at_source("ALTER ROLE stagesub_mover NOREPLICATION").await;
    ground.at_source("DELETE FROM app.tenant_fence WHERE tenant_id = '{t}'").await;
    let told = told(&source).await;
    assert_eq!(told.len(), 2, "{told:?}");
    for (told, words) in told.iter().zip(["REPLICATION", "does not know the tenant"]) {
        assert!(told.contains(words), "{told}");
    }
}
