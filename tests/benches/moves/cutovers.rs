//! A large tenant that goes there and back while its own clients and its neighbours work, and many small ones that move.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use stagesub_storage::factory::TenantDb;
use stagesub_tenancy::moves::{
    MoveId, MovePath, MovePrefix, MoveState, MoverSettings, NewMove, Request, Requester, Side,
};
use stagesub_tests::bench::{Stolen, load};
use stagesub_tests::history::clients::Load;
use stagesub_tests::history::planes::streaming;
use stagesub_tests::history::{Clients, Driving, Ground, History, Outcome, Place, Resident, Verdict, judge};
use uuid::Uuid;

use crate::Arguments;
use crate::timeline::Timeline;

/// Waits that are told one by one.
const LONG: Duration = Duration::from_millis(60);
/// In what the neighbours' rate is told over the whole run.
const WINDOW: Duration = Duration::from_secs(15);
/// Before anything is measured: pools and caches fill.
const WARMING: Duration = Duration::from_secs(3);

/// What was measured of the large tenant.
#[derive(Debug, Default)]
pub(crate) struct Large {
    /// The clients' longest wait at each cutover.
    pub(crate) pauses: Vec<Duration>,
    /// What the mover says of each.
    pub(crate) told: Vec<Duration>,
    /// What takes how long in one.
    pub(crate) steps: String,
    /// The clients' longest wait while rows were copied and compared.
    pub(crate) stall: Duration,
    /// The same where nothing moved, before the first move and between two: what the machine does by itself.
    pub(crate) calm: Duration,
    /// How long that took, each time.
    pub(crate) fillings: Vec<Duration>,
    /// The neighbours' rate while a move copied and compared, over that right before it: the mean over the moves.
    pub(crate) others: f64,
    /// Transactions a second of the tenant's own clients and of the neighbours, over everything.
    pub(crate) rate: f64,
    /// What the judge says.
    pub(crate) verdict: Verdict,
}

/// One tenant of many rows: its first move hands it back and forth, each later one leaves it where it brought it.
pub(crate) async fn large(ground: &Ground, residents: &[Resident], arguments: &Arguments) -> Large {
    let driving = Driving::over(ground, streaming(ground), MoverSettings::default());
    let (tenant, neighbours) = residents.split_first().expect("there is one");
    let nodes = [ground.told_node(), ground.told_node()];
    let clients = Clients::start(&nodes, &tenant.scope, arguments.own(), tenant.rows);
    let others: Vec<Clients> =
        neighbours.iter().map(|other| at(&nodes[0], other, arguments.theirs())).collect();
    tokio::time::sleep(WARMING).await;
    // Tables that clients have begun to fill are planned for as they are now, and not as they were, empty.
    ground.settle().await;
    let began = Instant::now();
    tokio::time::sleep(Duration::from_secs(arguments.before)).await;
    let moved_at = Instant::now();
    let timeline = Arc::new(Timeline::default());
    let mover = driving.node(Some(Arc::clone(&timeline) as _));
    let mut large = Large::default();
    let (mut ids, mut home, mut stolen) = (Vec::new(), Side::Source, Stolen::since_now());
    // What is compared with what lies close to it: a quarter of an hour and a million rows later servers and disks are not
    // what they were.
    let mut rests = vec![(began, moved_at)];
    for n in 0..arguments.moves {
        if n > 0 {
            let from = Instant::now();
            tokio::time::sleep(Duration::from_secs(arguments.between)).await;
            rests.push((from, Instant::now()));
        }
        let to = place(ground, home.other());
        let id = driving.begin_as(&NewMove { pace: arguments.pace(), ..new(tenant, to) }).await;
        ids.push(id);
        let mut side = Side::Target;
        let cutovers = if n == 0 { arguments.cutovers } else { 1 };
        for cutover in 1..=cutovers {
            let active = driving.until_active(id, side).await;
            large.told.extend(active.pause);
            let pause = active.pause.unwrap_or_default();
            println!(
                "large, move {}, cutover {cutover}: {pause:?} by the mover, load {}, {} % stolen",
                n + 1,
                load(),
                stolen.percent()
            );
            clients.write_on(20).await;
            if cutover < cutovers {
                side = side.other();
                driving.ask(id, Request::Back).await;
            }
        }
        if side == Side::Target {
            home = home.other();
        }
        driving.finish(id).await;
    }
    let history = clients.stop().await;
    let ended = Instant::now();
    let mut theirs = History::default();
    for other in others {
        theirs.merge(other.stop().await);
    }
    mover.die().await;

    let fillings: Vec<(Instant, Instant)> =
        ids.iter().map(|id| driving.registry.filling(*id).expect("it was copied")).collect();
    large.pauses = pauses(&driving, &ids, &history);
    println!("large: its clients waited {:?}", large.pauses);
    large.steps = timeline.describe();
    let stalls = fillings.iter().map(|(from, to)| history.longest_within(*from, *to));
    large.stall = stalls.max().unwrap_or_default();
    let calm = rests.iter().map(|(from, to)| history.longest_within(*from, *to));
    large.calm = calm.max().unwrap_or_default();
    let first = rate(&theirs, &rests[..1]);
    large.others = beside(&theirs, &rests, &fillings);
    println!(
        "large: before: its own clients waited {:.1} ms at most",
        crate::ms(history.longest_within(began, moved_at))
    );
    for state in [MoveState::Copy, MoveState::CatchUp, MoveState::Verify] {
        let spans: Vec<_> = ids.iter().filter_map(|id| driving.registry.during(*id, state)).collect();
        let longest = spans.iter().map(|(from, to)| history.longest_within(*from, *to)).max();
        println!(
            "large: {state}: the neighbours' rate {:.2}, its own clients waited {:.1} ms at most",
            rate(&theirs, &spans) / first,
            crate::ms(longest.unwrap_or_default())
        );
    }
    tell(&driving, &ids, (&history, &theirs), (began, ended), first);
    large.fillings = fillings.iter().map(|(from, to)| *to - *from).collect();
    let whole = [(began, ended)];
    large.rate = rate(&history, &whole) + rate(&theirs, &whole);
    large.verdict = verdict(ground, &driving, tenant, &history, home).await;
    println!("large: {}", large.verdict.describe());
    large
}

