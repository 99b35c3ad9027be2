//! What moves have made to log changes: by design while they live, and a finding afterwards.

use std::time::Duration;

use sqlx::Connection as _;
use stagesub_storage::catalogue::TableName;
use stagesub_storage::doctor::{Bounds, Expectations, Finding, Level, examine_platform};
use stagesub_storage::moves::change_log::{ChangeLog, remove};
use stagesub_storage::moves::progress::Direction;
use stagesub_tenancy::TenantId;
use uuid::Uuid;

use super::platform::tenant;
use super::{SHARED, mend, report, sound};
use crate::registry::Server;

/// Makes a log of two tables of the shared database, as the mover does.
async fn logged(server: &Server, move_id: Uuid) -> ChangeLog {
    let tables =
        ["note", "page"].map(|name| TableName { schema: "tenant".to_owned(), name: name.to_owned() });
    let log =
        ChangeLog::new(move_id, Direction::Forward, TenantId::from_uuid(Uuid::now_v7()), tables.to_vec());
    let mut mover = server.connect(SHARED).await;
    sqlx::raw_sql("SET SESSION AUTHORIZATION stagesub_mover").execute(&mut mover).await.unwrap();
    log.create(&mut mover, Duration::from_secs(20)).await.expect("a log");
    log.begin_empty(&mut mover).await.expect("it begins");
    mover.close().await.unwrap();
    log
}

async fn platform(server: &Server) -> Vec<Finding> {
    let expected = Expectations::default();
    let report = examine_platform(&server.admin("reg"), &server.keys, &expected, Bounds::default()).await;
    report.expect("it can be examined").into_iter().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_no_hole_and_is_told_of_once_its_move_has_ended() {
    let server = sound().await;
    let move_id = Uuid::now_v7();
    let log = logged(&server, move_id).await;
    // A database by itself cannot know.
    let found = report(&server).await;
    let [told] = found.findings() else { panic!("{found:#?}") };
    assert_eq!((told.level, told.lint), (Level::Note, "move-log"));
    assert_eq!(told.object, format!("app.{}", log.name()));

    // No such move.
    let found = platform(&server).await;
    assert_eq!(
        found.iter().map(|told| (told.level, told.lint)).collect::<Vec<_>>(),
        [(Level::Partial, "move-log")]
    );
    let (tenant, other) = (tenant(&server, "AAA").await, Uuid::now_v7());
    server
        .run(
            "reg",
            &format!(
                "INSERT INTO registry.databases (id, kind, status, host, port, name, server_identifier)
                 VALUES ('{other}', 'shared', 'creating', 'nowhere', 1, 'nowhere', '1');
                 INSERT INTO registry.moves (id, tenant_id, source_id, source_placement, target_id, target_placement, path, state,
                     heading, epoch, prefix)
                 SELECT '{move_id}', '{tenant}', id, 'shared', '{other}', 'shared', 'triggers', 'copy', 'target', 1, repeat('a', 32)
                 FROM registry.databases WHERE kind = 'shared' AND id <> '{other}'"
            ),
        )
        .await;
    let of_logs = async || {
        let found = platform(&server).await;
        found.into_iter().filter(|told| told.lint == "move-log").map(|told| told.level).collect::<Vec<_>>()
    };
    assert_eq!(of_logs().await, []);
    server.run("reg", "UPDATE registry.moves SET state = 'aborted', ended_at = now()").await;
    assert_eq!(of_logs().await, [Level::Partial]);

    mend(&server, SHARED, told).await;
    assert_eq!(report(&server).await.findings(), []);
    assert_eq!(of_logs().await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_only_called_like_a_log_is_a_hole() {
    let server = sound().await;
    let log = logged(&server, Uuid::now_v7()).await;
    let name = log.name();
    for (spoil, lint) in [
        // It does something else, with the owner's privileges.
        (
            format!(
                "CREATE OR REPLACE FUNCTION app.{name}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
                SET search_path = pg_catalog AS $$ BEGIN RETURN NULL; END $$"
            ),
            "guard-unknown",
        ),
        (format!("GRANT INSERT ON app.{name} TO stagesub_app"), "grant-beyond"),
        (format!("GRANT EXECUTE ON FUNCTION app.{name}() TO stagesub_app"), "grant-beyond"),
        (format!("ALTER TABLE app.{name} OWNER TO stagesub_mover"), "owner-foreign"),
    ] {
        server.run(SHARED, &spoil).await;
        let found = report(&server).await;
        assert!(
            found.findings().iter().any(|told| told.lint == lint && told.level == Level::Hole),
            "{lint}: {:#?}",
            found.findings()
        );
        let mut mover = server.connect(SHARED).await;
        remove(&mut mover, name, Duration::from_secs(20)).await.expect("it goes");
        assert_eq!(report(&server).await.findings(), []);
        log.create(&mut mover, Duration::from_secs(20)).await.expect("a log");
    }
}
