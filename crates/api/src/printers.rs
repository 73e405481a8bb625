//! Server-side printing: the columns and cells of kubectl's tables (upstream:
//! pkg/printers/internalversion/printers.go).
//!
//! Rows always have the wide cells; the client shows those of priority one only with `-o wide`.

mod access;
mod autoscaling;
mod batch;
mod duration;
mod network;
mod pod;
mod storage;
mod workloads;

use serde_json::Value;

pub use self::duration::human_duration;
use crate::fields::Fields;
use crate::kinds::Kind;

/// A column, as `TableColumnDefinition` describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Header, e.g. `Name`.
    pub name: &'static str,
    /// OpenAPI type, `string`, `integer` or `boolean`, as upstream declares it: some cells are
    /// numbers below a `string`.
    pub type_: &'static str,
    /// OpenAPI format: `name` for the name column, else empty.
    pub format: &'static str,
    /// Text for people.
    pub description: &'static str,
    /// Zero is always shown, one only with `-o wide`.
    pub priority: i32,
}

const fn text(name: &'static str, description: &'static str) -> Column {
    Column { name, type_: "string", format: "", description, priority: 0 }
}

const fn integer(name: &'static str, description: &'static str) -> Column {
    Column { type_: "integer", ..text(name, description) }
}

const fn boolean(name: &'static str, description: &'static str) -> Column {
    Column { type_: "boolean", ..text(name, description) }
}

const fn wide(name: &'static str, description: &'static str) -> Column {
    Column { priority: 1, ..text(name, description) }
}

const NAME: Column =
    Column { format: "name", ..text("Name", "Name of the object, unique within its namespace.") };
const AGE: Column = text("Age", "Time since the object was created.");
const CONTAINERS: Column = wide("Containers", "Names of the containers in the template.");
const IMAGES: Column = wide("Images", "Images of the containers in the template.");
const SELECTOR: Column = wide("Selector", "Which pods belong to the object.");

/// Columns of a kind, wide ones included.
pub fn columns(kind: &Kind) -> &'static [Column] {
    match (kind.group, kind.kind) {
        ("", "Pod") => pod::COLUMNS,
        ("", "Service") => network::SERVICE,
        ("", "Endpoints") => network::ENDPOINTS,
        ("discovery.k8s.io", "EndpointSlice") => network::ENDPOINT_SLICE,
        ("networking.k8s.io", "IPAddress") => network::IP_ADDRESS,
        ("networking.k8s.io", "ServiceCIDR") => network::SERVICE_CIDR,
        ("apps", "Deployment") => workloads::DEPLOYMENT,
        ("apps", "ReplicaSet") => workloads::REPLICA_SET,
        ("apps", "StatefulSet") => workloads::STATEFUL_SET,
        ("apps", "DaemonSet") => workloads::DAEMON_SET,
        ("apps", "ControllerRevision") => workloads::CONTROLLER_REVISION,
        ("", "Node") => NODE,
        ("", "Namespace") => NAMESPACE,
        ("", "ConfigMap") => CONFIG_MAP,
        ("", "Secret") => SECRET,
        ("", "ServiceAccount") => SERVICE_ACCOUNT,
        ("coordination.k8s.io", "Lease") => LEASE,
        ("" | "events.k8s.io", "Event") => EVENT,
        ("", "PersistentVolume") => storage::PERSISTENT_VOLUME,
        ("", "PersistentVolumeClaim") => storage::PERSISTENT_VOLUME_CLAIM,
        ("", "PodTemplate") => workloads::POD_TEMPLATE,
        ("", "ReplicationController") => workloads::REPLICA_SET,
        ("", "ResourceQuota") => storage::RESOURCE_QUOTA,
        ("autoscaling", "HorizontalPodAutoscaler") => autoscaling::HORIZONTAL_POD_AUTOSCALER,
        ("batch", "Job") => batch::JOB,
        ("batch", "CronJob") => batch::CRON_JOB,
        ("certificates.k8s.io", "CertificateSigningRequest") => access::CERTIFICATE_SIGNING_REQUEST,
        ("networking.k8s.io", "Ingress") => network::INGRESS,
        ("networking.k8s.io", "IngressClass") => network::INGRESS_CLASS,
        ("networking.k8s.io", "NetworkPolicy") => network::NETWORK_POLICY,
        ("node.k8s.io", "RuntimeClass") => RUNTIME_CLASS,
        ("policy", "PodDisruptionBudget") => workloads::POD_DISRUPTION_BUDGET,
        ("rbac.authorization.k8s.io", "RoleBinding") => access::ROLE_BINDING,
        ("rbac.authorization.k8s.io", "ClusterRoleBinding") => access::CLUSTER_ROLE_BINDING,
        ("scheduling.k8s.io", "PriorityClass") => PRIORITY_CLASS,
        ("storage.k8s.io", "StorageClass") => storage::STORAGE_CLASS,
        ("storage.k8s.io", "VolumeAttachment") => storage::VOLUME_ATTACHMENT,
        ("storage.k8s.io", "CSINode") => storage::CSI_NODE,
        ("storage.k8s.io", "CSIDriver") => storage::CSI_DRIVER,
        _ => DEFAULT,
    }
}

