//! Which servers the platform connects to when somebody names one.
//!
//! A connection string that comes in a request makes this program connect to whatever it names: to the machine's own
//! services, to what a cloud tells its machines, to the network behind it. So nothing is connected to that an operator
//! did not list, by the name that was given and by the addresses that the name has now.
//!
//! ```
//! use stagesub_storage::databases::AllowedHosts;
//! use stagesub_storage::target::ConnectionTarget;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let allowed: AllowedHosts = "*.db.example:5432, 10.20.0.0/16, /run/postgresql".parse()?;
//! let target = ConnectionTarget::parse("postgres://admin@10.20.0.7/postgres")?;
//! let reached = allowed.check(&target).await?;
//! // What was checked is what is connected to.
//! let _ = reached.pin(&target);
//! # Ok(())
//! # }
//! ```

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use tokio::time::timeout;

use crate::target::{ConnectionTarget, ServerHost, SslMode};

/// How long a name may take to be resolved.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Where a cloud tells its machines what nobody else is to know, over IPv6; the IPv4 one is link-local.
const METADATA_V6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)];
/// The same where it is neither link-local nor private.
const METADATA_V4: [Ipv4Addr; 2] = [Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(100, 100, 100, 200)];

/// The list. Empty: nothing may be named.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowedHosts(Vec<Entry>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    host: Listed,
    /// `None`: every port.
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Listed {
    /// One name.
    Name(String),
    /// Every name that ends so; with the dot before it.
    Suffix(String),
    /// Addresses.
    Network(IpNet),
    /// The directory of Unix sockets.
    Socket(PathBuf),
}

/// An entry of the list means nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{entry}` is no host, *.suffix, address, network or directory of sockets, with or without a port (an IPv6 address with a port stands in brackets)"
)]
pub struct InvalidHosts {
    entry: String,
}

/// A target is not connected to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostRefused {
    /// There is no list.
    #[error(
        "{target} may not be connected to: STAGESUB_DATABASE_HOSTS is not set, so databases are made on the servers alone that `migrate` was given; list the server there"
    )]
    NoList {
        /// User, address and database.
        target: String,
    },
    /// It is not on the list.
    #[error("{target} may not be connected to: STAGESUB_DATABASE_HOSTS does not list {what}")]
    NotListed {
        /// User, address and database.
        target: String,
        /// The name, address or directory, with the port.
        what: String,
    },
    /// The host is an address in a spelling that other programs read otherwise.
    #[error("{target} may not be connected to: write its address as four decimal numbers, or as IPv6")]
    Spelling {
        /// User, address and database.
        target: String,
    },
    /// The name means an address of this machine or of its network alone, and that is not listed.
    #[error(
        "{target} may not be connected to: its name means {address}, which is an address for this machine or its network alone; list that address in STAGESUB_DATABASE_HOSTS if that is meant"
    )]
    Inward {
        /// User, address and database.
        target: String,
        /// The address.
        address: IpAddr,
    },
    /// The name has no address.
    #[error("{target} cannot be reached: its name has no address ({why}); check the host's name")]
    Unresolved {
        /// User, address and database.
        target: String,
        /// What the resolver says.
        why: String,
    },
}

/// A target that may be connected to, at the addresses that were looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reached {
    /// The address to use; `None` for a socket.
    address: Option<IpAddr>,
}

impl Reached {
    /// The same target at the address that was looked at, so that a name which means another one a moment later leads
    /// nowhere else. Where the certificate has to bear the host's name, the name stays: a server that has no such
    /// certificate is not talked to.
    #[must_use]
    pub fn pin(&self, target: &ConnectionTarget) -> ConnectionTarget {
        match self.address {
            Some(address) if target.ssl_mode() != SslMode::VerifyFull => target.at_address(address),
            _ => target.clone(),
        }
    }
}

