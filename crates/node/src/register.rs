//! The Node object and its Lease: registration, status, heartbeat.
//!
//! Upstream rule: kubelet's nodestatus and node lease controllers. The Lease is renewed every
//! 10 s; the status is written when it changes and every 5 min.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{
    DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeStatus,
    NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference, Time};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};

use crate::NodeOptions;

const LEASE_NAMESPACE: &str = "kube-node-lease";
/// How long a Lease holds.
const LEASE_SECONDS: i32 = 40;
const RENEW: Duration = Duration::from_secs(10);
const REPORT: Duration = Duration::from_secs(300);
/// When a renewal or a report that failed is tried again.
const SOON: Duration = Duration::from_secs(1);
/// The version that this node speaks the API of.
const VERSION: &str = "v1.36.0";

/// What the node has.
pub(crate) fn capacity(options: &NodeOptions) -> BTreeMap<String, Quantity> {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = memory.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let memory = memory.and_then(|rest| rest.trim().strip_suffix("kB"));
    let memory = memory.map_or("1048576", str::trim);
    let disk = rustix::fs::statvfs(&options.state_dir);
    let disk = disk.map_or(0, |disk| disk.f_blocks.saturating_mul(disk.f_frsize) / 1024);
    [
        ("cpu", cpus.to_string()),
        ("memory", format!("{memory}Ki")),
        ("ephemeral-storage", format!("{disk}Ki")),
        ("pods", options.max_pods.to_string()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), Quantity(value)))
    .collect()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn system_info(options: &NodeOptions) -> NodeSystemInfo {
    let uname = rustix::system::uname();
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let pretty = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    NodeSystemInfo {
        architecture: architecture().to_owned(),
        boot_id: read("/proc/sys/kernel/random/boot_id"),
        container_runtime_version: format!("portolan://{}", env!("CARGO_PKG_VERSION")),
        kernel_version: uname.release().to_string_lossy().into_owned(),
        kube_proxy_version: String::new(),
        kubelet_version: VERSION.to_owned(),
        machine_id: read("/etc/machine-id"),
        operating_system: "linux".to_owned(),
        os_image: pretty.unwrap_or("Linux").trim_matches('"').to_owned(),
        // Of this node alone, unlike the machine's.
        system_uuid: options.name.clone(),
        ..NodeSystemInfo::default()
    }
}

fn labels(options: &NodeOptions) -> BTreeMap<String, String> {
    let mut labels: BTreeMap<String, String> = [
        ("kubernetes.io/hostname", options.name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", architecture()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect();
    labels.extend(options.labels.clone());
    labels
}

fn conditions(old: &[NodeCondition], now: Timestamp) -> Vec<NodeCondition> {
    [
        (
            "MemoryPressure",
            "False",
            "KubeletHasSufficientMemory",
            "kubelet has sufficient memory available",
        ),
        ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
    ]
    .into_iter()
    .map(|(type_, status, reason, message)| {
        let before = old.iter().find(|old| old.type_ == type_ && old.status == status);
        let since = before.and_then(|old| old.last_transition_time.clone());
        NodeCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_heartbeat_time: Some(Time(now)),
            last_transition_time: Some(since.unwrap_or(Time(now))),
        }
    })
    .collect()
}

fn status(options: &NodeOptions, old: &[NodeCondition]) -> NodeStatus {
    let address = |type_: &str, address: String| NodeAddress { type_: type_.to_owned(), address };
    let capacity = capacity(options);
    NodeStatus {
        addresses: Some(
            options
                .node_ips
                .iter()
                .map(|ip| address("InternalIP", ip.to_string()))
                .chain([address("Hostname", options.name.clone())])
                .collect(),
        ),
        allocatable: Some(capacity.clone()),
        capacity: Some(capacity),
        conditions: Some(conditions(old, Timestamp::now())),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(options.port) }),
        }),
        node_info: Some(system_info(options)),
        ..NodeStatus::default()
    }
}

/// Creates the Node, or takes the one that is there, and makes it Ready. Tries until it is done.
pub(crate) async fn register(client: &kube::Client, options: &NodeOptions) -> Node {
    let api: Api<Node> = Api::all(client.clone());
    let mut wait = Duration::from_millis(20);
    loop {
        match try_register(&api, options).await {
            Ok(node) => return node,
            Err(error) => {
                tracing::warn!("cannot register the node: {error}");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(Duration::from_secs(5));
            }
        }
    }
}

