//! Makes cargo rebuild the crate when a migration is added: the sets are compiled in.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
