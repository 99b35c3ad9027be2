//! A large tenant that goes there and back while its own clients and its neighbours work, and many small ones that move.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use stagesub_storage::factory::TenantDb;
use stagesub_tenancy::moves::{
    MoveId, MovePath, MovePrefix, MoverSettings, NewMove, Request, Requester, Side,
};
use stagesub_tests::bench::load;
use stagesub_tests::history::clients::Load;
use stagesub_tests::history::planes::streaming;
use stagesub_tests::history::{Clients, Driving, Ground, History, Resident, Verdict, judge};
use uuid::Uuid;

use crate::Arguments;

/// Clients of the tenant that moves, at each of two nodes.
const OWN: Load = Load { writers: 1, readers: 1, first: 1, rest: Duration::ZERO };
/// Clients of each neighbour, at one node.
const THEIRS: Load = Load { writers: 1, readers: 0, first: 1, rest: Duration::ZERO };

/// What was measured of the large tenant.
#[derive(Debug, Default)]
pub(crate) struct Large {
    /// The clients' longest wait at each cutover.
    pub(crate) pauses: Vec<Duration>,
    /// What the mover says of each.
    pub(crate) told: Vec<Duration>,
    /// The clients' longest wait while rows were copied and compared.
    pub(crate) stall: Duration,
    /// How long that took.
    pub(crate) filling: Duration,
    /// The neighbours' writes a second before and meanwhile.
    pub(crate) others: [f64; 2],
    /// Transactions a second of the tenant's own clients and of the neighbours, over everything.
    pub(crate) rate: f64,
    /// What the judge says.
    pub(crate) verdict: Verdict,
}

/// One tenant of many rows, moved once and then handed back and forth.
pub(crate) async fn large(ground: &Ground, residents: &[Resident], arguments: &Arguments) -> Large {
    let driving = Driving::over(ground, streaming(ground), MoverSettings::default());
    let (tenant, neighbours) = residents.split_first().expect("there is one");
    let nodes = [ground.node(), ground.node()];
    let began = Instant::now();
    let clients = Clients::start(&nodes, &tenant.scope, OWN, tenant.rows);
    let others: Vec<Clients> = neighbours.iter().map(|other| at(&nodes[0], other)).collect();
    tokio::time::sleep(Duration::from_secs(arguments.before)).await;
    let moved_at = Instant::now();
    let id = driving.begin_as(&NewMove { pace: arguments.pace(), ..new(tenant, ground) }).await;
    let mover = driving.node(None);
    let mut large = Large::default();
    let mut side = Side::Target;
    for n in 0..arguments.cutovers {
        let active = driving.until_active(id, side).await;
        large.told.extend(active.pause);
        println!("large, cutover {}: at the {side}, {:?} by the mover, load {}", n + 1, active.pause, load());
        clients.write_on(20).await;
        if n + 1 < arguments.cutovers {
            side = side.other();
            driving.ask(id, Request::Back).await;
        }
    }
    let history = clients.stop().await;
    let ended = Instant::now();
    let mut theirs = History::default();
    for other in others {
        theirs.merge(other.stop().await);
    }
    driving.finish(id).await;
    mover.die().await;

    let (from, to) = driving.registry.filling(id).expect("it was copied");
    large.pauses = driving
        .registry
        .cutovers(id)
        .iter()
        .map(|cutover| history.longest_within(cutover.from, cutover.to))
        .collect();
    large.stall = history.longest_within(from, to);
    large.filling = to - from;
    large.others = [rate(&theirs, began, moved_at), rate(&theirs, from, to)];
    large.rate = rate(&history, began, ended) + rate(&theirs, began, ended);
    large.verdict = verdict(ground, &driving, tenant, &history, side).await;
    println!("large: {}", large.verdict.describe());
    large
}

/// Small tenants, each moved there and back and there again, one after the other.
pub(crate) async fn small(ground: &Ground, residents: &[Resident], times: usize) -> (Verdict, Vec<Duration>) {
    let driving = Driving::over(ground, streaming(ground), MoverSettings::default());
    let mover = driving.node(None);
    let nodes = [ground.node(), ground.node()];
    let (mut all, mut pauses) = (Verdict::default(), Vec::new());
    // Each is where it began in the end.
    let each = times.div_ceil(residents.len()).next_multiple_of(2);
    for (n, tenant) in residents.iter().enumerate() {
        let clients = Clients::start(&nodes, &tenant.scope, OWN, tenant.rows);
        let mut side = Side::Source;
        let mut ids = Vec::new();
        for _ in 0..each {
            let to = if side == Side::Source { &ground.target } else { &ground.source };
            let id = driving.begin(tenant.tenant(), to, MovePath::Stream).await;
            driving.until_active(id, Side::Target).await;
            clients.write_on(3).await;
            driving.finish(id).await;
            ids.push(id);
            side = side.other();
        }
        let history = clients.stop().await;
        let cutovers = ids.iter().flat_map(|id| driving.registry.cutovers(*id));
        pauses.extend(cutovers.map(|cutover| history.longest_within(cutover.from, cutover.to)));
        let verdict = verdict(ground, &driving, tenant, &history, side).await;
        println!("small, tenant {}: {each} moves, {}", n + 1, verdict.describe());
        all.add(verdict);
    }
    mover.die().await;
    (all, pauses)
}

fn at(node: &TenantDb, other: &Resident) -> Clients {
    Clients::start(std::slice::from_ref(node), &other.scope, THEIRS, other.rows)
}

fn new(tenant: &Resident, ground: &Ground) -> NewMove {
    NewMove {
        id: MoveId::from_uuid(Uuid::now_v7()),
        tenant: tenant.tenant(),
        target: ground.target.id,
        path: MovePath::Stream,
        prefix: MovePrefix::from_bytes(rand::random()),
        by: Requester::Platform,
        pace: None,
    }
}

/// Acknowledged writes a second between two instants.
fn rate(history: &History, from: Instant, to: Instant) -> f64 {
    let kept = history.writes.iter().filter(|write| {
        write.outcome == stagesub_tests::history::Outcome::Acknowledged
            && write.ended >= from
            && write.ended < to
    });
    let kept = u32::try_from(kept.count()).expect("less than four thousand million");
    f64::from(kept) / (to - from).as_secs_f64()
}

async fn verdict(
    ground: &Ground,
    driving: &Driving,
    tenant: &Resident,
    history: &History,
    side: Side,
) -> Verdict {
    let place = if side == Side::Source { &ground.source } else { &ground.target };
    let decisions = driving.decisions(tenant.tenant(), &[&ground.source, &ground.target]);
    judge(history, &ground.found(place, tenant).await, &ground.source.name, &decisions)
}

impl Arguments {
    /// Bytes a second that copying and comparing may read of the large tenant.
    fn pace(&self) -> Option<NonZeroU32> {
        NonZeroU32::new(self.pace)
    }
}
