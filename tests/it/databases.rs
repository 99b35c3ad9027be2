//! Databases that are made where somebody names them: on another server, or in a database that is there.

mod elsewhere;
mod http;
mod refused;
mod shared;

use secrecy::SecretString;
use stagesub_storage::databases::{AllowedHosts, DedicatedDatabases};
use stagesub_storage::doctor::Expectations;
use stagesub_storage::registry::RegistryPools;
use stagesub_storage::target::{ConnectionTarget, ServerHost};
use stagesub_tenancy::TenantId;
use uuid::Uuid;

use crate::registry::Server;

/// A platform, and a server that is not its own yet.
pub(crate) struct Ground {
    pub(crate) ours: Server,
    pub(crate) other: Server,
    pub(crate) registry: RegistryPools,
    pub(crate) dedicated: DedicatedDatabases,
}

impl Ground {
    pub(crate) async fn new() -> Self {
        let (ours, other) = tokio::join!(Server::installed(), Server::start());
        let registry = ours.open().await;
        let dedicated = DedicatedDatabases::new(registry.clone(), ours.keys.clone())
            .naming(allowing(&[&ours, &other]), Expectations::default());
        Self { ours, other, registry, dedicated }
    }

    /// A tenant that is recorded and has no data yet.
    pub(crate) async fn tenant(&self, code: &str) -> TenantId {
        let id = Uuid::now_v7();
        let sql = format!(
            "INSERT INTO registry.codes (code, tenant_id) VALUES ('{code}', '{id}');
            INSERT INTO registry.tenants (id, code, name, subdomain, subscription, status, version)
            VALUES ('{id}', '{code}', '{code}', lower('{code}'), 'institution', 'provisioning', 0)"
        );
        self.ours.run("reg", &sql).await;
        TenantId::from_uuid(id)
    }

    /// The databases that the registry has, apart from those it was set up with.
    pub(crate) async fn recorded(&self) -> Vec<String> {
        let sql = "SELECT concat_ws(' ', kind, status, name) FROM registry.databases
            WHERE name NOT IN ('reg', 'shr') ORDER BY 1";
        self.ours.texts("reg", sql).await
    }

    /// The platform's roles on the other server.
    pub(crate) async fn roles(&self) -> Vec<String> {
        self.other
            .texts("postgres", "SELECT rolname::text FROM pg_roles WHERE rolname LIKE 'stagesub%' ORDER BY 1")
            .await
    }

    /// A login on the other server that is no superuser.
    pub(crate) async fn manager(&self, attributes: &str) -> ConnectionTarget {
        self.other.run("postgres", &format!("CREATE ROLE manager LOGIN PASSWORD 'm' {attributes}")).await;
        self.other.admin("postgres").with_user("manager", SecretString::from("m"))
    }
}

/// The list on which these servers are.
pub(crate) fn allowing(servers: &[&Server]) -> AllowedHosts {
    let socket = |server: &&Server| match server.admin("postgres").host() {
        ServerHost::Socket(dir) => dir.display().to_string(),
        ServerHost::Tcp(host) => host.clone(),
    };
    servers.iter().map(socket).collect::<Vec<_>>().join(",").parse().unwrap()
}

/// What a tenant's own database is called.
pub(crate) fn name(tenant: TenantId) -> String {
    format!("stagesub_t_{}", tenant.as_uuid().as_simple())
}