/// The neighbours' rate while each move copied and compared, over that right before it: the mean.
fn beside(theirs: &History, rests: &[(Instant, Instant)], fillings: &[(Instant, Instant)]) -> f64 {
    let first = rate(theirs, &rests[..1]);
    let mut ratios = Vec::new();
    for (n, (rest, filling)) in rests.iter().zip(fillings).enumerate() {
        let (before, during) = (rate(theirs, &[*rest]), rate(theirs, &[*filling]));
        println!(
            "large, move {}: the neighbours' rate {:.2} of that right before it, which was {:.2} of the first",
            n + 1,
            during / before,
            before / first
        );
        ratios.push(during / before);
    }
    ratios.iter().sum::<f64>() / f64::from(u32::try_from(ratios.len()).expect("few moves"))
}

/// The neighbours' rate over the whole run, and the clients' long waits, each with what the moves were doing.
fn tell(
    driving: &Driving,
    ids: &[MoveId],
    (history, theirs): (&History, &History),
    (began, ended): (Instant, Instant),
    first: f64,
) {
    for from in windows(began, ended) {
        let window = (from, from + WINDOW);
        println!(
            "large: {:.0} s: {}: the neighbours' rate {:.2}",
            (from - began).as_secs_f64(),
            states(driving, ids, window),
            rate(theirs, &[window]) / first
        );
    }
    for (from, waited) in history.waits(LONG) {
        println!(
            "large: {:.1} s: {}: a client waited {:.1} ms",
            (from - began).as_secs_f64(),
            states(driving, ids, (from, from + waited)),
            crate::ms(waited)
        );
    }
}

