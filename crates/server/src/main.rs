//! `stagesub`: the platform's one program.

use std::process::ExitCode;

fn main() -> ExitCode {
    stagesub_server::cli::main(std::env::args_os())
}
