//! The mover on a world in memory: dropped at every await and at every point, beside another, with answers that are
//! lost and with steps that fail.

mod crashes;
mod failures;
mod memory;
mod others;
mod stopping;
mod world;
