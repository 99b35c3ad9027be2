//! Nobody who works on a tenant notices that it moves, but for a moment's wait; nothing is lost and nothing doubled.

use std::time::Duration;

use stagesub_tests::database::{connect, run};
use stagesub_tests::history::clients::{Load, by_node};
use stagesub_tests::history::web::{self, WebClients};
use stagesub_tests::history::{Clients, Ground, judge};
use stagesub_tests::serve::Server;

/// Two clients of each kind at each of two nodes.
const LOAD: Load = Load { writers: 2, readers: 1, first: 1, rest: Duration::ZERO };

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_stays_has_a_sound_history_and_what_is_taken_from_it_is_missed() {
    let (ground, mut residents) = Ground::start(&["stays"]).await;
    ground.furnish(&mut residents[0], 100).await;
    let resident = &residents[0];
    let nodes = [ground.node(), ground.node()];
    let clients = Clients::start(&nodes, &resident.scope, LOAD, resident.rows);
    clients.write_on(25).await;
    let history = clients.stop().await;
    assert_eq!(by_node(&history).len(), 2);
    assert!(!history.reads.is_empty());
    let source = &ground.source;
    let found = ground.found(source, resident).await;
    judge(&history, &found, &source.name, &[]).assert_unnoticed();
    // It looks where it believes to look.
    assert_eq!(
        judge(&history, &found, "elsewhere", &[]).strayed.len(),
        history.reads.len() + history.acknowledged()
    );

    let mut admin = connect(&source.admin).await;
    run(
        &mut admin,
        "INSERT INTO ledger.entry (tenant_id, writer, number) SELECT tenant_id, writer, number FROM ledger.entry
        WHERE number = 7 AND writer <> 2;
        DELETE FROM ledger.entry WHERE number = 9 AND writer = 2;
        UPDATE ledger.page SET touched = touched - 1 WHERE no = 1",
    )
    .await;
    let verdict = judge(&history, &ground.found(source, resident).await, &source.name, &[]);
    assert_eq!((verdict.lost.len(), verdict.doubled.len(), verdict.unasked.len()), (1, 3, 0));
    // Four counts of entries, and all rows together.
    assert_eq!(verdict.miscounted.len(), 5, "{}", verdict.describe());
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_two_servers_have_a_sound_history_as_well() {
    let platform = stagesub_tests::TestPlatform::start().await;
    let orchestra = platform.orchestra(stagesub_tests::Kept::Shared, "webs").await;
    let servers =
        [Server::start(platform.registry(), &[]).await, Server::start(platform.registry(), &[]).await];
    let clients = WebClients::start(&servers.each_ref().map(|server| server.address), &orchestra, 2);
    clients.write_on(10).await;
    let all = clients.stop().await;
    assert_eq!(all.failed, [""; 0]);
    let shared = platform.registry().with_database(&platform.database_of(&orchestra).await);
    let mut admin = connect(&shared).await;
    let verdict = judge(&all.history, &web::found(&mut admin, orchestra.tenant).await, "", &[]);
    verdict.assert_unnoticed();
    assert!(verdict.acknowledged >= 40 && verdict.reads > 0, "{}", verdict.describe());
    run(&mut admin, "DELETE FROM tenant.project WHERE no = 1").await;
    let verdict = judge(&all.history, &web::found(&mut admin, orchestra.tenant).await, "", &[]);
    assert_eq!(verdict.lost.len(), 1);
    for server in servers {
        assert_eq!(server.stop().await, [""; 0]);
    }
}