async fn try_register(api: &Api<Node>, options: &NodeOptions) -> Result<Node, kube::Error> {
    let node = Node {
        metadata: ObjectMeta {
            name: Some(options.name.clone()),
            labels: Some(labels(options)),
            ..ObjectMeta::default()
        },
        status: Some(status(options, &[])),
        ..Node::default()
    };
    match api.create(&PostParams::default(), &node).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 409 => {
            let patch = serde_json::json!({ "metadata": { "labels": labels(options) } });
            let patch = Patch::Merge(patch);
            api.patch(&options.name, &PatchParams::default(), &patch).await?;
        }
        Err(error) => return Err(error),
    }
    // A create drops the status of a kind that has it as a subresource.
    report(api, options).await
}

async fn report(api: &Api<Node>, options: &NodeOptions) -> Result<Node, kube::Error> {
    let node = api.get(&options.name).await?;
    let old = node.status.and_then(|status| status.conditions).unwrap_or_default();
    let status = status(options, &old);
    let mut conditions = status.conditions.clone().unwrap_or_default();
    let known: Vec<_> = conditions.iter().map(|one| one.type_.clone()).collect();
    conditions.extend(old.into_iter().filter(|one| !known.contains(&one.type_)));
    let status = NodeStatus { conditions: Some(conditions), ..status };
    let patch = Patch::Merge(serde_json::json!({ "status": status }));
    api.patch_status(&options.name, &PatchParams::default(), &patch).await
}

/// Whether the API server holds a node for ready.
pub(crate) fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|one| one.type_ == "Ready" && one.status == "True")
}

/// Renews the Lease and the status for as long as the agent lives; the status at once when
/// somebody holds the node for lost, as the node lifecycle controller does after a pause.
pub(crate) async fn heartbeat(node: &crate::node::Node, node_uid: String) {
    let options = &node.options;
    let leases: Api<Lease> = Api::namespaced(node.client.clone(), LEASE_NAMESPACE);
    let nodes: Api<Node> = Api::all(node.client.clone());
    let mut lease = tokio::time::interval(RENEW);
    lease.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut status = tokio::time::interval_at(tokio::time::Instant::now() + REPORT, REPORT);
    status.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = lease.tick() => {
                if let Err(error) = renew(&leases, options, &node_uid).await {
                    tracing::warn!("cannot renew the node's lease: {error}");
                    // Sooner than the next turn: the node counts as lost after four.
                    lease.reset_after(SOON);
                }
                continue;
            }
            _ = status.tick() => {}
            () = node.doubted.notified() => {}
        }
        let reported = match report(&nodes, options).await {
            // Somebody deleted it; an agent that lives has a Node.
            Err(kube::Error::Api(refusal)) if refusal.code == 404 => {
                try_register(&nodes, options).await
            }
            reported => reported,
        };
        match reported {
            Ok(_) => status.reset(),
            Err(error) => {
                tracing::warn!("cannot report the node's status: {error}");
                status.reset_after(SOON);
            }
        }
    }
}

async fn renew(api: &Api<Lease>, options: &NodeOptions, node_uid: &str) -> Result<(), kube::Error> {
    let spec = LeaseSpec {
        holder_identity: Some(options.name.clone()),
        lease_duration_seconds: Some(LEASE_SECONDS),
        renew_time: Some(MicroTime(Timestamp::now())),
        ..LeaseSpec::default()
    };
    let patch = Patch::Merge(serde_json::json!({ "spec": spec }));
    match api.patch(&options.name, &PatchParams::default(), &patch).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        other => return other.map(|_| ()),
    }
    let owner = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: options.name.clone(),
        uid: node_uid.to_owned(),
        ..OwnerReference::default()
    };
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(options.name.clone()),
            namespace: Some(LEASE_NAMESPACE.to_owned()),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(spec),
    };
    api.create(&PostParams::default(), &lease).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_ready_by_its_ready_condition_alone() {
        let node = |status: &str| Node {
            status: Some(NodeStatus {
                conditions: Some(vec![NodeCondition {
                    type_: "Ready".to_owned(),
                    status: status.to_owned(),
                    ..NodeCondition::default()
                }]),
                ..NodeStatus::default()
            }),
            ..Node::default()
        };
        assert!(is_ready(&node("True")));
        assert!(!is_ready(&node("Unknown")));
        assert!(!is_ready(&Node::default()));
    }

    #[test]
    fn a_condition_keeps_its_transition_time_while_it_holds() {
        let time = |seconds| Timestamp::from_second(seconds).unwrap();
        let first = conditions(&[], time(10));
        let second = conditions(&first, time(20));
        let ready = second.iter().find(|one| one.type_ == "Ready").unwrap();
        assert_eq!(ready.last_transition_time, Some(Time(time(10))));
        assert_eq!(ready.last_heartbeat_time, Some(Time(time(20))));
    }
}
