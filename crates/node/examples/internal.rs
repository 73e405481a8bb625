//! The `portolan internal` commands of this crate alone, for its tests: `internal pod-init SPEC`,
//! `internal serve ARGS…`.

use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(2).collect();
    let (command, rest) = args
        .split_first()
        .map_or(("", &[][..]), |(command, rest)| (command.to_str().unwrap_or_default(), rest));
    match command {
        "pod-init" => portolan_node::pod_init_main(rest),
        "serve" => portolan_node::serve_main(rest),
        _ => ExitCode::from(2),
    }
}
