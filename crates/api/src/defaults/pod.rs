//! Defaults of Pods and of the pod specs within workloads. What upstream fills in only for real
//! Pods (requests from limits, host ports, admission) is in [`pod`], the rest in [`pod_spec`].

use serde_json::{Value, json};

use super::default_tolerations;
use crate::fields::{Fields, empty};

const CONTAINERS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];
/// 0644
const FILE_MODE: i64 = 420;

pub(super) fn pod(pod: &mut Value) {
    let Some(spec) = pod.object_mut("spec") else { return };
    pod_spec(spec);
    for list in &CONTAINERS[..2] {
        spec.items_mut(list).iter_mut().for_each(requests_from_limits);
    }
    spec.default_absent("enableServiceLinks", true);
    if spec.is("hostNetwork") {
        for list in &CONTAINERS[..2] {
            for port in spec.items_mut(list).iter_mut().flat_map(|c| c.items_mut("ports")) {
                let number = port.number("containerPort");
                port.default_to("hostPort", number);
            }
        }
    }
    admit(spec);
    pod.default_absent("status", empty());
    if let Some(status) = pod.object_mut("status") {
        status.default_to("phase", "Pending");
    }
}

/// What the admission plugins ServiceAccount, Priority and DefaultTolerationSeconds write.
fn admit(spec: &mut Value) {
    let account = [spec.text("serviceAccountName"), spec.text("serviceAccount"), "default"]
        .into_iter()
        .find(|name| !name.is_empty())
        .map(str::to_owned);
    spec.set("serviceAccountName", account.clone());
    spec.set("serviceAccount", account);
    let priority: i64 = match spec.text("priorityClassName") {
        "system-node-critical" => 2_000_001_000,
        "system-cluster-critical" => 2_000_000_000,
        _ => 0,
    };
    spec.default_absent("priority", priority);
    spec.default_to("preemptionPolicy", "PreemptLowerPriority");

    let tolerated = |spec: &Value, wanted: &Value| {
        spec.items("tolerations").iter().any(|toleration| {
            let (key, effect) = (toleration.text("key"), toleration.text("effect"));
            (key == wanted.text("key") || key.is_empty())
                && (effect == "NoExecute" || effect.is_empty())
        })
    };
    for toleration in default_tolerations() {
        if !tolerated(spec, &toleration) {
            let mut all = spec.items("tolerations").to_vec();
            all.push(toleration);
            spec.set("tolerations", all);
        }
    }
}

pub(super) fn pod_spec(spec: &mut Value) {
    spec.default_to("dnsPolicy", "ClusterFirst");
    spec.default_to("restartPolicy", "Always");
    spec.default_absent("securityContext", empty());
    spec.default_absent("terminationGracePeriodSeconds", 30);
    spec.default_to("schedulerName", "default-scheduler");
    // The deprecated twin is written by upstream's conversion, whichever of the two was given.
    for (from, to) in
        [("serviceAccountName", "serviceAccount"), ("serviceAccount", "serviceAccountName")]
    {
        let name = spec.text(from).to_owned();
        if !name.is_empty() {
            spec.default_to(to, name);
        }
    }
    for list in CONTAINERS {
        spec.items_mut(list).iter_mut().for_each(container);
    }
    spec.items_mut("volumes").iter_mut().for_each(volume);
}

