//! The table of kinds. Adding a kind is adding a line here (and its type to the roots of `schema`);
//! its defaults, validation and columns are arms of the matches in their modules, and a kind
//! without an arm gets the general ones.
//!
//! Order is that of upstream's discovery: by group, preferred version first, then by resource.

/// Whether objects live in a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// `/api/v1/nodes/{name}`
    Cluster,
    /// `/api/v1/namespaces/{namespace}/pods/{name}`
    Namespaced,
}

/// Parts of a resource that are addressed on their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Subresource {
    /// `status`
    Status,
    /// `scale`
    Scale,
    /// `log`
    Log,
    /// `exec`
    Exec,
    /// `attach`
    Attach,
    /// `portforward`
    PortForward,
    /// `binding`
    Binding,
    /// `eviction`
    Eviction,
    /// `ephemeralcontainers`
    EphemeralContainers,
    /// `finalize`
    Finalize,
    /// `proxy`
    Proxy,
    /// `token`
    Token,
    /// `approval`
    Approval,
}

impl Subresource {
    /// The path segment, e.g. `portforward`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Scale => "scale",
            Self::Log => "log",
            Self::Exec => "exec",
            Self::Attach => "attach",
            Self::PortForward => "portforward",
            Self::Binding => "binding",
            Self::Eviction => "eviction",
            Self::EphemeralContainers => "ephemeralcontainers",
            Self::Finalize => "finalize",
            Self::Proxy => "proxy",
            Self::Token => "token",
            Self::Approval => "approval",
        }
    }
}

/// Which objects share one prefix in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Storage {
    /// Group part of the key, `core` for the legacy group.
    pub group: &'static str,
    /// Resource part of the key.
    pub resource: &'static str,
}

/// One served kind in one version.
#[derive(Debug)]
pub struct Kind {
    /// API group, empty for core.
    pub group: &'static str,
    /// Version, e.g. `v1`.
    pub version: &'static str,
    /// Kind, e.g. `Service`.
    pub kind: &'static str,
    /// Kind of lists, e.g. `ServiceList`.
    pub list_kind: &'static str,
    /// Resource, e.g. `services`.
    pub plural: &'static str,
    /// Singular, e.g. `service`.
    pub singular: &'static str,
    /// Short names, e.g. `svc`.
    pub short_names: &'static [&'static str],
    /// Categories, e.g. `all`.
    pub categories: &'static [&'static str],
    /// Cluster or namespaced.
    pub scope: Scope,
    /// Served subresources.
    pub subresources: &'static [Subresource],
    /// Verbs of the resource itself.
    pub verbs: &'static [&'static str],
    /// Where objects are stored.
    pub storage: Storage,
    /// Name of the OpenAPI component, e.g. `io.k8s.api.core.v1.Service`.
    pub schema: &'static str,
}

impl Kind {
    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// `services` or `deployments.apps`, as in error messages.
    pub fn group_resource(&self) -> String {
        if self.group.is_empty() {
            self.plural.to_owned()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    /// `Service` or `Deployment.apps`, as in messages about invalid objects.
    pub fn group_kind(&self) -> String {
        if self.group.is_empty() {
            self.kind.to_owned()
        } else {
            format!("{}.{}", self.kind, self.group)
        }
    }

    /// Prefix of all keys of this kind (or of one namespace), with the closing slash.
    pub fn prefix(&self, namespace: Option<&str>) -> String {
        let Storage { group, resource } = self.storage;
        match (self.scope, namespace) {
            (Scope::Namespaced, Some(namespace)) => {
                format!("/registry/{group}/{resource}/{namespace}/")
            }
            _ => format!("/registry/{group}/{resource}/"),
        }
    }

    /// Key of one object. `namespace` is ignored for cluster scoped kinds.
    pub fn key(&self, namespace: Option<&str>, name: &str) -> String {
        let mut key = self.prefix(namespace);
        key.push_str(name);
        key
    }
}

/// All served kinds.
pub fn all() -> &'static [Kind] {
    KINDS
}

/// The kind behind `/apis/{group}/{version}/…/{plural}`.
pub fn by_resource(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    all().iter().find(|k| k.group == group && k.version == version && k.plural == plural)
}

/// The kind named in an object's `apiVersion` and `kind`.
pub fn by_kind(api_version: &str, kind: &str) -> Option<&'static Kind> {
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    all().iter().find(|k| k.group == group && k.version == version && k.kind == kind)
}

/// What most kinds can do.
const VERBS: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
/// Namespaces and Services of a namespace are not deleted together.
const VERBS_ONE_BY_ONE: &[&str] = &["create", "delete", "get", "list", "patch", "update", "watch"];

const ALL: &[&str] = &["all"];
const STATUS: &[Subresource] = &[Subresource::Status];
const SCALED: &[Subresource] = &[Subresource::Status, Subresource::Scale];

