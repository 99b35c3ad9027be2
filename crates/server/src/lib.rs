//! StageSub's HTTP API and command line: thin, rules live in the layers below.
//!
//! # Map
//! - [`routes`]: the one table of routes and what every request passes through; [`openapi`] its description
//! - [`extract`]: who asks, about whom, and what they sent; [`handlers`]: one file a resource
//! - [`idempotency`]: requests that create something and are asked twice
//! - [`limits`]: how often it may be asked; [`metrics`]: figures for Prometheus
//! - [`problem`]: every error as `application/problem+json`
//! - [`state`]: the ports that handlers are given; [`readiness`] whether they answer; [`clock`] the time
//! - [`wiring`]: the composition root, the one place that knows the adapters; [`config`] what it is told
//! - [`node`]: one server, prepared, serving, stopped; [`serving`] its listener; [`jobs`] work beside requests;
//!   [`bootstrap`] the first administrator; [`telemetry`] logs and spans
//! - [`prove`]: attacks on the platform and their signed report; [`guards`]: a node's own look before it serves
//! - [`cli`]: the commands; [`demo`]: the whole platform with nothing configured; [`passphrase`] made secrets
//!
//! # Invariants
//! - A handler reaches tenant data only through a scope that the tenant layer resolved from the host and a
//!   token that was made for that host.
//! - No handler holds a pool or a connection; who began a unit of work commits it, anything else rolls back.
//! - Time is read in [`clock`] alone.
//! - Secrets are in no argument, log, error or `Debug`; a command prints a password only when asked to make it.

mod arrival;
pub mod bootstrap;
pub mod cli;
pub mod clock;
pub mod config;
pub mod demo;
pub mod doctor;
pub mod extract;
pub mod guards;
pub mod handlers;
pub mod idempotency;
pub mod jobs;
pub mod limits;
pub mod metrics;
pub mod node;
pub mod openapi;
pub mod passphrase;
pub mod problem;
pub mod prove;
pub mod readiness;
pub mod routes;
pub mod serving;
pub mod state;
pub mod telemetry;
pub mod wiring;

#[cfg(test)]
mod tests;
