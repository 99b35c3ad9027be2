//! Passwords, access tokens, roles and who may do what.

pub mod ports;
