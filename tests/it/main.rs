//! Integration tests on a real PostgreSQL, as the platform's own logins. One binary: linking is what costs.

mod authorization;
mod cli;
mod coherence;
mod crash;
mod doctor;
mod embedded;
mod fences;
mod http_instruments;
mod http_musicians;
mod http_platform;
mod http_projects;
mod http_users;
mod idempotency;
mod ids;
mod import;
mod isolation;
mod pools;
mod prove_cli;
mod prove_guards;
mod prove_http;
mod prove_sql;
mod provisioning;
mod registry;
mod repositories;
mod routing;
mod tenant_tx;
