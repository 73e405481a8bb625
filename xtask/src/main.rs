//! The project's own tasks, called as `cargo xtask <task>`.
//!
//! `arch` holds the workspace to the picture in ARCHITECTURE.md; `bench` measures what a user waits
//! for, on a release build, in network namespaces of its own.

mod arch;
mod bench;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The project's own tasks")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Check that the arrows between the crates point down.
    Arch,
    /// Measure cold start, memory, and the time from a Service to its first answer.
    Bench(bench::Options),
}

fn main() -> ExitCode {
    let done = match Cli::parse().task {
        Task::Arch => arch::check(),
        Task::Bench(options) => bench::run(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
