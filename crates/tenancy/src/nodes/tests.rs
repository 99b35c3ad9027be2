use std::collections::BTreeMap;
use std::sync::Mutex;

use super::*;

const LEASE: Duration = Duration::from_secs(20);
const SHARING: Sharing = Sharing {
    total: Uses { shared: 50, dedicated: 160 },
    least: Uses { shared: 3, dedicated: 3 },
    most: Uses { shared: 11, dedicated: 150 },
};

fn nodes(count: u32) -> NonZeroU32 {
    NonZeroU32::new(count).unwrap()
}

/// What nodes said last. Those that fail are away.
#[derive(Default)]
struct Board {
    said: Mutex<BTreeMap<u128, Uses>>,
    /// Said by somebody else at the moment when somebody says more than the least.
    meanwhile: Mutex<Option<(u128, Uses)>>,
}

impl Board {
    fn sum(&self) -> Uses {
        let said = self.said.lock().unwrap();
        said.values().fold(Uses::default(), |sum, uses| sum.each(*uses, |a, b| a + b))
    }

    fn join(self: &Arc<Self>, node: u128) -> Membership {
        let registry = Arc::clone(self) as Arc<dyn NodeRegistry>;
        Membership::new(registry, NodeId::from_uuid(Uuid::from_u128(node)), LEASE, SHARING)
    }
}

#[async_trait]
impl NodeRegistry for Board {
    async fn beat(&self, node: NodeId, lease: Duration, uses: Uses) -> Result<Others, DirectoryError> {
        assert_eq!(lease, LEASE);
        let node = node.as_uuid().as_u128();
        let mut said = self.said.lock().unwrap();
        said.insert(node, uses);
        let mut meanwhile = self.meanwhile.lock().unwrap();
        if uses != SHARING.least
            && let Some((other, uses)) = meanwhile.take()
        {
            said.insert(other, uses);
        }
        let others: Vec<_> =
            said.iter().filter(|(other, _)| **other != node).map(|(_, uses)| *uses).collect();
        Ok(Others {
            nodes: u32::try_from(others.len()).unwrap(),
            uses: others.iter().fold(Uses::default(), |sum, uses| sum.each(*uses, |a, b| a + b)),
        })
    }

    async fn count(&self, _: Duration) -> Result<u32, DirectoryError> {
        Ok(u32::try_from(self.said.lock().unwrap().len()).unwrap())
    }

    async fn leave(&self, node: NodeId) -> Result<(), DirectoryError> {
        self.said.lock().unwrap().remove(&node.as_uuid().as_u128());
        Ok(())
    }
}

#[test]
fn parts_are_equal_and_leave_room_for_one_who_comes() {
    for (count, shared, dedicated) in
        [(1, 11, 150), (2, 11, 78), (4, 11, 39), (5, 9, 31), (10, 4, 15), (15, 3, 10), (1_000, 3, 3)]
    {
        let part = SHARING.part(nodes(count));
        assert_eq!(part, Uses { shared, dedicated }, "{count} nodes");
        let fits = |part: u32, least: u32, total: u32| part == least || part * count + least <= total;
        assert!(fits(part.shared, 3, 50) && fits(part.dedicated, 3, 160), "{count} nodes");
    }
    let tiny = Sharing { total: Uses { shared: 1, dedicated: 0 }, ..SHARING };
    assert_eq!(tiny.part(nodes(1)), SHARING.least, "never less than one can work with");
}

#[tokio::test]
async fn one_who_comes_waits_for_what_the_others_leave() {
    let board = Arc::new(Board::default());
    let mut first = board.join(1);
    let beat = first.beat().await.unwrap();
    assert_eq!(beat, Beat { nodes: nodes(1), uses: SHARING.most, is_whole: true });

    let mut second = board.join(2);
    let beat = second.beat().await.unwrap();
    assert_eq!(beat, Beat { nodes: nodes(2), uses: Uses { shared: 11, dedicated: 7 }, is_whole: false });

    // The first gives up what it can at once, and one pool of three when it is idle.
    assert_eq!(first.beat().await.unwrap().uses.dedicated, 78);
    assert_eq!(board.sum().dedicated, 157, "it may be using all of it still");
    first.settle(Uses { shared: 11, dedicated: 81 }).await.unwrap();
    assert_eq!(second.beat().await.unwrap().uses.dedicated, 76);
    first.beat().await.unwrap();
    first.settle(Uses { shared: 4, dedicated: 60 }).await.unwrap();
    let beat = second.beat().await.unwrap();
    assert_eq!((beat.uses.dedicated, beat.is_whole), (78, true));
    assert_eq!(board.sum().dedicated, 156);

    second.leave().await.unwrap();
    assert_eq!(first.beat().await.unwrap().uses, SHARING.most);
}

#[tokio::test]
async fn of_two_who_want_the_same_nobody_takes_it_twice() {
    let board = Arc::new(Board::default());
    let mut one = board.join(1);
    board.said.lock().unwrap().insert(2, SHARING.least);
    one.beat().await.unwrap();
    one.settle(SHARING.least).await.unwrap();
    assert_eq!(one.granted().dedicated, 78);
    let mut three = board.join(3);
    // At its first look it finds enough for its third. By the time it has said so, another has taken that.
    *board.meanwhile.lock().unwrap() = Some((2, Uses { shared: 11, dedicated: 70 }));
    let beat = three.beat().await.unwrap();
    assert_eq!((beat.uses.dedicated, beat.is_whole), (3, false));
    assert_eq!(board.sum().dedicated, 78 + 70 + 3);
}

#[tokio::test]
async fn whoever_comes_and_goes_the_sum_stays_within_the_total() {
    let board = Arc::new(Board::default());
    let mut live: Vec<Membership> = Vec::new();
    // Each step somebody comes, goes or beats; what a node uses is at once what it was granted, or half as much
    // again stays in use for a while.
    let mut random = 7_u32;
    let mut next = |below: u32| {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (random >> 16) % below
    };
    let has_more = |node: &Membership| {
        node.uses.shared > SHARING.least.shared && node.uses.dedicated > SHARING.least.dedicated
    };
    for step in 0..5_000_u128 {
        match next(20) {
            // One at a time: what is left over for the next is there once the one before has got more.
            0 if live.len() < 6 && live.iter().all(has_more) => live.push(board.join(step)),
            1 if !live.is_empty() => {
                let gone = live.swap_remove(next(u32::try_from(live.len()).unwrap()) as usize);
                gone.leave().await.unwrap();
            }
            _ if !live.is_empty() => {
                let at = next(u32::try_from(live.len()).unwrap()) as usize;
                let before = live[at].uses;
                let beat = live[at].beat().await.unwrap();
                let in_use = if next(3) == 0 { before } else { beat.uses };
                live[at].settle(in_use).await.unwrap();
            }
            _ => {}
        }
        let sum = live.iter().fold(Uses::default(), |sum, node| sum.each(node.uses, |a, b| a + b));
        let within = sum.shared <= SHARING.total.shared && sum.dedicated <= SHARING.total.dedicated;
        assert!(within, "step {step}: {sum:?} of {} nodes", live.len());
    }
}
