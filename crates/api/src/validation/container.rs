//! Containers (upstream: validateContainerCommon and what it calls).

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::causes::{Causes, Path};
use super::{formats, probe};
use crate::fields::Fields;
use crate::schema::quantity;

const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const PULL_POLICIES: [&str; 3] = ["Always", "IfNotPresent", "Never"];
const MESSAGE_POLICIES: [&str; 2] = ["FallbackToLogsOnError", "File"];

/// What a container has to fit in with.
pub(super) struct Context<'a> {
    /// Names of the pod's volumes.
    pub(super) volumes: &'a HashSet<&'a str>,
    pub(super) host_network: bool,
    pub(super) grace_period: i64,
}

/// Which list a container stands in, which decides on probes and hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Main,
    Init,
    Sidecar,
}

pub(super) fn validate(
    causes: &mut Causes,
    path: &Path<'_>,
    container: &Value,
    context: &Context<'_>,
    role: Role,
) {
    match container.text("name") {
        "" => causes.required(&path.child("name"), ""),
        name => causes.all(&path.child("name"), name, formats::dns_label(name)),
    }
    match container.text("image") {
        "" => causes.required(&path.child("image"), ""),
        image if image.trim() != image => {
            let message = "must not have leading or trailing whitespace";
            causes.invalid(&path.child("image"), image, message);
        }
        _ => {}
    }
    let policy = container.text("terminationMessagePolicy");
    causes.one_of(&path.child("terminationMessagePolicy"), policy, &MESSAGE_POLICIES);
    ports(causes, &path.child("ports"), container, context.host_network);
    environment(causes, path, container);
    mounts(causes, &path.child("volumeMounts"), container, context.volumes);
    let policy = container.text("imagePullPolicy");
    causes.one_of(&path.child("imagePullPolicy"), policy, &PULL_POLICIES);
    resources(causes, &path.child("resources"), &container["resources"]);
    if role == Role::Init {
        for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
            if container.has(field) {
                let message = "may not be set for init containers without restartPolicy=Always";
                causes.forbidden(&path.child(field), message);
            }
        }
    } else {
        probe::probes(causes, path, container);
        probe::hooks(
            causes,
            &path.child("lifecycle"),
            &container["lifecycle"],
            context.grace_period,
        );
    }
}

fn ports(causes: &mut Causes, path: &Path<'_>, container: &Value, host_network: bool) {
    let mut names = HashSet::new();
    let mut host_ports = HashSet::new();
    for (index, port) in container.items("ports").iter().enumerate() {
        let path = path.index(index);
        let (name, number) = (port.text("name"), port.number("containerPort"));
        if !name.is_empty() {
            let messages = formats::port_name(name);
            let fine = messages.is_empty();
            causes.all(&path.child("name"), name, messages);
            if fine && !names.insert(name) {
                causes.duplicate(&path.child("name"), name);
            }
        }
        match number {
            0 => causes.required(&path.child("containerPort"), ""),
            number => causes.port_number(&path.child("containerPort"), number),
        }
        let host_port = port.number("hostPort");
        if host_port != 0 {
            causes.port_number(&path.child("hostPort"), host_port);
            if !host_ports.insert((port.text("protocol"), port.text("hostIP"), host_port)) {
                causes.duplicate(&path.child("hostPort"), host_port);
            }
        }
        if host_network && host_port != number && host_port != 0 {
            let message = "must match `containerPort` when `hostNetwork` is true";
            causes.invalid(&path.child("hostPort"), host_port, message);
        }
        causes.one_of(&path.child("protocol"), port.text("protocol"), &PROTOCOLS);
    }
}

fn environment(causes: &mut Causes, path: &Path<'_>, container: &Value) {
    let list = path.child("env");
    for (index, variable) in container.items("env").iter().enumerate() {
        let path = list.index(index);
        match variable.text("name") {
            "" => causes.required(&path.child("name"), ""),
            name => causes.all(&path.child("name"), name, formats::env_var_name(name)),
        }
        if variable.has("valueFrom") {
            value_from(causes, &path.child("valueFrom"), variable);
        }
    }
    let list = path.child("envFrom");
    for (index, source) in container.items("envFrom").iter().enumerate() {
        let path = list.index(index);
        let sources = ["configMapRef", "secretRef"].map(|field| (field, source.has(field)));
        match sources.iter().filter(|(_, given)| *given).count() {
            0 => causes.invalid(&path, "", "must specify one of: `configMapRef` or `secretRef`"),
            1 => {}
            _ => causes.invalid(&path, "", "may not have more than one field specified at a time"),
        }
        for (field, _) in sources.iter().filter(|(_, given)| *given) {
            if source[*field].text("name").is_empty() {
                causes.required(&path.child(field).child("name"), "");
            }
        }
    }
}