impl AllowedHosts {
    /// Whether there is no list.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a target may be connected to. The name has to be listed; each of its addresses may be none for this
    /// machine or its network alone, unless that address is listed too.
    ///
    /// # Errors
    /// [`HostRefused`].
    pub async fn check(&self, target: &ConnectionTarget) -> Result<Reached, HostRefused> {
        let Some(name) = self.check_spelling(target)? else {
            let address = match target.host() {
                ServerHost::Tcp(host) => host.parse::<IpAddr>().ok().map(|address| address.to_canonical()),
                ServerHost::Socket(_) => None,
            };
            return Ok(Reached { address });
        };
        let unresolved = |why: String| HostRefused::Unresolved { target: target.describe(), why };
        let found = timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host((name.as_str(), target.port())))
            .await
            .map_err(|_| unresolved("the resolver does not answer".to_owned()))?
            .map_err(|error| unresolved(error.to_string()))?;
        let addresses: Vec<IpAddr> = found.map(|address| address.ip()).collect();
        self.check_addresses(target, &addresses)
    }

    /// Everything that is known without asking anybody; the name to resolve, if there is one.
    fn check_spelling(&self, target: &ConnectionTarget) -> Result<Option<String>, HostRefused> {
        if self.is_empty() {
            return Err(HostRefused::NoList { target: target.describe() });
        }
        let not_listed = |what: String| HostRefused::NotListed { target: target.describe(), what };
        let port = target.port();
        match target.host() {
            ServerHost::Socket(dir) => {
                let listed = |listed: &Listed| matches!(listed, Listed::Socket(known) if known == dir);
                let plain = is_plain(dir);
                if plain && self.lists(port, listed) {
                    Ok(None)
                } else {
                    Err(not_listed(format!("the sockets in {}", dir.display())))
                }
            }
            ServerHost::Tcp(host) => {
                if let Ok(address) = host.parse::<IpAddr>() {
                    let address = address.to_canonical();
                    return if self.lists_address(address, port) {
                        Ok(None)
                    } else {
                        Err(not_listed(format!("{address} with port {port}")))
                    };
                }
                let name =
                    plain_name(host).ok_or_else(|| HostRefused::Spelling { target: target.describe() })?;
                if self.lists(port, |listed| is_named(listed, &name)) {
                    Ok(Some(name))
                } else {
                    Err(not_listed(format!("{name} with port {port}")))
                }
            }
        }
    }

    /// What the name means has to be fit as a whole: which of several addresses is taken is chance.
    fn check_addresses(
        &self,
        target: &ConnectionTarget,
        addresses: &[IpAddr],
    ) -> Result<Reached, HostRefused> {
        for address in addresses.iter().map(IpAddr::to_canonical) {
            if is_inward(address) && !self.lists_address(address, target.port()) {
                return Err(HostRefused::Inward { target: target.describe(), address });
            }
        }
        // IPv4 first where there are both: a host without IPv6 is more frequent than one without IPv4.
        let first = addresses.iter().find(|address| address.is_ipv4()).or_else(|| addresses.first());
        match first {
            Some(address) => Ok(Reached { address: Some(address.to_canonical()) }),
            None => Err(HostRefused::Unresolved {
                target: target.describe(),
                why: "the resolver knows none".to_owned(),
            }),
        }
    }

    fn lists_address(&self, address: IpAddr, port: u16) -> bool {
        self.lists(port, |listed| matches!(listed, Listed::Network(network) if network.contains(&address)))
    }

    fn lists(&self, port: u16, fits: impl Fn(&Listed) -> bool) -> bool {
        self.0.iter().any(|entry| entry.port.is_none_or(|listed| listed == port) && fits(&entry.host))
    }
}

impl FromStr for AllowedHosts {
    type Err = InvalidHosts;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        let entries = entries
            .map(|text| entry(text).ok_or_else(|| InvalidHosts { entry: text.chars().take(80).collect() }));
        entries.collect::<Result<_, _>>().map(Self)
    }
}

fn entry(text: &str) -> Option<Entry> {
    if text.starts_with('/') {
        let dir = PathBuf::from(text);
        // `10.0.0.0/8` has a slash too, and does not begin with it.
        return is_plain(&dir).then_some(Entry { host: Listed::Socket(dir), port: None });
    }
    if let Some(network) = network(text) {
        return Some(Entry { host: Listed::Network(network), port: None });
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, Some(port.parse().ok().filter(|port| *port != 0)?)),
        None => (text, None),
    };
    Some(Entry { host: listed(host)?, port })
}

fn listed(host: &str) -> Option<Listed> {
    if let Some(bare) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        return network(bare).map(Listed::Network);
    }
    // A colon is left over only by an IPv6 address without brackets, whose last group looks like a port.
    if host.contains(':') {
        return None;
    }
    if let Some(network) = network(host) {
        return Some(Listed::Network(network));
    }
    match host.strip_prefix("*.") {
        Some(suffix) => plain_name(suffix).map(|suffix| Listed::Suffix(format!(".{suffix}"))),
        None => plain_name(host).map(Listed::Name),
    }
}

