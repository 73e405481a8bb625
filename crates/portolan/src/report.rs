//! `portolan status` for people: what runs, where, and since when.

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};

use comfy_table::Table;
use comfy_table::presets;
use portolan_lab::status::{ComponentState, LabState, Status};

/// Prints a status as text.
pub(crate) fn text(status: &Status) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let state = match (status.state, status.ready_after_millis) {
        (LabState::Starting, _) => "starting".to_owned(),
        (LabState::Running, Some(millis)) => format!("running, ready after {millis} ms"),
        (LabState::Running, None) => "running".to_owned(),
        (LabState::Stopping, _) => "stopping".to_owned(),
    };
    let pods = &status.pods;
    for (name, value) in [
        ("Lab", format!("{state} (process {}, since {})", status.pid, status.started_at)),
        ("Data", status.data_dir.display().to_string()),
        ("Kubeconfig", status.kubeconfig.display().to_string()),
        ("API server", format!("{}, inside {}", status.server, status.server_in_lab)),
        ("Services", status.service_cidrs.join(", ")),
        (
            "Pods",
            format!("{}, {} of {} ready", status.cluster_cidrs.join(", "), pods.ready, pods.total),
        ),
        (
            "Fabric",
            format!(
                "{}, client {}",
                status.fabric_cidrs.join(", "),
                status.client_addresses.join(", ")
            ),
        ),
    ] {
        writeln!(out, "{name:<12}{value}")?;
    }
    let mut nodes = table(&["NODE", "READY", "ADDRESS", "PODS", "ZONE"]);
    for node in &status.nodes {
        let ready = if node.ready { "yes" } else { "no" };
        let pods = match node.pod_cidrs.as_slice() {
            [] => "-".to_owned(),
            some => some.join("\n"),
        };
        nodes.add_row([&node.name, ready, &node.addresses.join("\n"), &pods, &node.zone]);
    }
    writeln!(out, "\n{nodes}")?;
    if !status.published.is_empty() {
        let mut ports = table(&["ON THE HOST", "SERVICE", "STATE"]);
        for port in &status.published {
            let host = match port.address.parse::<IpAddr>() {
                Ok(address) => SocketAddr::new(address, port.port).to_string(),
                Err(_) => format!("{}:{}", port.address, port.port),
            };
            let address = format!("{host}/{}", port.protocol);
            let state = match &port.error {
                None => "answers".to_owned(),
                Some(error) => format!("not published: {error}"),
            };
            ports.add_row([&address, &port.service, &state]);
        }
        writeln!(out, "\n{ports}")?;
    }
    let mut parts = table(&["PART", "STATE", "TOOK", "RESTARTS", ""]);
    for part in &status.components {
        let state = match part.state {
            ComponentState::Starting => "starting",
            ComponentState::Ready => "ready",
            ComponentState::Restarting => "restarting",
            ComponentState::Stopped => "stopped",
        };
        let took = part.ready_after_millis.map_or("-".to_owned(), |millis| format!("{millis} ms"));
        parts.add_row([&part.name, state, &took, &part.restarts.to_string(), &part.detail]);
    }
    writeln!(out, "\n{parts}")
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.iter().copied());
    table
}
