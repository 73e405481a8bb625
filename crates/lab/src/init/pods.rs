//! Finds a process in a pod's first container, whose namespaces `shell --pod` enters.
//!
//! A pod's first process keeps its complaints in a file under the pod's directory, by which /proc
//! tells whose it is; its children are the containers, each PID 1 of a namespace of its own.

use std::fs;
use std::path::Path;

use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client};

use crate::error::LabError;

/// The process's number in the lab.
pub(super) async fn container_process(
    client: &Client,
    namespace: &str,
    name: &str,
) -> Result<i32, LabError> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let failed = |source| LabError::Api { what: format!("pod {name}"), source: Box::new(source) };
    let Some(pod) = pods.get_opt(name).await.map_err(failed)? else {
        let all = Api::<Pod>::all(client.clone()).list(&ListParams::default()).await;
        let known = all.map_err(failed)?.items.iter().map(full_name).collect();
        return Err(LabError::NoTarget { kind: "pod", name: format!("{namespace}/{name}"), known });
    };
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    first_process(uid)
        .and_then(first_container)
        .ok_or_else(|| LabError::PodNotRunning { pod: full_name(&pod) })
}

fn full_name(pod: &Pod) -> String {
    let meta = &pod.metadata;
    format!(
        "{}/{}",
        meta.namespace.as_deref().unwrap_or_default(),
        meta.name.as_deref().unwrap_or_default()
    )
}

/// The `pod-init` whose standard error is in this pod's directory.
fn first_process(uid: &str) -> Option<i32> {
    processes().find(|pid| {
        let process = Path::new("/proc").join(pid.to_string());
        let command = fs::read(process.join("cmdline")).unwrap_or_default();
        let is_pod_init = command.split(|byte| *byte == 0).nth(2) == Some(b"pod-init");
        let complaints = fs::read_link(process.join("fd/2")).unwrap_or_default();
        is_pod_init && complaints.iter().any(|part| part == uid)
    })
}

/// The oldest child that is the first process of its PID namespace: a container, not an exec.
fn first_container(parent: i32) -> Option<i32> {
    processes().find(|pid| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.split_whitespace().last()).and_then(|n| n.parse().ok())
        };
        field("PPid:") == Some(parent) && field("NSpid:") == Some(1)
    })
}

/// All processes of the lab, by number, which is nearly by age.
fn processes() -> impl Iterator<Item = i32> {
    let mut pids: Vec<i32> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    pids.sort_unstable();
    pids.into_iter()
}
