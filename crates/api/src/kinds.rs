//! The table of kinds. Adding a kind is adding an entry here; its defaults, validation and columns
//! are arms of the matches in their modules, and a kind without an arm gets the general ones.
//!
//! Order is that of upstream's discovery: by group, then by resource.

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

const SCALED: &[Subresource] = &[Subresource::Status, Subresource::Scale];

/// A namespaced kind without anything special, to be completed with `..`.
const fn kind(group: &'static str, version: &'static str, kind: &'static str) -> Kind {
    Kind {
        group,
        version,
        kind,
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
    }
}

/// The storage of most kinds is named like themselves.
const fn at(group: &'static str, resource: &'static str) -> Storage {
    Storage { group, resource }
}

static KINDS: &[Kind] = &[
    Kind {
        list_kind: "ConfigMapList",
        plural: "configmaps",
        singular: "configmap",
        short_names: &["cm"],
        storage: at("core", "configmaps"),
        schema: "io.k8s.api.core.v1.ConfigMap",
        ..kind("", "v1", "ConfigMap")
    },
    Kind {
        list_kind: "EndpointsList",
        plural: "endpoints",
        singular: "endpoints",
        short_names: &["ep"],
        storage: at("core", "endpoints"),
        schema: "io.k8s.api.core.v1.Endpoints",
        ..kind("", "v1", "Endpoints")
    },
    Kind {
        list_kind: "EventList",
        plural: "events",
        singular: "event",
        short_names: &["ev"],
        storage: at("core", "events"),
        schema: "io.k8s.api.core.v1.Event",
        ..kind("", "v1", "Event")
    },
    Kind {
        list_kind: "NamespaceList",
        plural: "namespaces",
        singular: "namespace",
        short_names: &["ns"],
        scope: Scope::Cluster,
        subresources: &[Subresource::Finalize, Subresource::Status],
        verbs: VERBS_ONE_BY_ONE,
        storage: at("core", "namespaces"),
        schema: "io.k8s.api.core.v1.Namespace",
        ..kind("", "v1", "Namespace")
    },
    Kind {
        list_kind: "NodeList",
        plural: "nodes",
        singular: "node",
        short_names: &["no"],
        scope: Scope::Cluster,
        subresources: &[Subresource::Proxy, Subresource::Status],
        storage: at("core", "nodes"),
        schema: "io.k8s.api.core.v1.Node",
        ..kind("", "v1", "Node")
    },
    Kind {
        list_kind: "PodList",
        plural: "pods",
        singular: "pod",
        short_names: &["po"],
        categories: &["all"],
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
        ],
        storage: at("core", "pods"),
        schema: "io.k8s.api.core.v1.Pod",
        ..kind("", "v1", "Pod")
    },
    Kind {
        list_kind: "SecretList",
        plural: "secrets",
        singular: "secret",
        storage: at("core", "secrets"),
        schema: "io.k8s.api.core.v1.Secret",
        ..kind("", "v1", "Secret")
    },
    Kind {
        list_kind: "ServiceAccountList",
        plural: "serviceaccounts",
        singular: "serviceaccount",
        short_names: &["sa"],
        subresources: &[Subresource::Token],
        storage: at("core", "serviceaccounts"),
        schema: "io.k8s.api.core.v1.ServiceAccount",
        ..kind("", "v1", "ServiceAccount")
    },
    Kind {
        list_kind: "ServiceList",
        plural: "services",
        singular: "service",
        short_names: &["svc"],
        categories: &["all"],
        subresources: &[Subresource::Proxy, Subresource::Status],
        storage: at("core", "services"),
        schema: "io.k8s.api.core.v1.Service",
        ..kind("", "v1", "Service")
    },
    Kind {
        list_kind: "DaemonSetList",
        plural: "daemonsets",
        singular: "daemonset",
        short_names: &["ds"],
        categories: &["all"],
        subresources: &[Subresource::Status],
        storage: at("apps", "daemonsets"),
        schema: "io.k8s.api.apps.v1.DaemonSet",
        ..kind("apps", "v1", "DaemonSet")
    },
    Kind {
        list_kind: "DeploymentList",
        plural: "deployments",
        singular: "deployment",
        short_names: &["deploy"],
        categories: &["all"],
        subresources: SCALED,
        storage: at("apps", "deployments"),
        schema: "io.k8s.api.apps.v1.Deployment",
        ..kind("apps", "v1", "Deployment")
    },
    Kind {
        list_kind: "ReplicaSetList",
        plural: "replicasets",
        singular: "replicaset",
        short_names: &["rs"],
        categories: &["all"],
        subresources: SCALED,
        storage: at("apps", "replicasets"),
        schema: "io.k8s.api.apps.v1.ReplicaSet",
        ..kind("apps", "v1", "ReplicaSet")
    },
    Kind {
        list_kind: "StatefulSetList",
        plural: "statefulsets",
        singular: "statefulset",
        short_names: &["sts"],
        categories: &["all"],
        subresources: SCALED,
        storage: at("apps", "statefulsets"),
        schema: "io.k8s.api.apps.v1.StatefulSet",
        ..kind("apps", "v1", "StatefulSet")
    },
    Kind {
        list_kind: "ControllerRevisionList",
        plural: "controllerrevisions",
        singular: "controllerrevision",
        storage: at("apps", "controllerrevisions"),
        schema: "io.k8s.api.apps.v1.ControllerRevision",
        ..kind("apps", "v1", "ControllerRevision")
    },
    Kind {
        list_kind: "LeaseList",
        plural: "leases",
        singular: "lease",
        storage: at("coordination.k8s.io", "leases"),
        schema: "io.k8s.api.coordination.v1.Lease",
        ..kind("coordination.k8s.io", "v1", "Lease")
    },
    Kind {
        list_kind: "EndpointSliceList",
        plural: "endpointslices",
        singular: "endpointslice",
        storage: at("discovery.k8s.io", "endpointslices"),
        schema: "io.k8s.api.discovery.v1.EndpointSlice",
        ..kind("discovery.k8s.io", "v1", "EndpointSlice")
    },
    // Over the same objects as core's; `events` turns one form into the other.
    Kind {
        list_kind: "EventList",
        plural: "events",
        singular: "event",
        short_names: &["ev"],
        storage: at("core", "events"),
        schema: "io.k8s.api.events.v1.Event",
        ..kind("events.k8s.io", "v1", "Event")
    },
    Kind {
        list_kind: "IPAddressList",
        plural: "ipaddresses",
        singular: "ipaddress",
        short_names: &["ip"],
        scope: Scope::Cluster,
        storage: at("networking.k8s.io", "ipaddresses"),
        schema: "io.k8s.api.networking.v1.IPAddress",
        ..kind("networking.k8s.io", "v1", "IPAddress")
    },
    Kind {
        list_kind: "ServiceCIDRList",
        plural: "servicecidrs",
        singular: "servicecidr",
        scope: Scope::Cluster,
        subresources: &[Subresource::Status],
        storage: at("networking.k8s.io", "servicecidrs"),
        schema: "io.k8s.api.networking.v1.ServiceCIDR",
        ..kind("networking.k8s.io", "v1", "ServiceCIDR")
    },
];

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
    }
}
