//! Takes the data path's sources and removes the clean-up from the connection's.

use std::path::Path;

/// The sources, without the tests at their foot: those are storage's.
const SOURCES: [&str; 18] = [
    "bounds",
    "canceller",
    "connection",
    "deadline",
    "error",
    "factory",
    "lingering",
    "literal",
    "metered",
    "one_message",
    "one_write",
    "parameters",
    "patience",
    "pool",
    "prepared",
    "statement",
    "tx",
    "warming",
];

/// What cleans up after an owner who went away, as it is there.
const CLEAN_UP: &str = "runtime.spawn(reclaim(object, self.canceller.clone(), self.turn.take()));";

/// What stands there instead: the connection is lent again as it is.
const NONE: &str = "drop(runtime);
                let mut object = object;
                object.state = State::Idle(Left::Nothing);";

fn main() {
    let out = std::env::var_os("OUT_DIR").expect("cargo says where");
    for name in SOURCES {
        let source = format!("../../crates/storage/src/{name}.rs");
        println!("cargo::rerun-if-changed={source}");
        let text = std::fs::read_to_string(&source).expect("the sources are in the workspace");
        let text = text.split("\n#[cfg(test)]\nmod tests").next().unwrap_or_default();
        let text = if name == "connection" { without_clean_up(text) } else { text.to_owned() };
        // A file that is included cannot begin with documentation of the module it is included in.
        let text: String =
            text.lines().filter(|line| !line.starts_with("//!")).flat_map(|line| [line, "\n"]).collect();
        std::fs::write(Path::new(&out).join(name).with_extension("rs"), text).expect("the build can write");
    }
}

fn without_clean_up(connection: &str) -> String {
    assert_eq!(
        connection.matches(CLEAN_UP).count(),
        1,
        "the clean-up has changed: tests/sabotage/build.rs must know what it looks like to remove it"
    );
    connection.replace(CLEAN_UP, NONE)
}
