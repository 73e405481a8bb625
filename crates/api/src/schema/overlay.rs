//! What k8s-openapi's schemas leave out: how lists are merged and told apart. One line a list, from
//! the `patchMergeKey`, `patchStrategy` and `listMapKey` tags of upstream's types; a list that is
//! not here is atomic.
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

/// The overlay of a field, by the full name of its struct.
pub(super) fn find(component: &str, field: &str) -> Option<&'static Overlay> {
    let short = component
        .strip_prefix("io.k8s.api.")
        .or_else(|| component.strip_prefix("io.k8s.apimachinery.pkg."))?;
    OVERLAYS.iter().find(|overlay| overlay.component == short && overlay.field == field)
}

#[cfg(test)]
pub(super) fn all() -> &'static [Overlay] {
    OVERLAYS
}
