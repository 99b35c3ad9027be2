//! How many connections each peer has open, and whose make room.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use stagesub_tenancy::TrustedProxies;
use stagesub_tenancy::rate::client_of;
use tokio_util::sync::CancellationToken;

use crate::arrival::Arrival;

/// Counts open connections by peer. A peer without any takes no memory.
#[derive(Debug, Clone)]
pub(super) struct Peers {
    open: Arc<Mutex<Connections>>,
    most: usize,
    proxies: TrustedProxies,
    spares_this_machine: bool,
}

#[derive(Debug, Default)]
struct Connections {
    next_number: u64,
    /// Each peer's, the oldest first.
    by_peer: HashMap<IpAddr, BTreeMap<u64, Conversation>>,
}

impl Peers {
    /// A peer may have `most` open. Proxies may have any number, since they stand for many; so may this machine
    /// itself, where a proxy may be that nobody named.
    pub(super) fn new(most: u32, proxies: TrustedProxies) -> Self {
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        Self { open: Arc::default(), most, proxies, spares_this_machine: true }
    }

    /// The same, where this machine's addresses are bounded as all others.
    #[cfg(test)]
    pub(super) fn of_strangers(most: u32) -> Self {
        Self { spares_this_machine: false, ..Self::new(most, TrustedProxies::default()) }
    }

    /// Counts one more, until the answer is dropped. `None`: the peer has as many as it may.
    pub(super) fn enter(&self, peer: IpAddr) -> Option<Open> {
        let (peer, bounded) = self.known_as(peer);
        let mut open = self.lock();
        let held = open.by_peer.get(&peer).map_or(0, BTreeMap::len);
        if held >= self.most && bounded {
            return None;
        }
        let number = open.next_number;
        open.next_number += 1;
        let conversation = Conversation::default();
        open.by_peer.entry(peer).or_default().insert(number, conversation.clone());
        drop(open);
        Some(Open { peers: self.clone(), peer, number, conversation })
    }

    /// Ends a connection of the peer that has most, if it has more than `newcomer` would have without it: the
    /// oldest of those that the server waits for, be it for a request or for the rest of one. Tells whether there
    /// was one. So whoever opens many and is slow on all of them keeps nobody out.
    pub(super) fn make_room(&self, newcomer: IpAddr) -> bool {
        let (newcomer, _) = self.known_as(newcomer);
        let open = self.lock();
        let held = open.by_peer.get(&newcomer).map_or(0, BTreeMap::len);
        let others = open.by_peer.iter().filter(|(peer, _)| self.is_bounded(**peer));
        let waiting = others.filter_map(|(_, conversations)| {
            let waited_for = conversations.values().find(|one| one.is_waited_for())?;
            (conversations.len() > held).then_some((conversations.len(), waited_for))
        });
        let ended = waiting.max_by_key(|(held, _)| *held);
        if let Some((_, conversation)) = ended {
            conversation.cut.cancel();
        }
        ended.is_some()
    }

    /// What a peer is counted as, and whether it is bounded: of IPv6 a whole network, but this machine and proxies
    /// by their own address.
    fn known_as(&self, peer: IpAddr) -> (IpAddr, bool) {
        if self.is_bounded(peer) { (client_of(peer), true) } else { (peer.to_canonical(), false) }
    }

    fn is_bounded(&self, peer: IpAddr) -> bool {
        let is_here = peer.to_canonical().is_loopback();
        !(self.proxies.trusts(peer) || self.spares_this_machine && is_here)
    }

    fn lock(&self) -> MutexGuard<'_, Connections> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is going on on a connection.
#[derive(Debug, Clone, Default)]
pub(super) struct Conversation {
    /// Told when it is to end at once.
    pub(super) cut: CancellationToken,
    /// The body of the request under way.
    pub(super) arrival: Arrival,
    working: Arc<AtomicBool>,
}

impl Conversation {
    /// A request is being answered, until the answer is dropped.
    pub(super) fn work(&self) -> Work {
        self.working.store(true, Ordering::Relaxed);
        Work(Arc::clone(&self.working))
    }

