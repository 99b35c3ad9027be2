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
        self.check_addresses(target, &resolve(target, &name).await?)
    }

    /// Looks at where a name leads that was listed once, from a connection string that the platform keeps: not to what
    /// is for this machine's network alone, unless that is listed. This machine itself is where small platforms have
    /// their databases.
    ///
    /// # Errors
    /// [`HostRefused::Inward`], [`HostRefused::Unresolved`].
    pub(crate) async fn check_kept(&self, target: &ConnectionTarget) -> Result<(), HostRefused> {
        let ServerHost::Tcp(host) = target.host() else { return Ok(()) };
        // An address leads where it led when it was looked at.
        if host.parse::<IpAddr>().is_ok() {
            return Ok(());
        }
        self.check_kept_addresses(target, &resolve(target, host).await?)
    }

    fn check_kept_addresses(
        &self,
        target: &ConnectionTarget,
        addresses: &[IpAddr],
    ) -> Result<(), HostRefused> {
        let beyond: Vec<IpAddr> =
            addresses.iter().filter(|address| !address.to_canonical().is_loopback()).copied().collect();
        if beyond.is_empty() { Ok(()) } else { self.check_addresses(target, &beyond).map(drop) }
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

/// The addresses that a name has now.
async fn resolve(target: &ConnectionTarget, name: &str) -> Result<Vec<IpAddr>, HostRefused> {
    let unresolved = |why: String| HostRefused::Unresolved { target: target.describe(), why };
    let found = timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host((name, target.port())))
        .await
        .map_err(|_| unresolved("the resolver does not answer".to_owned()))?
        .map_err(|error| unresolved(error.to_string()))?;
    Ok(found.map(|address| address.ip()).collect())
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
    let of = |high: u16, low: u16| Some(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)));
    match address.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0, 0, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
            of(high, low)
        }
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
mod tests;
