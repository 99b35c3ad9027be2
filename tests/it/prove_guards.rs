//! A node's look at its own guards before it serves.

use std::collections::BTreeMap;

use async_trait::async_trait;
use http::header::{AUTHORIZATION, HOST};
use http::{HeaderValue, Request, Response};
use stagesub_server::guards::{self, Guard, Guards};
use stagesub_server::routes::build_router;
use stagesub_tenancy::prove::http::{InProcess, Target, TargetError};
use stagesub_tests::database::connect;
use stagesub_tests::{Kept, TestPlatform};

/// The service without one of its checks: the request is changed into one that the check lets pass.
struct Lacking<T> {
    service: T,
    /// Host by label, where hosts are not checked.
    hosts: BTreeMap<String, String>,
    /// Token by host, where tokens are not checked.
    tokens: BTreeMap<String, HeaderValue>,
}

#[async_trait]
impl<T: Target> Target for Lacking<T> {
    async fn send(&self, mut request: Request<bytes::Bytes>) -> Result<Response<bytes::Bytes>, TargetError> {
        let host = request.headers()[HOST].to_str().expect("a host").to_owned();
        let label = host.split('.').next().unwrap_or_default();
        if let Some(host) = self.hosts.get(label) {
            request.headers_mut().insert(HOST, host.parse().expect("a host"));
        }
        if let (Some(token), true) = (self.tokens.get(&host), request.headers().contains_key(AUTHORIZATION)) {
            request.headers_mut().insert(AUTHORIZATION, token.clone());
        }
        self.service.send(request).await
    }
}

/// Where the registry stands: every change of it moves on.
async fn version(platform: &TestPlatform) -> i64 {
    sqlx::query_scalar("SELECT version FROM registry.version")
        .fetch_one(&mut connect(platform.registry()).await)
        .await
        .expect("the registry can be read")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_tries_its_guards_and_writes_nothing() {
    let platform = TestPlatform::start().await;
    let router = || build_router(platform.state().clone());
    let alone =
        guards::probe_router(platform.wired(), platform.serving(), router()).await.expect("it is asked");
    assert_eq!(alone, Guards::TooFewTenants);

    let [ours, theirs] = platform.pair(Kept::Shared).await;
    let entries = platform.count_in_registry("registry.platform_audit").await;
    let version = version(&platform).await;
    let found =
        guards::probe_router(platform.wired(), platform.serving(), router()).await.expect("it is asked");
    assert_eq!(found.failures().count(), 0, "{found:?}");
    let Guards::Asked(probes) = &found else { panic!("two orchestras have members") };
    assert_eq!(probes.len(), 8);
    assert_eq!(platform.count_in_registry("registry.platform_audit").await, entries);
    assert_eq!(self::version(&platform).await, version, "nothing in the registry was changed");

    let orchestras = [&ours, &theirs];
    let without_hosts = Lacking {
        service: InProcess::new(router()),
        hosts: orchestras.map(|it| (it.subdomain.clone(), it.host.clone())).into(),
        tokens: BTreeMap::new(),
    };
    let found =
        guards::probe(platform.wired(), platform.serving(), &without_hosts).await.expect("it is asked");
    let failed: Vec<Guard> = found.failures().map(|probe| probe.guard).collect();
    assert_eq!(failed, [Guard::Host, Guard::Host]);

    let token = |it: &stagesub_tests::Orchestra| {
        let token = it.admin.token().expect("they are signed in");
        HeaderValue::from_str(&format!("Bearer {token}")).expect("a header")
    };
    let without_tokens = Lacking {
        service: InProcess::new(router()),
        hosts: BTreeMap::new(),
        tokens: orchestras.map(|it| (it.host.clone(), token(it))).into(),
    };
    let found =
        guards::probe(platform.wired(), platform.serving(), &without_tokens).await.expect("it is asked");
    let failed: Vec<Guard> = found.failures().map(|probe| probe.guard).collect();
    assert_eq!(failed, [Guard::Token, Guard::Token]);
}
