//! What is attacked: sites, callers, routes.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use http::header::{DATE, HeaderName, HeaderValue};
use http::{Method, StatusCode};

use super::target::Target;

/// The placeholder that is filled with another text in each request of a process.
pub const UNIQUE: &str = "unique";

/// Everything that [`prove_isolation`](super::prove_isolation) goes by.
#[derive(Clone)]
pub struct Plan {
    /// The two tenants, each of them attacker and victim in turn.
    pub tenants: [Site; 2],
    /// A suspended tenant whose people hold tokens from before.
    pub suspended: Option<Site>,
    /// The platform's own host, where tenants are administered.
    pub platform: Option<Site>,
    /// The service's routes.
    pub routes: Vec<Route>,
    /// A host under the service's domain that no tenant has.
    pub unknown_host: String,
    /// A domain that is not the service's; tenants' labels are put before it.
    pub foreign_domain: String,
    /// Makes what an allowed request uses up.
    pub fixtures: Arc<dyn Fixtures>,
    /// Headers of answers that differ from one answer to the next.
    pub volatile: Vec<HeaderName>,
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan")
            .field("tenants", &self.tenants)
            .field("suspended", &self.suspended)
            .field("platform", &self.platform)
            .field("routes", &self.routes)
            .finish_non_exhaustive()
    }
}

impl Plan {
    /// Two tenants and no route yet. `unknown_host` is under the service's domain and no tenant's.
    #[must_use]
    pub fn new(tenants: [Site; 2], unknown_host: impl Into<String>) -> Self {
        Self {
            tenants,
            suspended: None,
            platform: None,
            routes: Vec::new(),
            unknown_host: unknown_host.into(),
            foreign_domain: "attacker.example".to_owned(),
            fixtures: Arc::new(NoFixtures),
            volatile: vec![DATE, HeaderName::from_static("x-request-id")],
        }
    }

    /// Adds a suspended tenant. Its callers' tokens must be ones that worked before it was suspended.
    #[must_use]
    pub fn suspended(mut self, site: Site) -> Self {
        self.suspended = Some(site);
        self
    }

    /// Adds the platform's own host.
    #[must_use]
    pub fn platform(mut self, site: Site) -> Self {
        self.platform = Some(site);
        self
    }

    /// Adds a route.
    #[must_use]
    pub fn route(mut self, route: Route) -> Self {
        self.routes.push(route);
        self
    }

    /// Says how what an allowed request uses up is made.
    #[must_use]
    pub fn fixtures(mut self, fixtures: Arc<dyn Fixtures>) -> Self {
        self.fixtures = fixtures;
        self
    }
}

/// A host, who may sign in there, and what belongs to it: a tenant, or the platform itself.
#[derive(Debug, Clone)]
pub struct Site {
    /// What the proof calls it.
    pub name: String,
    /// Its host, without a port.
    pub host: String,
    /// Its identity, as a header might claim it.
    pub id: Option<String>,
    /// Texts that its data carries and that stand nowhere else.
    pub canaries: Vec<String>,
    /// Its people, each with a token of this site.
    pub callers: Vec<Caller>,
    /// What stands for the placeholders of paths and bodies.
    pub values: BTreeMap<String, String>,
    /// Ids of the same form that name nothing here.
    pub absent: BTreeMap<String, String>,
}

impl Site {
    /// A site that nobody may sign in at and that has nothing yet.
    #[must_use]
    pub fn new(name: impl Into<String>, host: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            host: host.into(),
            id: None,
            canaries: Vec::new(),
            callers: Vec::new(),
            values: BTreeMap::new(),
            absent: BTreeMap::new(),
        }
    }

    /// Says its identity.
    #[must_use]
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// Adds a canary.
    #[must_use]
    pub fn canary(mut self, text: impl Into<String>) -> Self {
        self.canaries.push(text.into());
        self
    }

    /// Adds a caller.
    #[must_use]
    pub fn caller(mut self, caller: Caller) -> Self {
        self.callers.push(caller);
        self
    }

    /// Says what stands for a placeholder.
    #[must_use]
    pub fn value(mut self, placeholder: impl Into<String>, value: impl Into<String>) -> Self {
        self.values.insert(placeholder.into(), value.into());
        self
    }

    /// Says an id that names nothing here.
    #[must_use]
    pub fn absent(mut self, placeholder: impl Into<String>, value: impl Into<String>) -> Self {
        self.absent.insert(placeholder.into(), value.into());
        self
    }

    /// The first label of its host.
    pub(super) fn label(&self) -> &str {
        self.host.split('.').next().unwrap_or_default()
    }
}

/// Somebody who is signed in at a site. The credential is left out of `Debug`.
#[derive(Clone)]
pub struct Caller {
    /// What they are there; the plan's own word.
    pub role: String,
    /// The value of their `Authorization` header.
    pub authorization: HeaderValue,
}

impl Caller {
    /// Somebody with a role.
    #[must_use]
    pub fn new(role: impl Into<String>, mut authorization: HeaderValue) -> Self {
        authorization.set_sensitive(true);
        Self { role: role.into(), authorization }
    }
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller").field("role", &self.role).finish_non_exhaustive()
    }
}