fn container(container: &mut Value) {
    let policy =
        if tag_of(container.text("image")) == "latest" { "Always" } else { "IfNotPresent" };
    container.default_to("imagePullPolicy", policy);
    container.default_to("terminationMessagePath", "/dev/termination-log");
    container.default_to("terminationMessagePolicy", "File");
    container.default_absent("resources", empty());
    for port in container.items_mut("ports") {
        port.default_to("protocol", "TCP");
    }
    for variable in container.items_mut("env") {
        if let Some(reference) = variable.get_mut("valueFrom").and_then(|v| v.get_mut("fieldRef")) {
            reference.default_to("apiVersion", "v1");
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get_mut(name) {
            probe.default_to("timeoutSeconds", 1);
            probe.default_to("periodSeconds", 10);
            probe.default_to("successThreshold", 1);
            probe.default_to("failureThreshold", 3);
            action(probe);
        }
    }
    for hook in ["postStart", "preStop"] {
        if let Some(hook) = container.get_mut("lifecycle").and_then(|l| l.get_mut(hook)) {
            action(hook);
        }
    }
}

fn action(handler: &mut Value) {
    if let Some(get) = handler.get_mut("httpGet") {
        get.default_to("path", "/");
        get.default_to("scheme", "HTTP");
    }
    if let Some(grpc) = handler.get_mut("grpc") {
        grpc.default_absent("service", "");
    }
}

fn volume(volume: &mut Value) {
    if volume.as_object().is_some_and(|fields| fields.keys().all(|field| field == "name")) {
        volume.set("emptyDir", empty());
    }
    for source in ["configMap", "secret", "downwardAPI", "projected"] {
        if let Some(source) = volume.get_mut(source) {
            source.default_absent("defaultMode", FILE_MODE);
        }
    }
    if let Some(path) = volume.get_mut("hostPath") {
        path.default_absent("type", "");
    }
    if let Some(own) = volume.get_mut("downwardAPI") {
        downward_items(own);
    }
    if let Some(projected) = volume.get_mut("projected") {
        for source in projected.items_mut("sources") {
            if let Some(token) = source.get_mut("serviceAccountToken") {
                token.default_absent("expirationSeconds", 3600);
            }
            if let Some(own) = source.get_mut("downwardAPI") {
                downward_items(own);
            }
        }
    }
}

fn downward_items(source: &mut Value) {
    for item in source.items_mut("items") {
        if let Some(reference) = item.get_mut("fieldRef") {
            reference.default_to("apiVersion", "v1");
        }
    }
}

fn requests_from_limits(container: &mut Value) {
    let Some(Value::Object(limits)) = container["resources"].get("limits").cloned() else { return };
    let resources = container.object_mut("resources");
    let Some(requests) = resources.and_then(|r| r.object_mut("requests")) else { return };
    for (name, limit) in limits {
        requests.default_absent(&name, limit);
    }
}

/// The tag of an image; `latest` when neither tag nor digest is given.
fn tag_of(image: &str) -> &str {
    if let Some((before, _)) = image.split_once('@') {
        return explicit_tag(before).unwrap_or_default();
    }
    explicit_tag(image).unwrap_or("latest")
}

/// A colon after the last slash begins a tag, one before it a registry's port.
fn explicit_tag(image: &str) -> Option<&str> {
    let name = image.rsplit('/').next().unwrap_or(image);
    name.split_once(':').map(|(_, tag)| tag)
}

/// The template of a workload.
pub(super) fn template(owner: &mut Value) {
    let template = owner.object_mut("spec").and_then(|spec| spec.object_mut("template"));
    let Some(template) = template else { return };
    template.default_absent("metadata", json!({}));
    if let Some(spec) = template.object_mut("spec") {
        pod_spec(spec);
    }
}

/// A PodTemplate, whose template is not below `spec`.
pub(super) fn pod_template(object: &mut Value) {
    let Some(template) = object.object_mut("template") else { return };
    template.default_absent("metadata", json!({}));
    if let Some(spec) = template.object_mut("spec") {
        pod_spec(spec);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_told_from_a_port_and_a_digest() {
        for (image, tag) in [
            ("nginx", "latest"),
            ("nginx:latest", "latest"),
            ("nginx:1.27", "1.27"),
            ("registry:5000/nginx", "latest"),
            ("registry:5000/nginx:1", "1"),
            ("nginx@sha256:abc", ""),
            ("nginx:1@sha256:abc", "1"),
        ] {
            assert_eq!(tag_of(image), tag, "{image}");
        }
    }
}
