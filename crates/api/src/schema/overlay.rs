//! What k8s-openapi's schemas leave out: how lists are merged and told apart, and what is owned whole.
//! One line a list, from the `patchMergeKey`, `patchStrategy`, `listType`, `listMapKey`, `structType`
//! and `mapType` tags of upstream's types; a list that is not here is atomic.
//!
//! One difference, on purpose: ports of Services and containers are merged by port *and* protocol
//! (upstream by port alone, so a patch folds UDP/53 into TCP/53). The first key is the one that
//! clients know and send in `$setElementOrder`.

use portolan_patch::MergeKey;

/// How upstream's `patchStrategy` tag reads.
pub(super) const MERGE: &str = "merge";
const MERGE_RETAIN_KEYS: &str = "merge,retainKeys";
const RETAIN_KEYS: &str = "retainKeys";

pub(super) struct Overlay {
    /// Component, without `io.k8s.api.` or `io.k8s.apimachinery.pkg.`.
    pub(super) component: &'static str,
    pub(super) field: &'static str,
    /// Empty for a set of primitives and for what is not a list.
    pub(super) keys: &'static [MergeKey],
    pub(super) strategy: &'static str,
}

const fn key(field: &'static str) -> MergeKey {
    MergeKey { field, default: None }
}

const PROTOCOL: MergeKey = MergeKey { field: "protocol", default: Some("TCP") };

const NAME: &[MergeKey] = &[key("name")];
const TYPE: &[MergeKey] = &[key("type")];
const UID: &[MergeKey] = &[key("uid")];
const IP: &[MergeKey] = &[key("ip")];
const MOUNT_PATH: &[MergeKey] = &[key("mountPath")];
const DEVICE_PATH: &[MergeKey] = &[key("devicePath")];
const CONTAINER_PORT: &[MergeKey] = &[key("containerPort"), PROTOCOL];
const SERVICE_PORT: &[MergeKey] = &[key("port"), PROTOCOL];
const SPREAD: &[MergeKey] = &[key("topologyKey"), key("whenUnsatisfiable")];

const fn merge(component: &'static str, field: &'static str, keys: &'static [MergeKey]) -> Overlay {
    Overlay { component, field, keys, strategy: MERGE }
}

const fn with(
    component: &'static str,
    field: &'static str,
    keys: &'static [MergeKey],
    strategy: &'static str,
) -> Overlay {
    Overlay { component, field, keys, strategy }
}

static OVERLAYS: &[Overlay] = &[
    merge("apis.meta.v1.ObjectMeta", "finalizers", &[]),
    merge("apis.meta.v1.ObjectMeta", "ownerReferences", UID),
    merge("apps.v1.DaemonSetStatus", "conditions", TYPE),
    with("apps.v1.DeploymentSpec", "strategy", &[], RETAIN_KEYS),
    merge("apps.v1.DeploymentStatus", "conditions", TYPE),
    merge("apps.v1.ReplicaSetStatus", "conditions", TYPE),
    merge("apps.v1.StatefulSetStatus", "conditions", TYPE),
    merge("autoscaling.v2.HorizontalPodAutoscalerStatus", "conditions", TYPE),
    merge("batch.v1.JobStatus", "conditions", TYPE),
    merge("core.v1.Container", "env", NAME),
    merge("core.v1.Container", "ports", CONTAINER_PORT),
    merge("core.v1.Container", "volumeDevices", DEVICE_PATH),
    merge("core.v1.Container", "volumeMounts", MOUNT_PATH),
    merge("core.v1.ContainerStatus", "volumeMounts", MOUNT_PATH),
    merge("core.v1.EphemeralContainer", "env", NAME),
    merge("core.v1.EphemeralContainer", "ports", CONTAINER_PORT),
    merge("core.v1.EphemeralContainer", "volumeDevices", DEVICE_PATH),
    merge("core.v1.EphemeralContainer", "volumeMounts", MOUNT_PATH),
    merge("core.v1.NamespaceStatus", "conditions", TYPE),
    merge("core.v1.NodeSpec", "podCIDRs", &[]),
    merge("core.v1.NodeStatus", "addresses", TYPE),
    merge("core.v1.NodeStatus", "conditions", TYPE),
    merge("core.v1.PersistentVolumeClaimStatus", "conditions", TYPE),
    merge("core.v1.PodSpec", "containers", NAME),
    merge("core.v1.PodSpec", "ephemeralContainers", NAME),
    merge("core.v1.PodSpec", "hostAliases", IP),
    merge("core.v1.PodSpec", "imagePullSecrets", NAME),
    merge("core.v1.PodSpec", "initContainers", NAME),
    with("core.v1.PodSpec", "resourceClaims", NAME, MERGE_RETAIN_KEYS),
    merge("core.v1.PodSpec", "schedulingGates", NAME),
    merge("core.v1.PodSpec", "topologySpreadConstraints", SPREAD),
    with("core.v1.PodSpec", "volumes", NAME, MERGE_RETAIN_KEYS),
    merge("core.v1.PodStatus", "conditions", TYPE),
    merge("core.v1.PodStatus", "hostIPs", IP),
    merge("core.v1.PodStatus", "podIPs", IP),
    with("core.v1.PodStatus", "resourceClaimStatuses", NAME, MERGE_RETAIN_KEYS),
    merge("core.v1.ReplicationControllerStatus", "conditions", TYPE),
    merge("core.v1.ServiceAccount", "secrets", NAME),
    merge("core.v1.ServiceSpec", "ports", SERVICE_PORT),
    merge("core.v1.ServiceStatus", "conditions", TYPE),
    merge("networking.v1.ServiceCIDRStatus", "conditions", TYPE),
    merge("policy.v1.PodDisruptionBudgetStatus", "conditions", TYPE),
    merge("storage.v1.CSINodeSpec", "drivers", NAME),
];