/// At which sites a route is offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// At tenants' hosts.
    Tenants,
    /// At the platform's own host.
    Platform,
    /// At both, each for its own people.
    Both,
}

impl At {
    pub(super) const fn tenants(self) -> bool {
        matches!(self, Self::Tenants | Self::Both)
    }

    pub(super) const fn platform(self) -> bool {
        matches!(self, Self::Platform | Self::Both)
    }
}

/// A route, and a request that is sound for whoever may make it.
#[derive(Debug, Clone)]
pub struct Route {
    /// What the proof calls it: method and path.
    pub name: String,
    /// Method.
    pub method: Method,
    /// Path, perhaps with a query, with placeholders such as `{note}`.
    pub path: String,
    /// Content type and text of the body, with placeholders.
    pub body: Option<(HeaderValue, String)>,
    /// Where it is offered.
    pub at: At,
    /// Roles that may.
    pub allowed: Vec<String>,
    /// Nobody needs to be signed in: what counts is in the body (a sign-in).
    pub open: bool,
    /// Answers that show, beside every success, that the request got past all guards.
    pub passes: Vec<StatusCode>,
    /// Whether an allowed answer carries the site's canary; then it must, or a leak could not be seen.
    pub reveals: bool,
    /// Why it cannot be attacked: known by name alone.
    pub unknown: Option<String>,
}

impl Route {
    /// A route of the tenants, without a body, that nobody may use yet.
    #[must_use]
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        let path = path.into();
        Self {
            name: format!("{method} {path}"),
            method,
            path,
            body: None,
            at: At::Tenants,
            allowed: Vec::new(),
            open: false,
            passes: Vec::new(),
            reveals: false,
            unknown: None,
        }
    }

    /// A route that there is, and that nobody said how to attack: it fails the proof.
    #[must_use]
    pub fn unknown(method: Method, path: impl Into<String>, why: impl Into<String>) -> Self {
        Self { unknown: Some(why.into()), ..Self::new(method, path) }
    }

    /// What the proof is to call it, where that is not method and path.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Gives it a body.
    ///
    /// # Panics
    /// If the content type is no header's value.
    #[must_use]
    pub fn body(mut self, content_type: &'static str, text: impl Into<String>) -> Self {
        self.body = Some((HeaderValue::from_static(content_type), text.into()));
        self
    }

    /// Says where it is offered.
    #[must_use]
    pub fn at(mut self, at: At) -> Self {
        self.at = at;
        self
    }

    /// Says which roles may.
    #[must_use]
    pub fn allowed<R: Into<String>>(mut self, roles: impl IntoIterator<Item = R>) -> Self {
        self.allowed.extend(roles.into_iter().map(Into::into));
        self
    }

    /// Says that nobody needs to be signed in.
    #[must_use]
    pub fn open(mut self) -> Self {
        self.open = true;
        self
    }

    /// Says that this status, too, shows that the request got past all guards.
    #[must_use]
    pub fn passes(mut self, status: StatusCode) -> Self {
        self.passes.push(status);
        self
    }

    /// Says that an allowed answer carries the site's canary.
    #[must_use]
    pub fn reveals(mut self) -> Self {
        self.reveals = true;
        self
    }

    /// Whether a text of it has a placeholder beside [`UNIQUE`].
    pub(super) fn names_things(&self) -> bool {
        has_placeholder(&self.path) || self.body_names_a_thing()
    }

    /// Whether the body names a thing.
    pub(super) fn body_names_a_thing(&self) -> bool {
        self.body.as_ref().is_some_and(|(_, text)| has_placeholder(text))
    }

    /// Whether the path, without its query, names a thing.
    pub(super) fn path_names_a_thing(&self) -> bool {
        has_placeholder(self.path.split('?').next().unwrap_or_default())
    }
}

fn has_placeholder(text: &str) -> bool {
    placeholders(text).any(|name| name != UNIQUE)
}

/// `{name}`: letters, digits and underscores in braces. A JSON body's own braces are followed by a quote.
pub(super) fn placeholders(text: &str) -> impl Iterator<Item = &str> {
    text.split('{').skip(1).filter_map(|rest| {
        let name = rest.split_once('}')?.0;
        let fits = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        fits.then_some(name)
    })
}

/// Makes what an allowed request uses up, so that the next attack finds its victim unharmed.
#[async_trait]
pub trait Fixtures: Send + Sync {
    /// Values in place of the site's own, for one allowed request to `route` at `site`.
    ///
    /// # Errors
    /// Why it could not be made; the attack is then not carried out.
    async fn prepare(
        &self,
        target: &dyn Target,
        route: &Route,
        site: &Site,
    ) -> Result<BTreeMap<String, String>, String>;
}

/// For services whose routes use nothing up.
#[derive(Debug, Clone, Copy)]
pub struct NoFixtures;

#[async_trait]
impl Fixtures for NoFixtures {
    async fn prepare(&self, _: &dyn Target, _: &Route, _: &Site) -> Result<BTreeMap<String, String>, String> {
        Ok(BTreeMap::new())
    }
}