/// Cells of one object, one for each column.
pub fn row(kind: &Kind, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
    match (kind.group, kind.kind) {
        ("", "Pod") => pod::row(object, now),
        ("", "Service") => network::service(object, now),
        ("", "Endpoints") => network::endpoints(object, now),
        ("discovery.k8s.io", "EndpointSlice") => network::endpoint_slice(object, now),
        ("networking.k8s.io", "IPAddress") => network::ip_address(object, now),
        ("networking.k8s.io", "ServiceCIDR") => network::service_cidr(object, now),
        ("apps", "Deployment") => workloads::deployment(object, now),
        ("apps", "ReplicaSet") => workloads::replica_set(object, now),
        ("apps", "StatefulSet") => workloads::stateful_set(object, now),
        ("apps", "DaemonSet") => workloads::daemon_set(object, now),
        ("apps", "ControllerRevision") => workloads::controller_revision(object, now),
        ("", "Node") => node(object, now),
        ("", "Namespace") => {
            vec![name(object), object["status"].text("phase").into(), age(object, now)]
        }
        ("", "ConfigMap") => {
            let count = object.entries("data").count() + object.entries("binaryData").count();
            vec![name(object), count.into(), age(object, now)]
        }
        ("", "Secret") => vec![
            name(object),
            object.text("type").into(),
            object.entries("data").count().into(),
            age(object, now),
        ],
        ("", "ServiceAccount") => {
            vec![name(object), object.items("secrets").len().into(), age(object, now)]
        }
        ("coordination.k8s.io", "Lease") => {
            vec![name(object), object["spec"].text("holderIdentity").into(), age(object, now)]
        }
        ("", "Event") => event(object, now),
        ("events.k8s.io", "Event") => {
            let mut core = object.clone();
            crate::events::to_core(&mut core);
            event(&core, now)
        }
        ("", "PersistentVolume") => storage::persistent_volume(object, now),
        ("", "PersistentVolumeClaim") => storage::persistent_volume_claim(object, now),
        ("", "PodTemplate") => workloads::pod_template(object),
        ("", "ReplicationController") => workloads::replication_controller(object, now),
        ("", "ResourceQuota") => storage::resource_quota(object, now),
        ("autoscaling", "HorizontalPodAutoscaler") => {
            autoscaling::horizontal_pod_autoscaler(object, now)
        }
        ("batch", "Job") => batch::job(object, now),
        ("batch", "CronJob") => batch::cron_job(object, now),
        ("certificates.k8s.io", "CertificateSigningRequest") => {
            access::certificate_signing_request(object, now)
        }
        ("networking.k8s.io", "Ingress") => network::ingress(object, now),
        ("networking.k8s.io", "IngressClass") => network::ingress_class(object, now),
        ("networking.k8s.io", "NetworkPolicy") => network::network_policy(object, now),
        ("node.k8s.io", "RuntimeClass") => {
            vec![name(object), object.text("handler").into(), age(object, now)]
        }
        ("policy", "PodDisruptionBudget") => workloads::pod_disruption_budget(object, now),
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => {
            access::binding(object, now)
        }
        ("scheduling.k8s.io", "PriorityClass") => vec![
            name(object),
            object.number("value").into(),
            object.is("globalDefault").into(),
            age(object, now),
            object.text("preemptionPolicy").into(),
        ],
        ("storage.k8s.io", "StorageClass") => storage::storage_class(object, now),
        ("storage.k8s.io", "VolumeAttachment") => storage::volume_attachment(object, now),
        ("storage.k8s.io", "CSINode") => storage::csi_node(object, now),
        ("storage.k8s.io", "CSIDriver") => storage::csi_driver(object, now),
        _ => vec![name(object), object["metadata"].text("creationTimestamp").into()],
    }
}