/// Lists that server-side apply takes apart and strategic merge does not: `listType` without a
/// `patchStrategy`. No keys: a set.
static APPLIED_LISTS: &[(&str, &str, &[MergeKey])] = &[
    ("batch.v1.JobStatus", "conditions", TYPE),
    ("batch.v1.PodFailurePolicyOnExitCodesRequirement", "values", &[]),
    ("batch.v1.UncountedTerminatedPods", "failed", &[]),
    ("batch.v1.UncountedTerminatedPods", "succeeded", &[]),
    ("certificates.v1.CertificateSigningRequestStatus", "conditions", TYPE),
    ("core.v1.ContainerRestartRuleOnExitCodes", "values", &[]),
    ("core.v1.ContainerStatus", "allocatedResourcesStatus", NAME),
    ("core.v1.ResourceRequirements", "claims", NAME),
    ("core.v1.ResourceStatus", "resources", &[key("resourceID")]),
    ("discovery.v1.Endpoint", "addresses", &[]),
    ("networking.v1.ServiceCIDRStatus", "conditions", TYPE),
    ("policy.v1.PodDisruptionBudgetStatus", "conditions", TYPE),
    ("storage.v1.CSIDriverSpec", "volumeLifecycleModes", &[]),
    ("storage.v1.CSINodeSpec", "drivers", NAME),
];

/// Structs that are owned whole: `structType=atomic`.
static ATOMIC_STRUCTS: &[&str] = &[
    "apis.meta.v1.LabelSelector",
    "apis.meta.v1.OwnerReference",
    "autoscaling.v1.CrossVersionObjectReference",
    "autoscaling.v2.CrossVersionObjectReference",
    "core.v1.ConfigMapKeySelector",
    "core.v1.EndpointAddress",
    "core.v1.EndpointPort",
    "core.v1.FileKeySelector",
    "core.v1.LocalObjectReference",
    "core.v1.NodeSelector",
    "core.v1.NodeSelectorTerm",
    "core.v1.ObjectFieldSelector",
    "core.v1.ObjectReference",
    "core.v1.ResourceFieldSelector",
    "core.v1.ScopeSelector",
    "core.v1.ScopedResourceSelectorRequirement",
    "core.v1.SecretKeySelector",
    "core.v1.SecretReference",
    "core.v1.TopologySelectorTerm",
    "core.v1.TypedLocalObjectReference",
    "discovery.v1.EndpointPort",
    "networking.v1.ServiceBackendPort",
    "rbac.v1.RoleRef",
    "rbac.v1.Subject",
];

/// Maps that are owned whole: `mapType=atomic`.
static ATOMIC_MAPS: &[(&str, &str)] = &[
    ("core.v1.PodSpec", "nodeSelector"),
    ("core.v1.ReplicationControllerSpec", "selector"),
    ("core.v1.ServiceSpec", "selector"),
    ("node.v1.Scheduling", "nodeSelector"),
];

/// Fields that are structs by value in Go, or lists without `omitempty`: they are written even when
/// nothing is in them, so nobody owns that they are there.
const ALWAYS_THERE: &[&str] = &[
    "daemonEndpoints",
    "deprecatedSource",
    "jobTemplate",
    "kubeletEndpoint",
    "lastState",
    "loadBalancer",
    "metadata",
    "nodeInfo",
    "resources",
    "source",
    "spec",
    "state",
    "status",
    "strategy",
    "template",
    "updateStrategy",
];

/// Which component this is, as the tables here name it.
fn short(component: &str) -> Option<&str> {
    component
        .strip_prefix("io.k8s.api.")
        .or_else(|| component.strip_prefix("io.k8s.apimachinery.pkg."))
}

/// The overlay of a field, by the full name of its struct.
pub(super) fn find(component: &str, field: &str) -> Option<&'static Overlay> {
    let short = short(component)?;
    OVERLAYS.iter().find(|overlay| overlay.component == short && overlay.field == field)
}

/// How server-side apply takes a list apart: its keys, none for a set. None for atomic lists.
pub(super) fn list_keys(component: &str, field: &str) -> Option<&'static [MergeKey]> {
    if let Some(overlay) = find(component, field) {
        let list = !overlay.keys.is_empty() || overlay.strategy == MERGE;
        return list.then_some(overlay.keys);
    }
    let short = short(component)?;
    let found = APPLIED_LISTS.iter().find(|(name, list, _)| *name == short && *list == field);
    found.map(|(.., keys)| *keys)
}

/// Whether values of a struct are owned whole.
pub(super) fn is_atomic_struct(component: &str) -> bool {
    short(component).is_some_and(|short| ATOMIC_STRUCTS.contains(&short))
}

/// Whether a map is owned whole.
pub(super) fn is_atomic_map(component: &str, field: &str) -> bool {
    short(component).is_some_and(|short| ATOMIC_MAPS.contains(&(short, field)))
}

/// Whether Go writes the field even when nothing is in it.
pub(super) fn is_always_there(component: &str, field: &str) -> bool {
    match (short(component), field) {
        (Some("core.v1.PodSpec"), "containers") => true,
        (Some("core.v1.PodSpec"), "resources") => false,
        _ => ALWAYS_THERE.contains(&field),
    }
}

#[cfg(test)]
pub(super) fn all() -> &'static [Overlay] {
    OVERLAYS
}
