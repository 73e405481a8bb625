//! Small objects for tests.

pub(crate) mod golden;

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::{
    Container, Node, NodeCondition, NodeStatus, Pod, PodCondition, PodIP, PodSpec, PodStatus,
    PodTemplateSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;

pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

pub(crate) fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

pub(crate) fn meta(namespace: &str, name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.into()),
        namespace: (!namespace.is_empty()).then(|| namespace.into()),
        uid: Some(format!("uid-{namespace}-{name}")),
        resource_version: Some("1".into()),
        generation: Some(1),
        creation_timestamp: Some(Time(at(0))),
        ..ObjectMeta::default()
    }
}

pub(crate) fn pod(namespace: &str, name: &str) -> Pod {
    Pod {
        metadata: meta(namespace, name),
        spec: Some(PodSpec {
            containers: vec![Container { name: "c".into(), ..Container::default() }],
            ..PodSpec::default()
        }),
        status: Some(PodStatus { phase: Some("Pending".into()), ..PodStatus::default() }),
    }
}

pub(crate) fn labelled(mut pod: Pod, pairs: &[(&str, &str)]) -> Pod {
    pod.metadata.labels = Some(labels(pairs));
    pod
}

pub(crate) fn on_node(mut pod: Pod, node: &str) -> Pod {
    pod.spec.get_or_insert_default().node_name = Some(node.into());
    pod
}

pub(crate) fn with_ip(mut pod: Pod, ip: &str) -> Pod {
    let status = pod.status.get_or_insert_default();
    status.pod_ip = Some(ip.into());
    status.pod_ips = Some(vec![PodIP { ip: ip.into() }]);
    pod
}

pub(crate) fn terminating(mut pod: Pod) -> Pod {
    pod.metadata.deletion_timestamp = Some(Time(at(1)));
    pod
}

/// Running, and ready since a second.
pub(crate) fn ready(pod: Pod, since: i64) -> Pod {
    readiness(pod, "True", since)
}

pub(crate) fn unready(pod: Pod) -> Pod {
    readiness(pod, "False", 0)
}

fn readiness(mut pod: Pod, value: &str, since: i64) -> Pod {
    let status = pod.status.get_or_insert_default();
    status.phase = Some("Running".into());
    status.conditions = Some(vec![PodCondition {
        type_: "Ready".into(),
        status: value.into(),
        last_transition_time: Some(Time(at(since))),
        ..PodCondition::default()
    }]);
    pod
}

pub(crate) fn template(image: &str) -> PodTemplateSpec {
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(labels(&[("app", "web")])),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            containers: vec![Container {
                name: "c".into(),
                image: Some(image.into()),
                ..Container::default()
            }],
            ..PodSpec::default()
        }),
    }
}

pub(crate) fn replica_set(namespace: &str, name: &str, replicas: i32) -> ReplicaSet {
    ReplicaSet {
        metadata: meta(namespace, name),
        spec: Some(ReplicaSetSpec {
            replicas: Some(replicas),
            selector: LabelSelector {
                match_labels: Some(labels(&[("app", "web")])),
                match_expressions: None,
            },
            template: Some(template("v1")),
            min_ready_seconds: None,
        }),
        status: None,
    }
}

pub(crate) fn node(name: &str) -> Node {
    Node {
        metadata: meta("", name),
        spec: None,
        status: Some(NodeStatus {
            conditions: Some(vec![NodeCondition {
                type_: "Ready".into(),
                status: "True".into(),
                ..NodeCondition::default()
            }]),
            ..NodeStatus::default()
        }),
    }
}
