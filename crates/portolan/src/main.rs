//! The `portolan` binary: arguments, wiring and shutdown; the work is in the crates beside it.
//!
//! Nothing here starts a thread before the chosen command says so: `up` clones the lab's first
//! process, `shell` enters a user namespace, and pods' first processes set up their namespaces,
//! all of which the kernel allows to a single thread only.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use portolan_lab::{Attachment, DataDir, LabError, Options, Target};
use tracing_subscriber::EnvFilter;

mod cli;
mod documents;
mod report;
mod watch;

use cli::{Cli, Command, Internal};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // A dozen small processes: the allocator asks for huge pages, which would round each one's
    // few heaps up to several times 2 MiB. Where the kernel does not know this, it costs memory only.
    let _ = nix::sys::prctl::set_thp_disable(true);
    let mut arguments: Vec<OsString> = std::env::args_os().collect();
    match called_as(arguments.first()).as_deref() {
        Some("kube-proxy") => {
            arguments.splice(..1, ["portolan".into(), "proxy".into()]);
        }
        Some("coredns") => {
            arguments.splice(..1, ["portolan".into(), "dns".into()]);
        }
        _ => {}
    }
    if arguments.get(1).is_some_and(|first| first == "dns") {
        arguments = portolan_dns::with_two_dashes(arguments);
    }
    let done = if arguments.get(1).is_some_and(|first| first == "internal") {
        inside(parse(&arguments[1..]))
    } else {
        run(parse::<Cli>(&arguments).command)
    };
    match done {
        Ok(code) => code,
        Err(error) => fail(&error),
    }
}

/// In the lab's pods, as in the images of kube-proxy and CoreDNS, both have names of their own.
fn called_as(name: Option<&OsString>) -> Option<String> {
    let name = Path::new(name?).file_name()?;
    name.to_str().map(str::to_owned)
}

fn parse<P: Parser>(arguments: &[OsString]) -> P {
    P::try_parse_from(arguments).unwrap_or_else(|error| refuse(&error))
}

/// Wrong arguments, or help: clap's words, and where to go from there.
fn refuse(error: &clap::Error) -> ! {
    if error.use_stderr() {
        let _ = error.print();
        let _ = writeln!(
            io::stderr(),
            "hint: `portolan help` lists the commands, `portolan COMMAND --help` their arguments"
        );
        std::process::exit(2);
    }
    error.exit()
}

fn fail(error: &anyhow::Error) -> ExitCode {
    let mut stderr = io::stderr().lock();
    let lab = error.downcast_ref::<LabError>();
    // A closed standard error leaves the exit code to speak.
    let _ = match lab {
        Some(error) => writeln!(stderr, "error: {error}"),
        None => writeln!(stderr, "error: {error:#}"),
    };
    if let Some(hint) = lab.and_then(LabError::hint) {
        let _ = writeln!(stderr, "hint: {hint}");
    }
    match lab {
        Some(error) if error.is_usage() => ExitCode::from(2),
        Some(LabError::Command { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            ExitCode::from(127)
        }
        Some(LabError::Command { .. }) => ExitCode::from(126),
        _ => ExitCode::FAILURE,
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Up(args) => up(args)?,
        Command::Down(args) => {
            let dir = DataDir::locate(args.data_dir.data_dir)?;
            portolan_lab::down(&dir)?;
        }
        Command::Status(args) => {
            let dir = DataDir::locate(args.data_dir.data_dir)?;
            let status = portolan_lab::ask(&dir)?;
            match args.output {
                cli::Output::Text => report::text(&status)?,
                cli::Output::Json => {
                    serde_json::to_writer_pretty(io::stdout(), &status)?;
                    writeln!(io::stdout())?;
                }
            }
        }
        Command::Shell(args) => {
            let dir = DataDir::locate(args.data_dir.data_dir)?;
            let code = portolan_lab::shell(&dir, &target(args.target), &args.command)?;
            return Ok(ExitCode::from(code));
        }
        Command::Proxy(args) => return proxy(*args),
        Command::Dns(args) => return dns(*args),
        Command::Trace(args) => return print(args.run()),
        Command::Diff(args) => return print(args.run()),
        Command::Completions { shell } => documents::completions(shell),
        Command::Man { dir } => documents::man(dir.as_deref())?,
    }
    Ok(ExitCode::SUCCESS)
}

fn up(args: cli::UpArgs) -> Result<(), LabError> {
    let dir = DataDir::locate(args.data_dir.data_dir)?;
    let options = Options {
        nodes: args.nodes,
        proxy_mode: args.proxy_mode.map(|mode| match mode {
            cli::ProxyMode::Iptables => portolan_lab::ProxyMode::Iptables,
            cli::ProxyMode::Nftables => portolan_lab::ProxyMode::Nftables,
        }),
        service_cidr: args.service_cidr,
        cluster_cidr: args.cluster_cidr,
        fabric_cidr: args.fabric_cidr,
        node_port_range: args.node_port_range,
        api_port: args.api_port,
    };
    let attachment = if args.detach { Attachment::Detached } else { Attachment::Foreground };
    portolan_lab::up(&dir, &options, attachment, &mut watch::Watch::new(attachment))
}

fn target(args: cli::TargetArgs) -> Target {
    if args.client {
        return Target::Client;
    }
    if let Some(pod) = args.pod {
        let (namespace, name) = pod.split_once('/').unwrap_or(("default", &pod));
        return Target::Pod { namespace: namespace.into(), name: name.into() };
    }
    Target::Node(args.node.unwrap_or_else(|| "node-1".into()))
}

/// What `trace` and `diff` say.
fn print(printed: portolan_trace::Printed) -> anyhow::Result<ExitCode> {
    for note in &printed.notes {
        writeln!(io::stderr(), "{note}")?;
    }
    io::stdout().write_all(printed.out.as_bytes())?;
    Ok(ExitCode::from(printed.code))
}

fn proxy(args: portolan_proxy::Args) -> anyhow::Result<ExitCode> {
    // One node's rules are one queue of work; a second thread serves health and metrics meanwhile.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    Ok(runtime.block_on(portolan_proxy::run(args.into()))?)
}

fn dns(args: portolan_dns::Args) -> anyhow::Result<ExitCode> {
    // Queries that can be answered at once have threads of their own; these have the rest.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    Ok(runtime.block_on(portolan_dns::run(args))?)
}

fn inside(internal: Internal) -> anyhow::Result<ExitCode> {
    match internal {
        Internal::LabInit => {
            log_to_stderr();
            Ok(portolan_lab::lab_init_main())
        }
        Internal::Node(args) => {
            log_to_stderr();
            Ok(portolan_node::node_main((*args).into())?)
        }
        Internal::PodInit { args } => portolan_node::pod_init_main(&args),
        Internal::Serve { args } => Ok(portolan_node::serve_main(&args)),
    }
}

/// Records at level info, or as RUST_LOG says.
fn log_to_stderr() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
}
