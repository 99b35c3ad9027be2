//! StageSub's HTTP API and command line: thin, rules live in the layers below.
//!
//! # Map
//! - [`routes`]: the one table of routes and what every request passes through; [`openapi`] its description
//! - [`extract`]: who asks, about whom, and what they sent; [`handlers`]: one file a resource
//! - [`problem`]: every error as `application/problem+json`
//! - [`state`]: the ports that handlers are given; [`readiness`] whether they answer; [`clock`] the time
//!
//! # Invariants
//! - A handler reaches tenant data only through a scope that the tenant layer resolved from the host and a
//!   token that was made for that host.
//! - No handler holds a pool or a connection; who began a unit of work commits it, anything else rolls back.
//! - Time is read in [`clock`] alone.

pub mod clock;
pub mod extract;
pub mod handlers;
pub mod openapi;
pub mod problem;
pub mod readiness;
pub mod routes;
pub mod state;

#[cfg(test)]
mod tests;