/// Small tenants, each moved there and back and there again, one after the other.
pub(crate) async fn small(
    ground: &Ground,
    residents: &[Resident],
    arguments: &Arguments,
) -> (Verdict, Vec<Duration>) {
    let driving = Driving::over(ground, streaming(ground), MoverSettings::default());
    let mover = driving.node(None);
    let nodes = [ground.told_node(), ground.told_node()];
    let (mut all, mut every) = (Verdict::default(), Vec::new());
    // Each is where it began in the end.
    let each = arguments.small.div_ceil(residents.len()).next_multiple_of(2);
    for (n, tenant) in residents.iter().enumerate() {
        let clients = Clients::start(&nodes, &tenant.scope, arguments.own(), tenant.rows);
        let mut home = Side::Source;
        let mut ids = Vec::new();
        for _ in 0..each {
            home = home.other();
            let id = driving.begin(tenant.tenant(), place(ground, home), MovePath::Stream).await;
            driving.until_active(id, Side::Target).await;
            clients.write_on(3).await;
            driving.finish(id).await;
            ids.push(id);
        }
        let history = clients.stop().await;
        every.extend(pauses(&driving, &ids, &history));
        let verdict = verdict(ground, &driving, tenant, &history, home).await;
        println!("small, tenant {}: {each} moves, {}", n + 1, verdict.describe());
        all.add(verdict);
    }
    mover.die().await;
    (all, every)
}

/// The clients' longest wait at each cutover of these moves.
fn pauses(driving: &Driving, ids: &[MoveId], history: &History) -> Vec<Duration> {
    let cutovers = ids.iter().flat_map(|id| driving.registry.cutovers(*id));
    cutovers.map(|cutover| history.longest_within(cutover.from, cutover.to)).collect()
}

/// Whole windows between two moments: when each begins.
fn windows(began: Instant, ended: Instant) -> impl Iterator<Item = Instant> {
    std::iter::successors(Some(began), |from| Some(*from + WINDOW))
        .take_while(move |from| *from + WINDOW <= ended)
}

/// What the moves were doing meanwhile.
fn states(driving: &Driving, ids: &[MoveId], (from, to): (Instant, Instant)) -> String {
    let during = |state: &MoveState| {
        let spans = ids.iter().filter_map(|id| driving.registry.during(*id, *state));
        spans.into_iter().any(|(begins, ends)| from <= ends && to >= begins)
    };
    let seen: Vec<&str> = MoveState::ALL.into_iter().filter(during).map(MoveState::as_str).collect();
    if seen.is_empty() { "no move".to_owned() } else { seen.join(", ") }
}

const fn place(ground: &Ground, side: Side) -> &Place {
    match side {
        Side::Source => &ground.source,
        Side::Target => &ground.target,
    }
}

fn at(node: &TenantDb, other: &Resident, load: Load) -> Clients {
    Clients::start(std::slice::from_ref(node), &other.scope, load, other.rows)
}

fn new(tenant: &Resident, to: &Place) -> NewMove {
    NewMove {
        id: MoveId::from_uuid(Uuid::now_v7()),
        tenant: tenant.tenant(),
        target: to.id,
        path: MovePath::Stream,
        prefix: MovePrefix::from_bytes(rand::random()),
        by: Requester::Platform,
        pace: None,
    }
}

/// Acknowledged writes a second in some spans of time.
fn rate(history: &History, spans: &[(Instant, Instant)]) -> f64 {
    let within = |at: Instant| spans.iter().any(|(from, to)| at >= *from && at < *to);
    let kept =
        history.writes.iter().filter(|write| write.outcome == Outcome::Acknowledged && within(write.ended));
    let kept = u32::try_from(kept.count()).expect("less than four thousand million");
    let seconds: f64 = spans.iter().map(|(from, to)| (*to - *from).as_secs_f64()).sum();
    f64::from(kept) / seconds
}

async fn verdict(
    ground: &Ground,
    driving: &Driving,
    tenant: &Resident,
    history: &History,
    home: Side,
) -> Verdict {
    let place = place(ground, home);
    let decisions = driving.decisions(tenant.tenant(), &[&ground.source, &ground.target]);
    judge(history, &ground.found(place, tenant).await, &ground.source.name, &decisions)
}

impl Arguments {
    /// Clients of a tenant that moves, at each of two nodes.
    const fn own(&self) -> Load {
        Load { writers: 1, readers: 1, first: 1, rest: Duration::from_millis(self.rest) }
    }

    /// Clients of each neighbour, at one node.
    const fn theirs(&self) -> Load {
        Load { readers: 0, ..self.own() }
    }

    /// Bytes a second that copying and comparing may read of the large tenant.
    fn pace(&self) -> Option<NonZeroU32> {
        NonZeroU32::new(self.pace)
    }
}
