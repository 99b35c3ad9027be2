//! Which requests are made of a route.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use http::{Method, Request};

use super::forged::forge;
use super::plan::{Caller, Plan, Route, Site, UNIQUE, placeholders};
use super::{Expectation, Guard, suites};

mod unique;

const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED: HeaderName = HeaderName::from_static("forwarded");
const TENANT_ID: HeaderName = HeaderName::from_static("x-tenant-id");
const TENANT: HeaderName = HeaderName::from_static("x-tenant");
const TENANT_SUBDOMAIN: HeaderName = HeaderName::from_static("x-tenant-subdomain");

/// What of an answer shows that an attack succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Looks {
    /// A success, or a canary.
    AtStatus,
    /// A canary alone: the caller may ask this of their own tenant.
    AtCanaries,
}

/// One request and what it is meant to show.
pub(super) struct Case<'a> {
    pub(super) suite: &'static str,
    pub(super) route: &'a Route,
    pub(super) attempt: String,
    pub(super) expectation: Expectation,
    pub(super) looks: Looks,
    /// The guard that stands against it, where a control can do without that guard.
    pub(super) guard: Option<Guard>,
    /// Whose site the caller is at home in.
    pub(super) home: &'a Site,
    /// Whose canaries must not be in the answer.
    pub(super) victims: Vec<&'a Site>,
    /// What stands for placeholders.
    pub(super) values: &'a BTreeMap<String, String>,
    /// The answer must be the one that these ids get, which name nothing.
    pub(super) absent: Vec<&'a BTreeMap<String, String>>,
    role: Option<&'a str>,
    host: String,
    authorization: Option<HeaderValue>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Case<'_> {
    /// Whether the caller may do this at home.
    pub(super) fn is_for_a_role_that_may(&self) -> bool {
        self.route.open || self.role.is_some_and(|role| self.route.allowed.iter().any(|may| may == role))
    }

    /// The request, with values put in for placeholders.
    pub(super) fn request(&self, values: &BTreeMap<String, String>) -> Result<Request<Bytes>, String> {
        let unique = unique::next();
        let path = fill(&self.route.path, values, &unique)?;
        let mut request = Request::builder()
            .method(self.route.method.clone())
            .uri(path)
            .header(HOST, self.host.as_bytes())
            .body(Bytes::new())
            .map_err(|error| format!("the request cannot be made: {error}"))?;
        if let Some((content_type, text)) = &self.route.body {
            request.headers_mut().insert(CONTENT_TYPE, content_type.clone());
            *request.body_mut() = Bytes::from(fill(text, values, &unique)?);
        }
        if let Some(authorization) = &self.authorization {
            request.headers_mut().insert(AUTHORIZATION, authorization.clone());
        }
        for (name, value) in &self.headers {
            request.headers_mut().insert(name.clone(), value.clone());
        }
        Ok(request)
    }
}

fn fill(text: &str, values: &BTreeMap<String, String>, unique: &str) -> Result<String, String> {
    let mut filled = text.to_owned();
    for name in placeholders(text) {
        let value = if name == UNIQUE { Some(unique) } else { values.get(name).map(String::as_str) };
        let value = value.ok_or_else(|| format!("the plan has no value for {{{name}}}"))?;
        filled = filled.replace(&format!("{{{name}}}"), value);
    }
    Ok(filled)
}

