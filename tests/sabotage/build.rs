//! Takes the pool's source and removes the clean-up from it.

use std::path::Path;

/// What cleans up after an owner who went away, as the pool has it.
const CLEAN_UP: &str = "runtime.spawn(reclaim(object, Arc::clone(&self.canceller)));";

/// What stands there instead: the connection is lent again as it is.
const NONE: &str = "drop(runtime);
                let mut object = object;
                object.state = State::Clean;";

fn main() {
    let source = "../../crates/storage/src/pool.rs";
    println!("cargo::rerun-if-changed={source}");
    let text = std::fs::read_to_string(source).expect("the pool's source is in the workspace");
    assert_eq!(
        text.matches(CLEAN_UP).count(),
        1,
        "the pool's clean-up has changed: tests/sabotage/build.rs must know what it looks like to remove it"
    );
    let text = text.replace(CLEAN_UP, NONE);
    // A file that is included cannot begin with documentation of the module it is included in.
    let text: String =
        text.lines().filter(|line| !line.starts_with("//!")).flat_map(|line| [line, "\n"]).collect();
    let out = std::env::var_os("OUT_DIR").expect("cargo says where");
    std::fs::write(Path::new(&out).join("pool.rs"), text).expect("the build can write");
}
