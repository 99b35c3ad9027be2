//! The `Host` header: whose request is it?

use std::borrow::Cow;

use crate::subdomain::Subdomain;

/// Longest host name in DNS, in characters.
const MAX_HOST_LEN: usize = 253;
/// Longest domain that leaves room for a tenant's label and its dot.
const MAX_APP_DOMAIN_LEN: usize = MAX_HOST_LEN - Subdomain::MAX_LEN - 1;
/// Longest header text that is looked at: a name with its trailing dot and port, in characters that may
/// shrink when an international name is mapped.
const MAX_HEADER_LEN: usize = 1024;

/// What a host name addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// The platform itself.
    Apex,
    /// `www` under the apex.
    Www,
    /// One label under the apex that a tenant may have. Whether one does, the directory knows.
    Tenant(Subdomain),
    /// Anything else: other domains, deeper names, addresses, reserved names, malformed text.
    Foreign,
}

/// The platform's own host names.
///
/// ```
/// use stagesub_tenancy::{Host, HostPolicy};
///
/// let hosts = HostPolicy::new("stagesub.com")?;
/// assert_eq!(hosts.classify("StageSub.com:443"), Host::Apex);
/// assert!(matches!(hosts.classify("gbg.stagesub.com."), Host::Tenant(label) if label.as_str() == "gbg"));
/// assert_eq!(hosts.classify("a.gbg.stagesub.com"), Host::Foreign);
/// # Ok::<(), stagesub_tenancy::InvalidAppDomain>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPolicy {
    app_domain: String,
}

impl HostPolicy {
    /// A policy for `app_domain` (`stagesub.com`, `localhost`). Case, one trailing dot and an international
    /// spelling are normalised.
    ///
    /// # Errors
    /// [`InvalidAppDomain`] for a scheme, port, path, address, malformed label, or more than 189 characters
    /// (so that every tenant's host name is a legal one).
    pub fn new(app_domain: &str) -> Result<Self, InvalidAppDomain> {
        let app_domain = normalise(app_domain).ok_or(InvalidAppDomain)?.into_owned();
        let fits = (1..=MAX_APP_DOMAIN_LEN).contains(&app_domain.len());
        // A name whose last label begins with a digit may be an address to a resolver (`127.1`, `10.0x1`).
        let named =
            app_domain.rsplit('.').next().is_some_and(|last| !last.starts_with(|c: char| c.is_ascii_digit()));
        if fits && named && app_domain.split('.').all(is_label) {
            Ok(Self { app_domain })
        } else {
            Err(InvalidAppDomain)
        }
    }

    /// The domain that tenants' labels stand under, normalised.
    #[must_use]
    pub fn app_domain(&self) -> &str {
        &self.app_domain
    }

    /// Classifies a `Host` header's text.
    ///
    /// Port, case and one trailing dot do not count. Whatever is not exactly the platform's domain, or one
    /// label under it that a tenant may have, is [`Host::Foreign`]: there is no default tenant.
    #[must_use]
    pub fn classify(&self, host: &str) -> Host {
        let Some(host) = without_port(host).and_then(normalise) else { return Host::Foreign };
        let Some(rest) = host.strip_suffix(self.app_domain.as_str()) else { return Host::Foreign };
        if rest.is_empty() {
            return Host::Apex;
        }
        match rest.strip_suffix('.') {
            Some("www") => Host::Www,
            // A label has no dot, so a deeper name fails here like any other malformed one.
            Some(label) => label.parse().map_or(Host::Foreign, Host::Tenant),
            None => Host::Foreign,
        }
    }
}

/// Drops `:port`. `None`: an address in brackets, several colons, or a port that is no number.
fn without_port(host: &str) -> Option<&str> {
    if host.len() > MAX_HEADER_LEN {
        return None;
    }
    let Some((name, port)) = host.split_once(':') else { return Some(host) };
    // RFC 3986 allows an empty port.
    let numeric =
        port.is_empty() || (port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok());
    numeric.then_some(name)
}

/// Lower case, ASCII, without one trailing dot. `None`: an international name that cannot be mapped.
fn normalise(name: &str) -> Option<Cow<'_, str>> {
    if !name.is_ascii() {
        // Maps full-width dots too, so the trailing one is looked for after that.
        let mapped = idna::domain_to_ascii_cow(name.as_bytes(), idna::AsciiDenyList::STD3).ok()?;
        return Some(match mapped {
            Cow::Borrowed(text) => Cow::Borrowed(text.strip_suffix('.').unwrap_or(text)),
            Cow::Owned(mut text) => {
                if text.ends_with('.') {
                    text.pop();
                }
                Cow::Owned(text)
            }
        });
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.bytes().any(|b| b.is_ascii_uppercase()) {
        Some(Cow::Owned(name.to_ascii_lowercase()))
    } else {
        Some(Cow::Borrowed(name))
    }
}