/// A network or an address. IPv4 in IPv6 clothes is IPv4.
fn network(text: &str) -> Option<IpNet> {
    let network =
        text.parse().ok().or_else(|| text.parse().ok().map(|address: IpAddr| IpNet::from(address)))?;
    match (network.addr().to_canonical(), network.prefix_len().checked_sub(96)) {
        (address @ IpAddr::V4(_), Some(length)) if network.addr().is_ipv6() => {
            IpNet::new(address, length).ok()
        }
        _ => Some(network),
    }
}

/// A host's name in lower case, without the dot that may end it. Not one is what a resolver may take for an address:
/// `127.1`, `0x7f000001` and `2130706433` all mean this machine to some.
fn plain_name(host: &str) -> Option<String> {
    let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    let last = name.rsplit('.').next()?;
    let is_number = last.bytes().all(|b| b.is_ascii_digit())
        || last.strip_prefix("0x").is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
    (name.len() <= 253 && name.split('.').all(is_label) && !is_number).then_some(name)
}

fn is_named(listed: &Listed, name: &str) -> bool {
    match listed {
        Listed::Name(known) => known == name,
        // Something has to stand before the dot.
        Listed::Suffix(suffix) => name.len() > suffix.len() && name.ends_with(suffix.as_str()),
        Listed::Network(_) | Listed::Socket(_) => false,
    }
}

/// A directory that is named from the root, step by step down.
fn is_plain(dir: &Path) -> bool {
    let mut steps = dir.components();
    steps.next() == Some(Component::RootDir)
        && steps.clone().next().is_some()
        && steps.all(|step| matches!(step, Component::Normal(_)))
}

/// An address that means this machine, or something in its network that is for machines and not for people.
fn is_inward(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_inward_v4(address),
        IpAddr::V6(address) => {
            address.is_loopback()
                || address.is_unspecified()
                || address.is_multicast()
                || address.segments()[0] & 0xffc0 == 0xfe80
                || METADATA_V6.contains(&address)
                || embedded(address).is_some_and(is_inward_v4)
        }
    }
}

fn is_inward_v4(address: Ipv4Addr) -> bool {
    address.is_loopback()
        || address.octets()[0] == 0
        || address.is_link_local()
        || address.is_multicast()
        || address.is_broadcast()
        || METADATA_V4.contains(&address)
}

/// The IPv4 address that a translator makes of an IPv6 one: `64:ff9b::/96`, `2002::/16`, `::/96`.
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, g, h] = address.segments();
    let of = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(a, b, c, d)
    };
    match [a, b, c, d, e, f] {
        [0x64, 0xff9b, 0, 0, 0, 0] | [0, 0, 0, 0, 0, 0] => Some(of(g, h)),
        [0x2002, high, low, ..] => Some(of(high, low)),
        _ => None,
    }
}

