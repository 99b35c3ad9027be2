//! How many connections each peer has open.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use stagesub_tenancy::TrustedProxies;
use stagesub_tenancy::rate::client_of;

/// Counts open connections by peer. A peer without any takes no memory.
#[derive(Debug, Clone)]
pub(super) struct Peers {
    open: Arc<Mutex<HashMap<IpAddr, u32>>>,
    most: u32,
    proxies: TrustedProxies,
}

impl Peers {
    /// A peer may have `most` open. Proxies may have any number, since they stand for many; so may this machine
    /// itself, where a proxy may be that nobody named.
    pub(super) fn new(most: u32, proxies: TrustedProxies) -> Self {
        Self { open: Arc::default(), most, proxies }
    }

    /// Counts one more, until the answer is dropped. `None`: the peer has as many as it may.
    pub(super) fn enter(&self, peer: IpAddr) -> Option<Open> {
        let peer = client_of(peer);
        let bounded = !peer.is_loopback() && !self.proxies.trusts(peer);
        let mut open = self.lock();
        let count = open.entry(peer).or_default();
        if bounded && *count >= self.most {
            return None;
        }
        *count += 1;
        drop(open);
        Some(Open { peers: self.clone(), peer })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, u32>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One open connection.
#[derive(Debug)]
pub(super) struct Open {
    peers: Peers,
    peer: IpAddr,
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut open = self.peers.lock();
        if let Some(count) = open.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.peer);
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

    #[test]
    fn a_peer_has_so_many_and_others_have_theirs() {
        let peers = Peers::new(2, TrustedProxies::default());
        let held = [peers.enter(ip("2001:db8::1")).unwrap(), peers.enter(ip("2001:db8::2")).unwrap()];
        assert!(peers.enter(ip("2001:db8::3")).is_none(), "one network of 64 bits is one peer");
        assert!(peers.enter(ip("2001:db8:0:1::1")).is_some());
        drop(held);
        assert!(peers.enter(ip("2001:db8::3")).is_some());
        assert!(peers.lock().is_empty());
    }

    #[test]
    fn proxies_and_this_machine_stand_for_many() {
        let peers = Peers::new(1, "10.0.0.0/8".parse().unwrap());
        for peer in ["10.1.2.3", "127.0.0.1", "::1"] {
            let _held: Vec<_> = (0..10).map(|_| peers.enter(ip(peer)).unwrap()).collect();
        }
    }
}
