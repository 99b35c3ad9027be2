//! Moving a tenant from one database to another.

mod ahead;
mod apply;
mod asked;
mod copy;
mod crash;
mod decision;
mod encrypted;
mod fence;
mod history;
mod mover;
mod operation;
mod pair;
mod plan;
mod preflight;
mod registry;
mod requests;
mod stream;
mod streamed;
mod triggers;
mod verify;
mod whole;
