//! Nobody who works on a tenant notices that it moves, but for a moment's wait; nothing is lost and nothing doubled.

use std::time::Duration;

use stagesub_storage::factory::TenantDb;
use stagesub_storage::patience::MovePatience;
use stagesub_tenancy::TenantId;
use stagesub_tenancy::moves::{MoveId, MovePath, MoveRegistry, Request, Side};
use stagesub_tests::database::{connect, run};
use stagesub_tests::history::clients::{Load, by_node};
use stagesub_tests::history::driving::patient;
use stagesub_tests::history::planes::streaming;
use stagesub_tests::history::web::{self, WebClients};
use stagesub_tests::history::{Clients, Driving, Ground, Place, judge};
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

/// A node that waits for a cutover however busy the machine is; the movers here are as patient.
fn patient_node(ground: &Ground) -> TenantDb {
    ground.node().with_patience(MovePatience::within(Duration::from_secs(20)))
}

/// Nothing of a tenant, and nothing of the move, is left where it is not.
async fn nothing_is_left(ground: &Ground, driving: &Driving, id: MoveId, places: [&Place; 2]) {
    let moved = driving.find(id).await;
    let [here, there] = places;
    assert!(ground.serves(here, moved.tenant).await.is_some());
    assert_eq!((ground.serves(there, moved.tenant).await, ground.rows(there, moved.tenant).await), (None, 0));
    assert_eq!(driving.registry.outstanding(id).await.expect("the registry answers"), []);
    for place in places {
        crate::tenant_tx::lab::until("nothing is left of the move", async || {
            ground.leftovers(place, id).await.is_empty()
        })
        .await;
    }
}

/// A tenant that moves so often from where it is to the other place; each third time it goes back and there once more.
async fn moves(
    ground: &Ground,
    driving: &Driving,
    clients: &Clients,
    (places, times): ([&Place; 2], usize),
    tenant: TenantId,
) {
    for n in 0..times {
        let [from, to] = [places[n % 2], places[(n + 1) % 2]];
        let id = driving.begin(tenant, to, MovePath::Stream).await;
        driving.until_active(id, Side::Target).await;
        clients.write_on(3).await;
        if n % 3 == 0 {
            for side in [Side::Source, Side::Target] {
                driving.ask(id, Request::Back).await;
                driving.until_active(id, side).await;
                clients.write_on(3).await;
            }
        }
        driving.finish(id).await;
        nothing_is_left(ground, driving, id, [to, from]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn small_tenants_move_twenty_times_and_their_clients_notice_nothing_but_a_wait() {
    let (ground, mut residents) = Ground::start(&["shared", "own"]).await;
    let driving = Driving::over(&ground, streaming(&ground), patient());
    // Two nodes, either of which moves whom the other does not.
    let movers = [driving.node(None), driving.node(None)];
    let nodes = [patient_node(&ground), patient_node(&ground)];
    for resident in &mut residents {
        ground.furnish(resident, 300).await;
    }
    // Between two shared databases, and into one of its own and back.
    let own = ground.own_database(&residents[1]).await;
    let load = Load { writers: 1, readers: 1, first: 1, rest: Duration::from_millis(5) };
    let both = [&ground.target, &own].map(|there| [&ground.source, there]);
    let moving = residents.iter().zip(both).map(async |(resident, places)| {
        let clients = Clients::start(&nodes, &resident.scope, load, resident.rows);
        clients.write_on(3).await;
        moves(&ground, &driving, &clients, (places, 10), resident.tenant()).await;
        let history = clients.stop().await;
        // Ten moves end where they began.
        let found = ground.found(&ground.source, resident).await;
        let decisions = driving.decisions(resident.tenant(), &places);
        let verdict = judge(&history, &found, &ground.source.name, &decisions);
        println!("{}: {} decisions, {}", resident.orchestra.subdomain, decisions.len(), verdict.describe());
        verdict.assert_unnoticed();
        assert!(decisions.len() >= 10 + 2 * 4);
    });
    futures::future::join_all(moving).await;
    for mover in movers {
        mover.die().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_of_200_000_rows_moves_there_and_back_and_its_clients_notice_nothing_but_a_wait() {
    let (ground, mut residents) = Ground::start(&["large"]).await;
    ground.furnish(&mut residents[0], 200_000).await;
    let resident = &residents[0];
    let driving = Driving::over(&ground, streaming(&ground), patient());
    let mover = driving.node(None);
    let nodes = [patient_node(&ground), patient_node(&ground)];
    let clients = Clients::start(&nodes, &resident.scope, LOAD, resident.rows);
    let id = driving.begin(resident.tenant(), &ground.target, MovePath::Stream).await;
    driving.until_active(id, Side::Target).await;
    clients.write_on(20).await;
    driving.ask(id, Request::Back).await;
    driving.until_active(id, Side::Source).await;
    clients.write_on(20).await;
    let history = clients.stop().await;
    driving.finish(id).await;
    nothing_is_left(&ground, &driving, id, [&ground.source, &ground.target]).await;
    mover.die().await;
    let found = ground.found(&ground.source, resident).await;
    let decisions = driving.decisions(resident.tenant(), &[&ground.source, &ground.target]);
    let verdict = judge(&history, &found, &ground.source.name, &decisions);
    let pauses = driving.registry.cutovers(id);
    let pauses: Vec<_> = pauses.iter().map(|one| history.longest_within(one.from, one.to)).collect();
    println!("pauses {pauses:?}, {}", verdict.describe());
    verdict.assert_unnoticed();
    assert_eq!(decisions.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_two_servers_meet_no_failure_while_their_orchestra_moves() {
    let (ground, residents) = Ground::of_the_product(&["webbed"]).await;
    let resident = &residents[0];
    let registry = ground.platform.registry();
    // The mover is this test's: how patient one is that has the machine to itself is not asked here.
    let serve = [("STAGESUB_MOVES_AT_ONCE", "0")];
    let servers = [Server::start(registry, &serve).await, Server::start(registry, &serve).await];
    let own = ground.own_database(resident).await;
    let driving = Driving::over(&ground, streaming(&ground), patient());
    let mover = driving.node(None);
    let addresses = servers.each_ref().map(|server| server.address);
    let clients = WebClients::start(&addresses, &resident.orchestra, 1);
    clients.write_on(3).await;
    let places = [&ground.source, &own];
    for (from, to) in [(0, 1), (1, 0)].into_iter().cycle().take(10) {
        let id = driving.begin(resident.tenant(), places[to], MovePath::Stream).await;
        driving.until_active(id, Side::Target).await;
        clients.write_on(3).await;
        driving.go_to(id, Side::Source).await;
        clients.write_on(3).await;
        driving.go_to(id, Side::Target).await;
        clients.write_on(3).await;
        driving.finish(id).await;
        nothing_is_left(&ground, &driving, id, [places[to], places[from]]).await;
    }
    let all = clients.stop().await;
    mover.die().await;
    let found = web::found(&mut connect(&ground.source.admin).await, resident.tenant()).await;
    let verdict = judge(&all.history, &found, "", &[]);
    println!("{:?}, {}", all.statuses, verdict.describe());
    // What the servers said of it comes first: it tells why.
    for server in servers {
        assert_eq!(server.stop().await, [""; 0], "{:?}", all.failed);
    }
    assert_eq!(all.failed, [""; 0]);
    verdict.assert_unnoticed();
}