impl fmt::Display for AllowedHosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, entry) in self.0.iter().enumerate() {
            let comma = if n == 0 { "" } else { ", " };
            match &entry.host {
                Listed::Name(name) => write!(f, "{comma}{name}")?,
                Listed::Suffix(suffix) => write!(f, "{comma}*{suffix}")?,
                Listed::Network(network @ IpNet::V6(_)) if entry.port.is_some() => {
                    write!(f, "{comma}[{network}]")?;
                }
                Listed::Network(network) => write!(f, "{comma}{network}")?,
                Listed::Socket(dir) => write!(f, "{comma}{}", dir.display())?,
            }
            if let Some(port) = entry.port {
                write!(f, ":{port}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> AllowedHosts {
        text.parse().unwrap_or_else(|error| panic!("{error}"))
    }

    fn target(url: &str) -> ConnectionTarget {
        ConnectionTarget::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"))
    }

    /// Whether a target passes as it is spelled.
    fn passes(allowed: &str, url: &str) -> bool {
        list(allowed).check_spelling(&target(url)).is_ok()
    }

    fn resolved(allowed: &str, url: &str, addresses: &[&str]) -> Result<Reached, HostRefused> {
        let addresses: Vec<IpAddr> = addresses.iter().map(|text| text.parse().unwrap()).collect();
        list(allowed).check_addresses(&target(url), &addresses)
    }

    #[test]
    fn without_a_list_nothing_may_be_named_and_the_refusal_says_so() {
        for url in ["postgres://u@db.example/d", "postgres://u@127.0.0.1/d", "postgres://u@/d?host=/run/x"] {
            let refused = AllowedHosts::default().check_spelling(&target(url)).unwrap_err();
            assert!(matches!(refused, HostRefused::NoList { .. }));
            assert!(refused.to_string().contains("STAGESUB_DATABASE_HOSTS"), "{refused}");
        }
    }

    #[test]
    fn names_are_compared_whole_without_case_and_without_the_last_dot() {
        let allowed = "db.example, *.pool.example";
        for url in [
            "postgres://u@db.example/d",
            "postgres://u@DB.Example./d",
            "postgres://u@a.pool.example:6432/d",
            "postgres://u@a.b.pool.example/d",
        ] {
            assert!(passes(allowed, url), "{url}");
        }
        for url in [
            "postgres://u@evildb.example/d",
            "postgres://u@db.example.evil/d",
            "postgres://u@db.example../d",
            "postgres://u@pool.example/d",
            "postgres://u@evilpool.example/d",
            "postgres://u@.pool.example/d",
            "postgres://u@a.pool.example.evil.com/d",
        ] {
            assert!(!passes(allowed, url), "{url}");
        }
    }

    #[test]
    fn a_host_hidden_in_another_part_of_the_url_is_the_one_that_is_looked_at() {
        let allowed = "db.example";
        for url in [
            // The login ends at the last @, so the host is what follows it.
            "postgres://db.example:5432@evil.example/d",
            "postgres://u:p@db.example@evil.example/d",
            "postgres://db.example@evil.example/d",
            "postgres://u@evil.example/db.example",
            "postgres://u@evil.example/d?sslrootcert=db.example",
            "postgres://u@/d?host=evil.example",
            "postgres://u@/d?host=%65vil.example",
        ] {
            assert!(!passes(allowed, url), "{url}");
        }
        assert!(passes(allowed, "postgres://u@/d?host=%64b.example"));
        for url in [
            "postgres://u@db.example/d?host=evil.example",
            "postgres://u@db.example,evil.example/d",
            "postgres://u@/d?host=db.example,evil.example",
            "postgres://u@db.example/d?hostaddr=10.0.0.1",
            "postgres://u@db.example/d?service=evil",
            "postgres://u@db.example#@evil.example/d",
            "postgres://u@db.example\\@evil.example/d%00",
            "postgres://u@db.example:5432:5433/d",
            "postgres://u@[fe80::1%25eth0]/d",
            "postgres://u@db.exam%0aple/d",
        ] {
            let parsed = ConnectionTarget::parse(url);
            assert!(
                parsed.as_ref().map_or(true, |target| list(allowed).check_spelling(target).is_err()),
                "{url}"
            );
        }
    }

    #[test]
    fn addresses_are_compared_as_numbers_whatever_they_are_dressed_in() {
        let allowed = "10.0.0.0/8, 2001:db8::/32, 192.0.2.7:6432";
        for url in [
            "postgres://u@10.1.2.3/d",
            "postgres://u@[::ffff:10.1.2.3]/d",
            "postgres://u@[::ffff:a01:203]/d",
            "postgres://u@[2001:DB8:0:0::1]/d",
            "postgres://u@192.0.2.7:6432/d",
            "postgres://u@[::ffff:192.0.2.7]:6432/d",
        ] {
            assert!(passes(allowed, url), "{url}");
        }
        for url in [
            "postgres://u@192.0.2.7/d",
            "postgres://u@11.0.0.1/d",
            "postgres://u@127.0.0.1/d",
            "postgres://u@[::1]/d",
            "postgres://u@[::ffff:127.0.0.1]/d",
            "postgres://u@[::10.1.2.3]/d",
            "postgres://u@[64:ff9b::10.1.2.3]/d",
            "postgres://u@[2001:db9::1]/d",
        ] {
            assert!(!passes(allowed, url), "{url}");
        }
    }

    #[test]
    fn an_address_that_only_some_programs_can_read_is_refused_even_if_it_were_listed() {
        for host in ["2130706433", "0x7f000001", "127.1", "0177.0.0.1", "127.0.0.0x1", "10.0.0.1.", "0", "0x"]
        {
            let url = format!("postgres://u@{host}/d");
            let refused =
                list("*.example, 127.0.0.0/8, 10.0.0.0/8").check_spelling(&target(&url)).unwrap_err();
            assert!(matches!(refused, HostRefused::Spelling { .. }), "{host}: {refused}");
            assert!(host.parse::<AllowedHosts>().is_err(), "{host}");
        }
    }

    #[test]
    fn sockets_are_used_only_where_they_are_listed() {
        let allowed = "/run/postgresql, db.example";
        for url in [
            "postgres://u@/d?host=/run/postgresql",
            "postgres://u@%2Frun%2Fpostgresql:5433/d",
            "postgres://u@/d?host=/run//postgresql/",
        ] {
            assert!(passes(allowed, url), "{url}");
        }
        for url in [
            "postgres://u@/d?host=/run/postgresql/../mysql",
            "postgres://u@%2Frun%2Fpostgresql%2F..%2F..%2Ftmp/d",
            "postgres://u@/d?host=/run",
            "postgres://u@/d?host=/tmp",
            "postgres://u@/d?host=/run/postgresql/deeper",
            "postgres://u@/d?host=/",
        ] {
            assert!(!passes(allowed, url), "{url}");
        }
        assert!(!passes("10.0.0.0/8", "postgres://u@/d?host=/run/postgresql"));
    }

    #[test]
    fn a_listed_name_that_means_this_machine_or_its_network_is_refused() {
        let url = "postgres://u@db.example/d";
        for inward in [
            "127.0.0.1",
            "127.8.8.8",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "168.63.129.16",
            "100.100.100.200",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "ff02::1",
            "fd00:ec2::254",
            "::ffff:127.0.0.1",
            "::127.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "2002:7f00:1::",
        ] {
            let refused = resolved("db.example", url, &["203.0.113.5", inward]);
            assert!(matches!(refused, Err(HostRefused::Inward { .. })), "{inward}: {refused:?}");
        }
        // A private network is where databases are.
        assert!(resolved("db.example", url, &["10.0.0.5", "2001:db8::5"]).is_ok());
        assert!(resolved("db.example, 127.0.0.0/8", url, &["127.0.0.1"]).is_ok());
        assert!(resolved("db.example, 127.0.0.0/8:6000", url, &["127.0.0.1"]).is_err());
        assert!(matches!(resolved("db.example", url, &[]), Err(HostRefused::Unresolved { .. })));
    }

    #[test]
    fn what_was_looked_at_is_what_is_connected_to() {
        let url = "postgres://u@db.example:6000/d?sslmode=require";
        let reached = resolved("db.example", url, &["2001:db8::5", "203.0.113.5"]).unwrap();
        let pinned = reached.pin(&target(url));
        assert_eq!((pinned.host(), pinned.port()), (&ServerHost::Tcp("203.0.113.5".to_owned()), 6000));
        assert_eq!((pinned.user(), pinned.ssl_mode()), ("u", SslMode::Require));
        // The certificate bears the name.
        let verified = target("postgres://u@db.example:6000/d?sslmode=verify-full");
        assert_eq!(reached.pin(&verified).host(), verified.host());
    }

    #[tokio::test]
    async fn an_address_needs_no_resolver_and_this_machines_name_is_not_taken_at_its_word() {
        let literal = list("192.0.2.0/24").check(&target("postgres://u@192.0.2.1/d")).await.unwrap();
        assert_eq!(literal, Reached { address: Some("192.0.2.1".parse().unwrap()) });
        let named = list("localhost").check(&target("postgres://u@localhost/d")).await;
        assert!(matches!(named, Err(HostRefused::Inward { .. })), "{named:?}");
        let listed = list("localhost, 127.0.0.0/8, ::1").check(&target("postgres://u@localhost/d")).await;
        assert!(listed.is_ok(), "{listed:?}");
    }

    #[test]
    fn a_list_is_read_as_it_is_shown_and_nonsense_is_named() {
        let text = "db.example, *.pool.example:5432, 10.0.0.0/8:6432, [2001:db8::/32]:5432, ::1/128, /run/postgresql";
        assert_eq!(list(text).to_string(), text);
        assert_eq!(list(&list(text).to_string()), list(text));
        assert_eq!(list("10.0.0.1").to_string(), "10.0.0.1/32");
        assert_eq!(list("::ffff:10.0.0.0/104").to_string(), "10.0.0.0/8");
        for wrong in [
            "*",
            "*.",
            "a b",
            "db.example:0",
            "db.example:99999",
            "10.0.0.0/40",
            "/run/../x",
            "/",
            "a/b",
            "*x.y",
        ] {
            let error = wrong.parse::<AllowedHosts>().unwrap_err();
            assert!(error.to_string().contains(wrong), "{error}");
        }
        assert!("".parse::<AllowedHosts>().unwrap().is_empty());
    }
}
