//! Command lines as a person writes them.

use clap::Parser;
use portolan_trace::{DiffArgs, Printed, TraceArgs};

#[derive(Parser)]
enum Command {
    Trace(Box<TraceArgs>),
    Diff(Box<DiffArgs>),
}

/// Runs a command line, the program's name left out.
pub(crate) fn ask<W: AsRef<str>>(words: impl IntoIterator<Item = W>) -> Printed {
    let words = words.into_iter().map(|word| word.as_ref().to_owned()).collect::<Vec<_>>();
    let command = Command::try_parse_from(std::iter::once("portolan".to_owned()).chain(words));
    match command.unwrap_or_else(|e| panic!("{e}")) {
        Command::Trace(args) => args.run(),
        Command::Diff(args) => args.run(),
    }
}