const DEFAULT: &[Column] =
    &[NAME, Column { format: "date", ..text("Created At", "When the object was created.") }];

const NAMESPACE: &[Column] = &[NAME, text("Status", "Phase of the namespace."), AGE];

const CONFIG_MAP: &[Column] = &[NAME, text("Data", "Number of entries."), AGE];

const SECRET: &[Column] =
    &[NAME, text("Type", "What the secret is for."), text("Data", "Number of entries."), AGE];

const SERVICE_ACCOUNT: &[Column] =
    &[NAME, text("Secrets", "Number of secrets that pods of the account may use."), AGE];

const PRIORITY_CLASS: &[Column] = &[
    NAME,
    integer("Value", "Priority of the pods of the class."),
    boolean("Global-Default", "Whether pods without a class are of this one."),
    AGE,
    text("PreemptionPolicy", "Whether others have to make room."),
];

const RUNTIME_CLASS: &[Column] = &[NAME, text("Handler", "What runs the pods."), AGE];

const LEASE: &[Column] = &[NAME, text("Holder", "Who holds the lease."), AGE];

const NODE: &[Column] = &[
    NAME,
    text("Status", "Readiness of the node."),
    text("Roles", "Roles, from the node's labels."),
    AGE,
    text("Version", "Version of the node agent."),
    wide("Internal-IP", "Address within the cluster."),
    wide("External-IP", "Address for clients outside."),
    wide("OS-Image", "Operating system."),
    wide("Kernel-Version", "Kernel."),
    wide("Container-Runtime", "What runs the containers."),
];

fn node(node: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let (status, info) = (&node["status"], &node["status"]["nodeInfo"]);
    let ready = status.items("conditions").iter().find(|c| c.text("type") == "Ready");
    let mut states = vec![match ready.map(|ready| ready.text("status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }];
    if node["spec"].is("unschedulable") {
        states.push("SchedulingDisabled");
    }
    let mut roles: Vec<&str> = node["metadata"]
        .entries("labels")
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role),
            None => (key == "kubernetes.io/role").then(|| value.as_str()).flatten(),
        })
        .filter(|role| !role.is_empty())
        .collect();
    roles.sort_unstable();
    roles.dedup();
    let address = |kind: &str| {
        let mut all = status.items("addresses").iter();
        let found = all.find(|a| a.text("type") == kind).map(|a| a.text("address"));
        found.unwrap_or("<none>").into()
    };
    let known = |field: &str| or(info.text(field), "<unknown>");
    vec![
        name(node),
        states.join(",").into(),
        or(&roles.join(","), "<none>"),
        age(node, now),
        info.text("kubeletVersion").into(),
        address("InternalIP"),
        address("ExternalIP"),
        known("osImage"),
        known("kernelVersion"),
        known("containerRuntimeVersion"),
    ]
}

