//! `stagesub`: the platform's one program.

use std::process::ExitCode;

use tikv_jemallocator::Jemalloc;

/// Gives memory back that is not used any more. The system's own keeps the 19 MiB of a password's hash, once for each
/// thread that ever made one: docs/performance.md has the figures.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    stagesub_server::cli::main(std::env::args_os())
}