/// Every request that is made of a route, in the order in which they are made: what is refused comes before
/// what is allowed, so that nothing was changed yet.
pub(super) fn cases<'a>(plan: &'a Plan, route: &'a Route) -> Vec<Case<'a>> {
    let mut cases = Vec::new();
    let [a, b] = &plan.tenants;
    for (here, other) in [(a, b), (b, a)] {
        let at = Aim { plan, route, here };
        if route.at.tenants() {
            at.other_ids(other, &mut cases);
            at.other_token(other, &mut cases);
            at.other_hosts(&mut cases);
            at.forged_tokens(other, &mut cases);
            at.headers(other, &mut cases);
        }
        at.between_tenant_and_platform(&mut cases);
    }
    if let Some(suspended) = plan.suspended.as_ref().filter(|_| route.at.tenants()) {
        Aim { plan, route, here: suspended }.suspended(a, &mut cases);
    }
    if let Some(platform) = plan.platform.as_ref().filter(|_| route.at.platform()) {
        let at = Aim { plan, route, here: platform };
        at.other_hosts(&mut cases);
        at.forged_tokens(a, &mut cases);
        at.headers(a, &mut cases);
        at.own(&mut cases);
    }
    if route.at.tenants() {
        for here in [a, b] {
            Aim { plan, route, here }.own(&mut cases);
        }
    }
    cases
}

/// A route at one site.
#[derive(Clone, Copy)]
struct Aim<'a> {
    plan: &'a Plan,
    route: &'a Route,
    here: &'a Site,
}