    /// Whether its client is what the server waits for.
    fn is_waited_for(&self) -> bool {
        let is_cut = self.cut.is_cancelled();
        !is_cut && (!self.working.load(Ordering::Relaxed) || self.arrival.is_under_way())
    }
}

/// A request that is being answered.
pub(super) struct Work(Arc<AtomicBool>);

impl Drop for Work {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// One open connection.
#[derive(Debug)]
pub(super) struct Open {
    peers: Peers,
    peer: IpAddr,
    number: u64,
    /// What is going on on it.
    pub(super) conversation: Conversation,
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut open = self.peers.lock();
        if let Some(conversations) = open.by_peer.get_mut(&self.peer) {
            conversations.remove(&self.number);
            if conversations.is_empty() {
                open.by_peer.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn most(peers: &Peers, peer: &str) -> Vec<Open> {
        std::iter::from_fn(|| peers.enter(ip(peer))).collect()
    }

    #[test]
    fn a_peer_has_so_many_and_others_have_theirs() {
        let peers = Peers::new(2, TrustedProxies::default());
        let held = [peers.enter(ip("2001:db8::1")).unwrap(), peers.enter(ip("2001:db8::2")).unwrap()];
        assert!(peers.enter(ip("2001:db8::3")).is_none(), "one network of 64 bits is one peer");
        assert!(peers.enter(ip("2001:db8:0:1::1")).is_some());
        drop(held);
        assert!(peers.enter(ip("2001:db8::3")).is_some());
        assert!(peers.lock().by_peer.is_empty());
    }

    #[test]
    fn proxies_and_this_machine_stand_for_many() {
        let peers = Peers::new(1, "10.0.0.0/8".parse().unwrap());
        for peer in ["10.1.2.3", "127.0.0.1", "::1"] {
            let _held: Vec<_> = (0..10).map(|_| peers.enter(ip(peer)).unwrap()).collect();
            assert!(!peers.make_room(ip("203.0.113.1")), "nor do theirs make room");
        }
    }

    #[test]
    fn the_peer_that_has_most_makes_room_with_the_oldest_that_is_waited_for() {
        let peers = Peers::new(3, TrustedProxies::default());
        let (many, some) = (most(&peers, "198.51.100.1"), [peers.enter(ip("198.51.100.2")).unwrap()]);
        let cut = || many.iter().map(|open| open.conversation.cut.is_cancelled()).collect::<Vec<_>>();
        let work = many[0].conversation.work();
        let newcomer = ip("203.0.113.1");
        assert!(peers.make_room(newcomer));
        assert_eq!(cut(), [false, true, false], "the first is being answered");
        assert!(peers.make_room(newcomer));
        assert_eq!(cut(), [false, true, true]);
        drop(work);
        assert!(peers.make_room(newcomer));
        assert_eq!(cut(), [true; 3]);
        assert!(!some[0].conversation.cut.is_cancelled());
    }

    #[test]
    fn nobody_makes_room_for_one_who_has_as_many() {
        let peers = Peers::new(3, TrustedProxies::default());
        let _held = [peers.enter(ip("198.51.100.1")).unwrap(), peers.enter(ip("203.0.113.1")).unwrap()];
        assert!(!peers.make_room(ip("203.0.113.1")));
        assert!(peers.make_room(ip("203.0.113.2")), "but for one who has none");
    }

    #[tokio::test]
    async fn a_body_that_is_waited_for_makes_room_and_one_that_is_there_does_not() {
        use axum::body::Body;
        use http_body_util::BodyExt;

        let peers = Peers::new(3, TrustedProxies::default());
        let held = peers.enter(ip("198.51.100.1")).unwrap();
        let _work = held.conversation.work();
        let newcomer = ip("203.0.113.1");
        drop(held.conversation.arrival.watch(Body::from("whole")).collect().await.unwrap());
        assert!(!peers.make_room(newcomer));
        let endless = Body::from_stream(futures::stream::pending::<Result<&str, std::io::Error>>());
        let mut reading = Box::pin(held.conversation.arrival.watch(endless).collect());
        assert!(futures::poll!(reading.as_mut()).is_pending());
        assert!(peers.make_room(newcomer));
    }
}