/// A namespaced kind without anything special, to be completed with `..`.
const ORDINARY: Kind = Kind {
    group: "",
    version: "",
    kind: "",
    list_kind: "",
    plural: "",
    singular: "",
    short_names: &[],
    categories: &[],
    scope: Scope::Namespaced,
    subresources: &[],
    verbs: VERBS,
    storage: Storage { group: "", resource: "" },
    schema: "",
};

/// One section a group and version: its package in OpenAPI, and the group part of its keys in the
/// store. In it one line a kind: kind, plural, singular, and the fields that are not [`ORDINARY`].
macro_rules! kinds {
    ($(
        $group:literal $version:literal in $package:literal at $stored:literal {
            $( $kind:literal $plural:literal $singular:literal { $($field:ident: $value:expr),* } )*
        }
    )*) => {
        &[$($(
            Kind {
                group: $group,
                version: $version,
                kind: $kind,
                list_kind: concat!($kind, "List"),
                plural: $plural,
                singular: $singular,
                storage: Storage { group: $stored, resource: $plural },
                schema: concat!($package, ".", $kind),
                $($field: $value,)*
                ..ORDINARY
            },
        )*)*]
    };
}

static KINDS: &[Kind] = kinds! {
    "" "v1" in "io.k8s.api.core.v1" at "core" {
        "ConfigMap" "configmaps" "configmap" { short_names: &["cm"] }
        "Endpoints" "endpoints" "endpoints" { short_names: &["ep"] }
        "Event" "events" "event" { short_names: &["ev"] }
        "LimitRange" "limitranges" "limitrange" { short_names: &["limits"] }
        "Namespace" "namespaces" "namespace" {
            short_names: &["ns"],
            scope: Scope::Cluster,
            subresources: &[Subresource::Finalize, Subresource::Status],
            verbs: VERBS_ONE_BY_ONE
        }
        "Node" "nodes" "node" {
            short_names: &["no"],
            scope: Scope::Cluster,
            subresources: &[Subresource::Proxy, Subresource::Status]
        }
        "PersistentVolumeClaim" "persistentvolumeclaims" "persistentvolumeclaim" {
            short_names: &["pvc"], subresources: STATUS
        }
        "PersistentVolume" "persistentvolumes" "persistentvolume" {
            short_names: &["pv"], scope: Scope::Cluster, subresources: STATUS
        }
        "Pod" "pods" "pod" {
            short_names: &["po"],
            categories: ALL,
            subresources: &[
                Subresource::Attach,
                Subresource::Binding,
                Subresource::EphemeralContainers,
                Subresource::Eviction,
                Subresource::Exec,
                Subresource::Log,
                Subresource::PortForward,
                Subresource::Proxy,
                Subresource::Status,
            ]
        }
        "PodTemplate" "podtemplates" "podtemplate" {}
        "ReplicationController" "replicationcontrollers" "replicationcontroller" {
            short_names: &["rc"], categories: ALL, subresources: SCALED
        }
        "ResourceQuota" "resourcequotas" "resourcequota" {
            short_names: &["quota"], subresources: STATUS
        }
        "Secret" "secrets" "secret" {}
        "ServiceAccount" "serviceaccounts" "serviceaccount" {
            short_names: &["sa"], subresources: &[Subresource::Token]
        }
        "Service" "services" "service" {
            short_names: &["svc"],
            categories: ALL,
            subresources: &[Subresource::Proxy, Subresource::Status]
        }
    }
    "apps" "v1" in "io.k8s.api.apps.v1" at "apps" {
        "ControllerRevision" "controllerrevisions" "controllerrevision" {}
        "DaemonSet" "daemonsets" "daemonset" {
            short_names: &["ds"], categories: ALL, subresources: STATUS
        }
        "Deployment" "deployments" "deployment" {
            short_names: &["deploy"], categories: ALL, subresources: SCALED
        }
        "ReplicaSet" "replicasets" "replicaset" {
            short_names: &["rs"], categories: ALL, subresources: SCALED
        }
        "StatefulSet" "statefulsets" "statefulset" {
            short_names: &["sts"], categories: ALL, subresources: SCALED
        }
    }
    // Over the same objects as core's; `events` turns one form into the other.
    "events.k8s.io" "v1" in "io.k8s.api.events.v1" at "core" {
        "Event" "events" "event" { short_names: &["ev"] }
    }
    "autoscaling" "v2" in "io.k8s.api.autoscaling.v2" at "autoscaling" {
        "HorizontalPodAutoscaler" "horizontalpodautoscalers" "horizontalpodautoscaler" {
            short_names: &["hpa"], categories: ALL, subresources: STATUS
        }
    }
    // Over the same objects as v2's; `autoscalers` turns one form into the other.
    "autoscaling" "v1" in "io.k8s.api.autoscaling.v1" at "autoscaling" {
        "HorizontalPodAutoscaler" "horizontalpodautoscalers" "horizontalpodautoscaler" {
            short_names: &["hpa"], categories: ALL, subresources: STATUS
        }
    }
    "batch" "v1" in "io.k8s.api.batch.v1" at "batch" {
        "CronJob" "cronjobs" "cronjob" {
            short_names: &["cj"], categories: ALL, subresources: STATUS
        }
        "Job" "jobs" "job" { categories: ALL, subresources: STATUS }
    }
    "certificates.k8s.io" "v1" in "io.k8s.api.certificates.v1" at "certificates.k8s.io" {
        "CertificateSigningRequest" "certificatesigningrequests" "certificatesigningrequest" {
            short_names: &["csr"],
            scope: Scope::Cluster,
            subresources: &[Subresource::Approval, Subresource::Status]
        }
    }
    "networking.k8s.io" "v1" in "io.k8s.api.networking.v1" at "networking.k8s.io" {
        "IngressClass" "ingressclasses" "ingressclass" { scope: Scope::Cluster }
        "Ingress" "ingresses" "ingress" { short_names: &["ing"], subresources: STATUS }
        "IPAddress" "ipaddresses" "ipaddress" { short_names: &["ip"], scope: Scope::Cluster }
        "NetworkPolicy" "networkpolicies" "networkpolicy" { short_names: &["netpol"] }
        "ServiceCIDR" "servicecidrs" "servicecidr" { scope: Scope::Cluster, subresources: STATUS }
    }
    "policy" "v1" in "io.k8s.api.policy.v1" at "policy" {
        "PodDisruptionBudget" "poddisruptionbudgets" "poddisruptionbudget" {
            short_names: &["pdb"], subresources: STATUS
        }
    }
    "rbac.authorization.k8s.io" "v1" in "io.k8s.api.rbac.v1" at "rbac.authorization.k8s.io" {
        "ClusterRoleBinding" "clusterrolebindings" "clusterrolebinding" { scope: Scope::Cluster }
        "ClusterRole" "clusterroles" "clusterrole" { scope: Scope::Cluster }
        "RoleBinding" "rolebindings" "rolebinding" {}
        "Role" "roles" "role" {}
    }
    "storage.k8s.io" "v1" in "io.k8s.api.storage.v1" at "storage.k8s.io" {
        "CSIDriver" "csidrivers" "csidriver" { scope: Scope::Cluster }
        "CSINode" "csinodes" "csinode" { scope: Scope::Cluster }
        "StorageClass" "storageclasses" "storageclass" {
            short_names: &["sc"], scope: Scope::Cluster
        }
        "VolumeAttachment" "volumeattachments" "volumeattachment" {
            scope: Scope::Cluster, subresources: STATUS
        }
    }
    "scheduling.k8s.io" "v1" in "io.k8s.api.scheduling.v1" at "scheduling.k8s.io" {
        "PriorityClass" "priorityclasses" "priorityclass" {
            short_names: &["pc"], scope: Scope::Cluster
        }
    }
    "coordination.k8s.io" "v1" in "io.k8s.api.coordination.v1" at "coordination.k8s.io" {
        "Lease" "leases" "lease" {}
    }
    "node.k8s.io" "v1" in "io.k8s.api.node.v1" at "node.k8s.io" {
        "RuntimeClass" "runtimeclasses" "runtimeclass" { scope: Scope::Cluster }
    }
    "discovery.k8s.io" "v1" in "io.k8s.api.discovery.v1" at "discovery.k8s.io" {
        "EndpointSlice" "endpointslices" "endpointslice" {}
    }
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_complete_and_found_by_its_names() {
        for kind in all() {
            for text in [kind.list_kind, kind.plural, kind.singular, kind.schema] {
                assert!(!text.is_empty(), "{} lacks a name", kind.kind);
            }
            let by_resource = by_resource(kind.group, kind.version, kind.plural).unwrap();
            let by_kind = by_kind(&kind.api_version(), kind.kind).unwrap();
            assert!(std::ptr::eq(by_resource, kind) && std::ptr::eq(by_kind, kind));
        }
        assert!(by_kind("v1", "Deployment").is_none());
    }

    #[test]
    fn keys_follow_group_resource_namespace_and_name() {
        let key = |api_version, kind, namespace, name| {
            by_kind(api_version, kind).unwrap().key(namespace, name)
        };
        assert_eq!(key("v1", "Pod", Some("a"), "b"), "/registry/core/pods/a/b");
        assert_eq!(key("v1", "Node", Some("ignored"), "n"), "/registry/core/nodes/n");
        assert_eq!(key("apps/v1", "Deployment", Some("a"), "b"), "/registry/apps/deployments/a/b");
        let events = |api_version| key(api_version, "Event", Some("a"), "b");
        assert_eq!(events("v1"), events("events.k8s.io/v1"));
        let scaler = |api_version| key(api_version, "HorizontalPodAutoscaler", Some("a"), "b");
        assert_eq!(scaler("autoscaling/v1"), scaler("autoscaling/v2"));
    }
}