const EVENT: &[Column] = &[
    text("Last Seen", "Time since this last happened."),
    text("Type", "Normal or Warning."),
    text("Reason", "Why, in one word."),
    text("Object", "What it happened to."),
    wide("Subobject", "The part of the object that it happened to."),
    wide("Source", "Who reports it."),
    text("Message", "What happened."),
    wide("First Seen", "Time since this first happened."),
    wide("Count", "How often it has happened."),
    Column { priority: 1, ..NAME },
];

fn event(event: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let object = &event["involvedObject"];
    let kind = object.text("kind").to_lowercase();
    let target = match object.text("name") {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    let first_of = |fields: [&str; 2]| {
        fields.into_iter().map(|field| event.text(field)).find(|time| !time.is_empty())
    };
    let first = first_of(["firstTimestamp", "eventTime"]).unwrap_or_default();
    let mut last = Some(event.text("lastTimestamp")).filter(|t| !t.is_empty()).unwrap_or(first);
    let mut count = event.number("count").max(1);
    if event.has("series") {
        last = event["series"].text("lastObservedTime");
        count = event["series"].number("count");
    }
    let source = &event["source"];
    let either = |a: &str, b: &str| if a.is_empty() { b.to_owned() } else { a.to_owned() };
    let component = either(source.text("component"), event.text("reportingComponent"));
    let instance = either(source.text("host"), event.text("reportingInstance"));
    let source = match instance.is_empty() {
        true => component,
        false => format!("{component}, {instance}"),
    };
    vec![
        since(last, now).into(),
        event.text("type").into(),
        event.text("reason").into(),
        target.into(),
        object.text("fieldPath").into(),
        source.into(),
        event.text("message").trim().into(),
        since(first, now).into(),
        count.into(),
        name(event),
    ]
}

fn name(object: &Value) -> Value {
    object["metadata"].text("name").into()
}

fn age(object: &Value, now: jiff::Timestamp) -> Value {
    since(object["metadata"].text("creationTimestamp"), now).into()
}

fn since(time: &str, now: jiff::Timestamp) -> String {
    match time.parse::<jiff::Timestamp>() {
        Ok(time) => human_duration(now.duration_since(time)),
        Err(_) => "<unknown>".into(),
    }
}

/// The text, or what stands for none.
fn or(text: &str, none: &str) -> Value {
    if text.is_empty() { none.into() } else { text.into() }
}

/// `a=1,b=2`
fn labels(labels: &Value) -> Value {
    let mut pairs: Vec<String> = labels
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    pairs.sort_unstable();
    or(&pairs.join(","), "<none>")
}

/// A label selector in kubectl's syntax.
fn label_selector(selector: &Value) -> Value {
    let equals = selector.entries("matchLabels").map(|(key, value)| {
        (key.as_str(), format!("{key}={}", value.as_str().unwrap_or_default()))
    });
    let expressions = selector.items("matchExpressions").iter().map(|expression| {
        let key = expression.text("key");
        let mut values: Vec<&str> =
            expression.items("values").iter().filter_map(Value::as_str).collect();
        values.sort_unstable();
        let values = values.join(",");
        let requirement = match expression.text("operator") {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        };
        (key, requirement)
    });
    let mut all: Vec<(&str, String)> = equals.chain(expressions).collect();
    all.sort();
    let all: Vec<String> = all.into_iter().map(|(_, requirement)| requirement).collect();
    or(&all.join(","), "<none>")
}

/// One field of each container of a template.
fn of_containers(template: &Value, field: &str) -> Value {
    let containers = template["spec"].items("containers");
    let all: Vec<&str> = containers.iter().map(|container| container.text(field)).collect();
    all.join(",").into()
}

#[cfg(test)]
mod tests;