impl<'a> Aim<'a> {
    /// A request of `caller`, who is at home in `home`, to the site's own host. It must be refused.
    fn case(self, suite: &'static str, home: &'a Site, caller: Option<&'a Caller>, what: &str) -> Case<'a> {
        let who = caller.map_or("nobody", |caller| caller.role.as_str());
        let victim = if std::ptr::eq(home, self.here) { None } else { Some(self.here) };
        Case {
            suite,
            route: self.route,
            attempt: format!("{who} of {}: {what}", home.name),
            expectation: Expectation::Held,
            looks: Looks::AtStatus,
            guard: None,
            home,
            victims: victim.into_iter().collect(),
            values: &self.here.values,
            absent: Vec::new(),
            role: caller.map(|caller| caller.role.as_str()),
            host: self.here.host.clone(),
            authorization: caller.map(|caller| caller.authorization.clone()),
            headers: Vec::new(),
        }
    }

    fn is_at_a_tenant(self) -> bool {
        self.plan.tenants.iter().any(|site| std::ptr::eq(site, self.here))
    }

    /// The people of a site who try the route; at an open one, nobody in particular.
    fn callers(self, site: &'a Site) -> Vec<Option<&'a Caller>> {
        if self.route.open { vec![None] } else { site.callers.iter().map(Some).collect() }
    }

    /// Whoever may do most with the route: attacks that try many things are made as them. At an open route, or
    /// at a site without people, nobody in particular.
    fn strongest(self, site: &'a Site) -> Option<&'a Caller> {
        let may = |caller: &&Caller| self.route.allowed.contains(&caller.role);
        let callers = if self.route.open { &[] } else { site.callers.as_slice() };
        callers.iter().find(may).or_else(|| callers.first())
    }

    /// What roles may at home, and what they may not.
    fn own(self, cases: &mut Vec<Case<'a>>) {
        if !self.route.open {
            cases.push(self.case(suites::OWN, self.here, None, "at home, with no token"));
        }
        let callers = self.callers(self.here);
        let (may, may_not): (Vec<_>, Vec<_>) = callers
            .into_iter()
            .map(|caller| self.case(suites::OWN, self.here, caller, "at home"))
            .partition(Case::is_for_a_role_that_may);
        cases.extend(may_not);
        cases.extend(may.into_iter().map(|case| Case { expectation: Expectation::Allowed, ..case }));
    }

    /// The other tenant's ids (or, at an open route, credentials), asked for at home.
    fn other_ids(self, other: &'a Site, cases: &mut Vec<Case<'a>>) {
        if !self.route.names_things() {
            return;
        }
        for caller in self.callers(self.here) {
            let what = format!("at home, for what belongs to {}", other.name);
            let case = self.case(suites::OTHER_IDS, self.here, caller, &what);
            // What is there must be told from what is not in neither tenant's ids. Whoever may not do it anyway may
            // be told that first, for ids of their own.
            let mut absent = Vec::new();
            if self.route.path_names_a_thing() {
                absent.push(&other.absent);
                absent.extend(case.is_for_a_role_that_may().then_some(&self.here.absent));
            }
            let looks = self.looks_elsewhere();
            cases.push(Case { values: &other.values, absent, looks, victims: vec![other], ..case });
        }
    }

    /// The other tenant's token, at this host in each of its spellings.
    fn other_token(self, other: &'a Site, cases: &mut Vec<Case<'a>>) {
        if self.route.open {
            return;
        }
        for caller in self.callers(other) {
            let what = format!("at the host of {}", self.here.name);
            let case = self.case(suites::OTHER_TOKEN, other, caller, &what);
            cases.push(Case { guard: Some(Guard::Token), ..case });
        }
        let caller = self.strongest(other);
        let host = &self.here.host;
        for (spelling, host) in [
            ("in capitals", host.to_ascii_uppercase()),
            ("with a port", format!("{host}:8443")),
            ("with a trailing dot", format!("{host}.")),
        ] {
            let what = format!("at the host of {}, {spelling}", self.here.name);
            cases.push(Case { host, ..self.case(suites::OTHER_TOKEN, other, caller, &what) });
        }
    }

    /// Asking at home for what is elsewhere succeeds legitimately where it only narrows a list of what is here.
    fn looks_elsewhere(self) -> Looks {
        let names = self.route.path_names_a_thing() || self.route.body_names_a_thing();
        if names || self.route.method != Method::GET { Looks::AtStatus } else { Looks::AtCanaries }
    }

    /// A good token at hosts that are nobody's.
    fn other_hosts(self, cases: &mut Vec<Case<'a>>) {
        for caller in self.callers(self.here) {
            let case = self.case(suites::UNKNOWN_HOST, self.here, caller, "at a host that no tenant has");
            cases.push(Case { host: self.plan.unknown_host.clone(), ..case });

            let host = format!("{}.{}", self.here.label(), self.plan.foreign_domain);
            let what = "at their own label under another domain";
            let case = self.case(suites::FOREIGN_HOST, self.here, caller, what);
            // The platform's own host is no tenant's, with or without the guard.
            let guard =
                self.plan.tenants.iter().any(|site| std::ptr::eq(site, self.here)).then_some(Guard::Host);
            cases.push(Case { guard, host, ..case });

            let case = self.case(suites::FOREIGN_HOST, self.here, caller, "at an IP address");
            cases.push(Case { host: "127.0.0.1".to_owned(), ..case });
        }
        let caller = self.strongest(self.here);
        let (host, foreign) = (&self.here.host, &self.plan.foreign_domain);
        for (what, host) in [
            ("at an IPv6 address", "[::1]".to_owned()),
            ("at the other domain itself", foreign.clone()),
            ("at their host with another domain after it", format!("{host}.{foreign}")),
            ("at their host with a label before it", format!("x.{host}")),
            ("at their host with two dots after it", format!("{host}..")),
            ("at their host with a port that is none", format!("{host}:80x")),
            ("at their host with a port out of range", format!("{host}:99999")),
            ("at their host and another one", format!("{host}, {foreign}")),
        ] {
            cases.push(Case { host, ..self.case(suites::FOREIGN_HOST, self.here, caller, what) });
        }
    }

    fn forged_tokens(self, other: &'a Site, cases: &mut Vec<Case<'a>>) {
        if self.route.open {
            return;
        }
        let Some(own) = self.strongest(self.here) else { return };
        let others = other.callers.first().unwrap_or(own);
        for (what, forged) in forge(&own.authorization, &others.authorization) {
            let case =
                self.case(suites::FORGED_TOKEN, self.here, Some(own), &format!("at home, with {what}"));
            cases.push(Case { authorization: Some(forged), victims: vec![self.here], ..case });
        }
    }

    /// Headers that claim another tenant than the host has.
    fn headers(self, other: &'a Site, cases: &mut Vec<Case<'a>>) {
        let own = self.strongest(self.here);
        let what = "at a host that no tenant has, with headers that name their own tenant";
        let case = self.case(suites::HEADERS, self.here, own, what);
        let host = self.plan.unknown_host.clone();
        cases.push(Case { host, headers: claims(self.here), ..case });

        if !self.route.open {
            let caller = self.strongest(other);
            let what = format!("at the host of {}, with headers that name their own tenant", self.here.name);
            let case = self.case(suites::HEADERS, other, caller, &what);
            cases.push(Case { headers: claims(other), ..case });
        }
        // At home a change is their own, whatever the headers name; and the platform's people see all tenants.
        if !self.is_at_a_tenant() || !self.route.names_things() && self.route.method != Method::GET {
            return;
        }
        let looks = self.looks_elsewhere();
        let what = format!("at home, with headers that name {}", other.name);
        let case = self.case(suites::HEADERS, self.here, own, &what);
        let (headers, values) = (claims(other), &other.values);
        cases.push(Case { headers, values, looks, victims: vec![other], ..case });
    }

    /// A tenant that is not served: with tokens that were good before, and with its tokens elsewhere.
    fn suspended(self, elsewhere: &'a Site, cases: &mut Vec<Case<'a>>) {
        for caller in self.callers(self.here) {
            let case = self.case(suites::SUSPENDED, self.here, caller, "at home, while it is suspended");
            cases.push(Case { guard: Some(Guard::Suspension), victims: vec![self.here], ..case });
            if !self.route.open {
                let what = format!("at the host of {}, while their own tenant is suspended", elsewhere.name);
                let there = Aim { here: elsewhere, ..self };
                cases.push(there.case(suites::SUSPENDED, self.here, caller, &what));
            }
        }
        if !self.route.open {
            let what = "at home, while it is suspended, with no token";
            let case = self.case(suites::SUSPENDED, self.here, None, what);
            cases.push(Case { victims: vec![self.here], ..case });
        }
    }

    /// People of a tenant at the platform's host, and people of the platform at a tenant's.
    fn between_tenant_and_platform(self, cases: &mut Vec<Case<'a>>) {
        let Some(platform) = &self.plan.platform else { return };
        for caller in self.callers(self.here) {
            let at_platform = Aim { here: platform, ..self };
            let case = at_platform.case(suites::PLATFORM, self.here, caller, "at the platform's own host");
            // What a tenant's people send there is theirs, and what must not come back is the platform's.
            let values = if self.route.at.tenants() { &self.here.values } else { &platform.values };
            cases.push(Case { values, ..case });
        }
        for caller in self.callers(platform) {
            let what = format!("at the host of {}", self.here.name);
            let case = self.case(suites::PLATFORM, platform, caller, &what);
            let values = if self.route.at.tenants() && !self.route.open {
                &self.here.values
            } else {
                &platform.values
            };
            cases.push(Case { values, ..case });
        }
        if !self.route.at.tenants() {
            for caller in self.callers(self.here) {
                let case =
                    self.case(suites::PLATFORM, self.here, caller, "at home, for a route of the platform");
                cases.push(Case { values: &platform.values, ..case });
            }
        }
    }
}

/// Headers by which one might claim to be a tenant.
fn claims(site: &Site) -> Vec<(HeaderName, HeaderValue)> {
    let mut claims = vec![
        (FORWARDED_HOST, site.host.clone()),
        (FORWARDED, format!("host={}", site.host)),
        (TENANT_SUBDOMAIN, site.label().to_owned()),
        (TENANT, site.label().to_owned()),
    ];
    claims.extend(site.id.clone().map(|id| (TENANT_ID, id)));
    claims.into_iter().filter_map(|(name, text)| Some((name, HeaderValue::from_str(&text).ok()?))).collect()
}