/// One label of a domain in lower case; an encoded one (`xn--`) is allowed here.
fn is_label(label: &str) -> bool {
    (1..=Subdomain::MAX_LEN).contains(&label.len())
        && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// The text is no domain to serve tenants under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the platform's domain is a host name without scheme, port or path")]
pub struct InvalidAppDomain;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hosts() -> HostPolicy {
        HostPolicy::new("stagesub.com").expect("a domain")
    }

    fn tenant(label: &str) -> Host {
        Host::Tenant(label.parse().expect("a label"))
    }

    #[test]
    fn one_label_under_the_domain_is_a_tenant() {
        for host in [
            "gbg.stagesub.com",
            "GBG.StageSub.COM",
            "gbg.stagesub.com.",
            "gbg.stagesub.com:8080",
            "gbg.stagesub.com.:443",
            "gbg.stagesub.com:",
            "ｇｂｇ.stagesub.com",
            "gbg。stagesub。com。",
        ] {
            assert_eq!(hosts().classify(host), tenant("gbg"), "{host}");
        }
    }

    #[test]
    fn the_domain_itself_and_www_are_the_platforms() {
        assert_eq!(hosts().classify("stagesub.com"), Host::Apex);
        assert_eq!(hosts().classify("STAGESUB.com.:80"), Host::Apex);
        assert_eq!(hosts().classify("www.stagesub.com"), Host::Www);
        assert_eq!(HostPolicy::new("localhost").expect("a domain").classify("localhost:8080"), Host::Apex);
    }

    #[test]
    fn everything_else_is_foreign() {
        let over_long = format!("{}.stagesub.com", "a".repeat(64));
        let huge = format!("{}.stagesub.com", "a.".repeat(5_000));
        for host in [
            "",
            ".",
            "..",
            ".stagesub.com",
            "..stagesub.com",
            "gbg..stagesub.com",
            "gbg.stagesub.com..",
            "gbgstagesub.com",
            "a.gbg.stagesub.com",
            "www.gbg.stagesub.com",
            "stagesub.com.evil.example",
            "gbg.stagesub.com.evil.example",
            "evil.example",
            "com",
            "127.0.0.1",
            "127.0.0.1:8080",
            "[::1]",
            "[::1]:8080",
            "::1",
            "api.stagesub.com",
            "admin.stagesub.com",
            "123.stagesub.com",
            "-gbg.stagesub.com",
            "gbg-.stagesub.com",
            "g_g.stagesub.com",
            "g g.stagesub.com",
            " gbg.stagesub.com",
            "gbg.stagesub.com ",
            "gbg.stagesub.com\0",
            "gbg%2estagesub.com",
            "user@gbg.stagesub.com",
            "user:80@gbg.stagesub.com",
            "gbg.stagesub.com:80@evil.example",
            "http://gbg.stagesub.com",
            "gbg.stagesub.com/",
            "gbg.stagesub.com:http",
            "gbg.stagesub.com:99999",
            "gbg.stagesub.com:80:80",
            "gbg.stagesub.com:+80",
            "göteborg.stagesub.com",
            "xn--gteborg-90a.stagesub.com",
            "gbg.stagesub.com,evil.example",
            &over_long,
            &huge,
        ] {
            assert_eq!(hosts().classify(host), Host::Foreign, "{host:?}");
        }
    }

    #[test]
    fn app_domain_is_normalised() {
        for (text, domain) in [
            ("Stagesub.COM.", "stagesub.com"),
            ("localhost", "localhost"),
            ("örkester.example", "xn--rkester-80a.example"),
        ] {
            assert_eq!(HostPolicy::new(text).expect(text).app_domain(), domain);
        }
        let international = HostPolicy::new("örkester.example").expect("a domain");
        assert_eq!(international.classify("gbg.örkester.example"), tenant("gbg"));
        assert_eq!(international.classify("gbg.xn--rkester-80a.example"), tenant("gbg"));
    }

    #[test]
    fn app_domain_with_more_than_a_name_is_refused() {
        let too_long = format!("{}com", "abcdefghi.".repeat(19));
        for text in [
            "",
            ".",
            "stagesub..com",
            ".stagesub.com",
            "https://stagesub.com",
            "stagesub.com:80",
            "stagesub.com/",
            "stagesub com",
            "user@stagesub.com",
            "*.stagesub.com",
            "127.0.0.1",
            "127.1",
            "10.0x1",
            "[::1]",
            "::1",
            "-a.example",
            "a_b.example",
            &too_long,
        ] {
            assert_eq!(HostPolicy::new(text), Err(InvalidAppDomain), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn classify_never_panics(host in any::<String>()) {
            let _ = hosts().classify(&host);
        }

        #[test]
        fn tenant_is_always_spelled_label_dot_domain(host in "[a-zA-Z0-9.:@\\[\\]%_ -]{0,24}(stagesub\\.com)?[.:0-9]{0,4}") {
            if let Host::Tenant(label) = hosts().classify(&host) {
                let spelled = host.to_ascii_lowercase();
                let name = spelled.split(':').next().unwrap_or_default();
                prop_assert_eq!(name.strip_suffix('.').unwrap_or(name), format!("{label}.stagesub.com"));
            }
        }

        #[test]
        fn deeper_host_is_never_a_tenant(above in "[a-z0-9.-]{0,12}", label in "[a-z0-9-]{0,12}") {
            prop_assert_eq!(hosts().classify(&format!("{above}.{label}.stagesub.com")), Host::Foreign);
        }

        #[test]
        fn foreign_domain_is_never_a_tenant(label in "[a-z0-9.-]{0,20}", domain in "[a-z]{1,12}\\.(org|net|se)") {
            prop_assert_eq!(hosts().classify(&format!("{label}.{domain}")), Host::Foreign);
            prop_assert_eq!(hosts().classify(&format!("{label}.stagesub.com.{domain}")), Host::Foreign);
        }

        #[test]
        fn every_label_a_tenant_may_have_reaches_it(label in "[a-z][a-z0-9]{0,62}", port in any::<u16>()) {
            prop_assume!(label.parse::<Subdomain>().is_ok());
            prop_assert_eq!(hosts().classify(&format!("{label}.stagesub.com:{port}")), tenant(&label));
        }
    }
}