fn value_from(causes: &mut Causes, path: &Path<'_>, variable: &Value) {
    const SOURCES: [&str; 5] =
        ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"];
    let source = &variable["valueFrom"];
    let given: Vec<&str> = SOURCES.into_iter().filter(|field| source.has(field)).collect();
    if !variable.text("value").is_empty() {
        causes.invalid(path, "", "may not be specified when `value` is not empty");
    }
    match given.as_slice() {
        [] => causes.invalid(
            path,
            "",
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, \
             `secretKeyRef` or `fileKeyRef`",
        ),
        [_] => {}
        _ => causes.invalid(path, "", "may not have more than one field specified at a time"),
    }
    for field in given {
        let (path, reference) = (path.child(field), &source[field]);
        match field {
            "fieldRef" => field_path(causes, &path, reference.text("fieldPath"), ENV_FIELDS),
            "configMapKeyRef" | "secretKeyRef" => {
                if reference.text("name").is_empty() {
                    causes.required(&path.child("name"), "");
                }
                match reference.text("key") {
                    "" => causes.required(&path.child("key"), ""),
                    key => causes.all(&path.child("key"), key, formats::config_map_key(key)),
                }
            }
            "resourceFieldRef" if reference.text("resource").is_empty() => {
                causes.required(&path.child("resource"), "");
            }
            _ => {}
        }
    }
}

const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// The downward API's fields; `metadata.labels['x']` and `metadata.annotations['x']` always work.
pub(super) fn field_path(causes: &mut Causes, path: &Path<'_>, field: &str, supported: &[&str]) {
    let path = path.child("fieldPath");
    let subscripted = ["metadata.labels['", "metadata.annotations['"]
        .iter()
        .any(|start| field.starts_with(start) && field.ends_with("']"));
    if field.is_empty() {
        causes.required(&path, "");
    } else if !subscripted {
        causes.one_of_or_empty(&path, field, supported);
    }
}

fn mounts(causes: &mut Causes, path: &Path<'_>, container: &Value, volumes: &HashSet<&str>) {
    let mut paths = HashSet::new();
    for (index, mount) in container.items("volumeMounts").iter().enumerate() {
        let path = path.index(index);
        let (name, at) = (mount.text("name"), mount.text("mountPath"));
        if name.is_empty() {
            causes.required(&path.child("name"), "");
        }
        if !volumes.contains(name) {
            causes.not_found(&path.child("name"), name);
        }
        if at.is_empty() {
            causes.required(&path.child("mountPath"), "");
        }
        if !paths.insert(at) {
            causes.invalid(&path.child("mountPath"), at, "must be unique");
        }
        for field in ["subPath", "subPathExpr"] {
            relative_path(causes, &path.child(field), mount.text(field));
        }
        if !mount.text("subPath").is_empty() && !mount.text("subPathExpr").is_empty() {
            let message = "subPathExpr and subPath are mutually exclusive";
            causes.invalid(&path.child("subPathExpr"), mount.text("subPathExpr"), message);
        }
    }
}

/// A path that stays below where it starts.
pub(super) fn relative_path(causes: &mut Causes, path: &Path<'_>, text: &str) {
    if text.starts_with('/') {
        causes.invalid(path, text, "must be a relative path");
    }
    if text.split('/').any(|part| part == "..") {
        causes.invalid(path, text, "must not contain '..'");
    }
}

fn resources(causes: &mut Causes, path: &Path<'_>, resources: &Value) {
    let parsed = |field: &str| -> HashMap<String, i128> {
        resources
            .entries(field)
            .filter_map(|(name, text)| {
                let quantity = quantity::parse(text.as_str()?).ok()?;
                Some((name.clone(), quantity.nanos))
            })
            .collect()
    };
    let limits = parsed("limits");
    for field in ["limits", "requests"] {
        let list = path.child(field);
        for (name, quantity) in resources.entries(field) {
            causes.all(&list, name, formats::qualified_name(name));
            if parsed(field).get(name).is_some_and(|nanos| *nanos < 0) {
                causes.invalid(&list.key(name), quantity.clone(), formats::NEGATIVE);
            }
        }
    }
    for (name, request) in parsed("requests") {
        if limits.get(&name).is_some_and(|limit| request > *limit) {
            let limit = resources["limits"].text(&name);
            let message = format!("must be less than or equal to {name} limit of {limit}");
            let request = resources["requests"].text(&name);
            causes.invalid(&path.child("requests"), request, &message);
        }
    }
}
