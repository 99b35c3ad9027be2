//! What a trusted proxy says of a request: the host it was sent to and the address it came from.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use ipnet::IpNet;

/// The networks whose `X-Forwarded-*` headers are believed. Empty by default: then nobody's are.
///
/// ```
/// use stagesub_tenancy::TrustedProxies;
///
/// let proxies: TrustedProxies = "10.0.0.0/8, ::1".parse()?;
/// let peer = "10.1.2.3".parse().expect("an address");
/// assert_eq!(proxies.effective_host(peer, Some("inside:8080"), Some("gbg.stagesub.com")), Some("gbg.stagesub.com"));
/// # Ok::<(), stagesub_tenancy::InvalidProxies>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TrustedProxies {
    networks: Vec<IpNet>,
}

impl TrustedProxies {
    /// Trusts these networks.
    #[must_use]
    pub fn new(networks: Vec<IpNet>) -> Self {
        Self { networks }
    }

    /// Whether `peer` is one of the proxies. An IPv4 address in IPv6 clothes counts as IPv4.
    #[must_use]
    pub fn trusts(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.networks.iter().any(|network| network.contains(&peer))
    }

    /// The host that the request was sent to: `X-Forwarded-Host` from a trusted proxy, `Host` from anybody
    /// else or where there is none.
    ///
    /// Of several comma-separated forwarded hosts the last counts: it is the one that the proxy itself added,
    /// while those before it may be the client's.
    #[must_use]
    pub fn effective_host<'a>(
        &self,
        peer: IpAddr,
        host: Option<&'a str>,
        forwarded_host: Option<&'a str>,
    ) -> Option<&'a str> {
        let forwarded = forwarded_host.filter(|_| self.trusts(peer));
        forwarded.map(|hosts| hosts.rsplit(',').next().unwrap_or(hosts).trim()).or(host)
    }

    /// The client's address: the right-most of `X-Forwarded-For` that is not a trusted proxy, as far as the
    /// chain of trust reaches back from `peer`.
    ///
    /// An entry that is no address ends the chain; then the nearest trusted proxy is all that is known.
    #[must_use]
    pub fn client_address(&self, peer: IpAddr, forwarded_for: Option<&str>) -> IpAddr {
        let mut known = peer.to_canonical();
        for entry in forwarded_for.unwrap_or_default().rsplit(',') {
            if !self.trusts(known) {
                break;
            }
            let Some(address) = address(entry.trim()) else { break };
            known = address;
        }
        known
    }
}

/// An address, also in brackets or with a port, as some proxies write it.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let parsed = bare.parse().or_else(|_| text.parse::<SocketAddr>().map(|address| address.ip()));
    parsed.ok().map(|address| address.to_canonical())
}

impl FromStr for TrustedProxies {
    type Err = InvalidProxies;

    /// Networks (`10.0.0.0/8`) and addresses, separated by commas; blanks do not count.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        let network = |entry: &str| {
            let network = entry.parse().or_else(|_| entry.parse::<IpAddr>().map(IpNet::from));
            network.map_err(|_| InvalidProxies { entry: entry.to_owned() })
        };
        entries.map(network).collect::<Result<_, _>>().map(Self::new)
    }
}

/// An entry is neither a network nor an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{entry}' is no network (10.0.0.0/8) and no address")]
pub struct InvalidProxies {
    /// The entry.
    pub entry: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies() -> TrustedProxies {
        "10.0.0.0/8, 192.0.2.7, fd00::/8".parse().expect("networks")
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn forwarded_host_counts_from_a_trusted_proxy_only() {
        let host = |peer| proxies().effective_host(ip(peer), Some("direct"), Some("forwarded"));
        assert_eq!(host("10.9.9.9"), Some("forwarded"));
        assert_eq!(host("::ffff:10.9.9.9"), Some("forwarded"));
        assert_eq!(host("fd00::1"), Some("forwarded"));
        assert_eq!(host("192.0.2.8"), Some("direct"));
        assert_eq!(TrustedProxies::default().effective_host(ip("127.0.0.1"), None, Some("forwarded")), None);
    }

    #[test]
    fn last_of_several_forwarded_hosts_counts() {
        let host =
            proxies().effective_host(ip("10.0.0.1"), Some("direct"), Some("evil.example, gbg.example"));
        assert_eq!(host, Some("gbg.example"));
        assert_eq!(proxies().effective_host(ip("10.0.0.1"), Some("direct"), Some("")), Some(""));
    }

    #[test]
    fn host_counts_where_the_proxy_forwards_none() {
        assert_eq!(proxies().effective_host(ip("10.0.0.1"), Some("direct"), None), Some("direct"));
    }

    #[test]
    fn client_is_the_right_most_untrusted_address() {
        for (peer, forwarded, client) in [
            ("198.51.100.1", Some("203.0.113.9"), "198.51.100.1"),
            ("10.0.0.1", None, "10.0.0.1"),
            ("10.0.0.1", Some("203.0.113.9"), "203.0.113.9"),
            ("10.0.0.1", Some("6.6.6.6, 203.0.113.9, 10.0.0.2"), "203.0.113.9"),
            ("10.0.0.1", Some("10.0.0.3, 10.0.0.2"), "10.0.0.3"),
            ("10.0.0.1", Some("6.6.6.6, garbage, 10.0.0.2"), "10.0.0.2"),
            ("10.0.0.1", Some("203.0.113.9:4711"), "203.0.113.9"),
            ("10.0.0.1", Some("[2001:db8::1]:4711"), "2001:db8::1"),
            ("10.0.0.1", Some("[2001:db8::1]"), "2001:db8::1"),
            ("10.0.0.1", Some(""), "10.0.0.1"),
        ] {
            assert_eq!(proxies().client_address(ip(peer), forwarded), ip(client), "{forwarded:?}");
        }
    }

    #[test]
    fn entry_that_is_no_network_is_named() {
        let refused = "10.0.0.0/8, proxy.local".parse::<TrustedProxies>();
        assert_eq!(refused, Err(InvalidProxies { entry: "proxy.local".to_owned() }));
        assert_eq!(" , ".parse(), Ok(TrustedProxies::default()));
    }
}
