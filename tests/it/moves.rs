//! Moving a tenant from one database to another.

mod apply;
mod copy;
mod encrypted;
mod fence;
mod mover;
mod pair;
mod plan;
mod registry;
mod stream;
mod streamed;
mod verify;
mod whole;
