//! The project's own tasks, called as `cargo xtask <task>`.
//!
//! `arch` holds the workspace to the picture in ARCHITECTURE.md; `bench` measures what a user waits
//! for, on a release build, in network namespaces of its own; `vm` runs tests in another kernel.

mod arch;
mod bench;
mod vm;

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
    /// Run tests in a kernel that has what this one lacks.
    Vm(vm::Options),
    /// Show a guest this machine's files, to be read only.
    #[command(hide = true)]
    VmShare(vm::ShareOptions),
}

fn main() -> ExitCode {
    if let Some(dir) = vm::is_guest() {
        vm::run_guest(&dir);
    }
    let done = match Cli::parse().task {
        Task::Arch => arch::check().map(|()| ExitCode::SUCCESS),
        Task::Bench(options) => bench::run(&options).map(|()| ExitCode::SUCCESS),
        Task::Vm(options) => vm::run(&options),
        Task::VmShare(options) => vm::share(&options).map(|()| ExitCode::SUCCESS),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
