//! The README's promises: its commands are run as they stand, and what comes out is what it shows.
//!
//! Only `cargo run -q -p helpdesk` becomes the program that this test was built with, and its port one that is free.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

const README: &str = include_str!("../README.md");
const MAIN: &str = include_str!("../src/main.rs");
const ROUTES: &str = include_str!("../src/routes.rs");

/// How the README starts the program.
const RUN: &str = "cargo run -q -p helpdesk";
/// Where it says that the program listens.
const PORT: &str = ":8090";

/// A command of the README, and the lines that it shows below it.
struct Shown {
    command: String,
    output: String,
}

fn shown() -> Vec<Shown> {
    let mut all = Vec::new();
    for block in README.split("```").skip(1).step_by(2) {
        let Some((command, output)) =
            block.trim_start_matches('\n').strip_prefix("$ ").and_then(|text| text.split_once('\n'))
        else {
            continue;
        };
        all.push(Shown { command: command.to_owned(), output: output.to_owned() });
    }
    all
}

/// A command in a shell, in an environment that names no database.
fn shell(command: &str) -> Command {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_helpdesk"));
    let command = command.replace(&format!("{RUN} --"), "\"$HELPDESK\"").replace(RUN, "exec \"$HELPDESK\"");
    let mut shell = Command::new("bash");
    shell
        .args(["-c", &format!("set -o pipefail; {command}")])
        .env("HELPDESK", program)
        .env("HELPDESK_LISTEN", "127.0.0.1:0")
        .env_remove("DATABASE_URL");
    shell
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).expect("it writes text")
}

/// A server that runs; told to stop when the test ends, however that is, so that its Postgres goes with it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let pid = self.0.id().to_string();
        let told = Command::new("kill").args(["-INT", &pid]).status();
        if told.is_ok_and(|status| status.success()) {
            let _ = self.0.wait();
        } else {
            let _ = self.0.kill();
        }
    }
}

#[test]
fn the_readmes_commands_do_what_they_show() {
    let commands = shown();
    let [serve, ask, attack] = commands.as_slice() else {
        panic!("from nothing to an isolated query in at most 3 commands, and not {}", commands.len());
    };

    assert_eq!(serve.command, RUN);
    let mut server = Running(shell(&serve.command).stdout(Stdio::piped()).spawn().expect("it starts"));
    let out = server.0.stdout.take().expect("its output is read");
    let lines: Vec<String> = BufReader::new(out)
        .lines()
        .take(serve.output.lines().count())
        .map(|line| line.expect("it writes text"))
        .collect();
    let said = lines.join("\n");
    let port =
        said.split("localhost:").nth(1).and_then(|rest| rest.split('/').next()).expect("it says where it is");
    let here = format!(":{port}");
    assert_eq!(said.replace(&here, PORT), serve.output.trim_end());

    let asked = shell(&ask.command.replace(PORT, &here)).output().expect("it is asked");
    assert_eq!(text(&asked).trim_end(), ask.output.trim_end());
    drop(server);

    assert_eq!(attack.command, format!("{RUN} -- attack"));
    let attacked = shell(&attack.command).output().expect("it runs");
    assert_eq!(text(&attacked), attack.output);
}

#[test]
fn six_lines_are_all_the_tenancy_there_is_to_one_isolated_query() {
    // What comes from the two crates, where it is used.
    const WORDS: [&str; 9] = [
        "Service::",
        "ServiceOptions",
        "TenantLayer",
        "TenantDb",
        "TenantScope",
        "ensure_tenant",
        "desk.db()",
        ".begin(",
        ".commit(",
    ];
    let lines: Vec<&str> = MAIN.lines().collect();
    let mut marked = Vec::new();
    for (place, line) in lines.iter().enumerate() {
        let comment = line.trim_start().starts_with("//");
        let uses = WORDS.iter().any(|word| line.contains(word));
        if comment || !uses || line.starts_with("use ") {
            continue;
        }
        // A line that opens a function has its mark above it.
        let above = place.checked_sub(1).map_or("", |above| lines[above]);
        let mark = [*line, above].into_iter().find_map(|line| line.split_once("// tenancy: "));
        let (_, mark) = mark.unwrap_or_else(|| panic!("a line of tenancy code that is not counted: {line}"));
        let mark: u32 =
            mark.chars().take_while(char::is_ascii_digit).collect::<String>().parse().expect("a number");
        marked.push(mark);
        assert!(README.contains(line.trim()), "the README does not show: {line}");
    }
    assert_eq!(marked, [1, 2, 3, 4, 5, 6]);
    assert!(
        ROUTES.contains("SELECT id, subject FROM helpdesk.ticket\""),
        "the attack has a query that forgot WHERE"
    );
}

/// The example takes the layer as a stranger would: nothing of an orchestra comes with it.
#[test]
fn it_depends_on_the_two_crates_alone() {
    let manifest = include_str!("../Cargo.toml");
    let ours: Vec<&str> = manifest.lines().filter(|line| line.starts_with("stagesub-")).collect();
    assert_eq!(
        ours,
        [
            "stagesub-storage.workspace = true",
            "stagesub-tenancy = { workspace = true, features = [\"axum\"] }"
        ]
    );
    let workspace = include_str!("../../../Cargo.toml");
    assert!(workspace.contains("stagesub-storage = { path = \"crates/storage\", default-features = false }"));
}
