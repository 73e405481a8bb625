//! Events about this node's rules, for `kubectl describe node`.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use portolan_model::{Family, NamespacedName};
use portolan_netlink::sysctl::SysctlError;
use tokio_util::task::TaskTracker;

use crate::config::Mode;

/// Publishes events about this node. One that cannot be published is a line in the log.
#[derive(Clone)]
pub(crate) struct Events {
    recorder: Recorder,
    node: ObjectReference,
    mode: Mode,
    tasks: TaskTracker,
}

impl Events {
    pub(crate) fn new(
        client: kube::Client,
        node_name: &str,
        mode: Mode,
        tasks: TaskTracker,
    ) -> Self {
        let reporter =
            Reporter { controller: "kube-proxy".into(), instance: Some(node_name.to_owned()) };
        // Components name a node by its name in the place of its uid, as upstream's do.
        let node = ObjectReference {
            kind: Some("Node".into()),
            name: Some(node_name.to_owned()),
            uid: Some(node_name.to_owned()),
            ..ObjectReference::default()
        };
        Self { recorder: Recorder::new(client, reporter), node, mode, tasks }
    }

    /// The proxy starts.
    pub(crate) fn starting(&self) {
        self.publish(EventType::Normal, "Starting", "StartKubeProxy", String::new());
    }

    /// The mode will not be there for ever: upstream's words, as people look for them.
    pub(crate) fn ipvs_is_deprecated(&self) {
        let note = crate::run::IPVS_DEPRECATED.to_owned();
        self.publish(EventType::Warning, "IPVSDeprecation", "StartKubeProxy", note);
    }

    /// Load balancers cannot be told of a Service.
    pub(crate) fn no_health_check(&self, service: &NamespacedName, note: String) {
        let object = ObjectReference {
            kind: Some("Service".into()),
            namespace: Some(service.namespace.to_string()),
            name: Some(service.name.to_string()),
            uid: Some(service.to_string()),
            ..ObjectReference::default()
        };
        let reason = "FailedToStartServiceHealthcheck";
        self.publish_about(object, EventType::Warning, reason, "Listen", note);
    }

    /// Kernel settings stay as they are.
    pub(crate) fn sysctls_failed(&self, errors: &[SysctlError]) {
        if errors.is_empty() {
            return;
        }
        let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
        let note = format!("Kernel settings stay as they are: {}", errors.join("; "));
        self.publish(EventType::Warning, "SysctlNotWritten", "StartKubeProxy", note);
    }

    /// Rules were put right.
    pub(crate) fn repaired(&self, family: Family, operations: usize) {
        let mode = self.mode.name();
        let note = format!(
            "Somebody changed the {family} {mode} rules of this node; {operations} changes put them right"
        );
        let reason = match self.mode {
            Mode::Iptables => "IptablesRulesRepaired",
            Mode::Ipvs => "IpvsRulesRepaired",
            Mode::Nftables => "NftablesRulesRepaired",
        };
        self.publish(EventType::Warning, reason, "SyncProxyRules", note);
    }

    fn publish(&self, type_: EventType, reason: &str, action: &str, note: String) {
        self.publish_about(self.node.clone(), type_, reason, action, note);
    }

    fn publish_about(
        &self,
        object: ObjectReference,
        type_: EventType,
        reason: &str,
        action: &str,
        note: String,
    ) {
        let event = Event {
            type_,
            reason: reason.into(),
            note: Some(note),
            action: action.into(),
            secondary: None,
        };
        let recorder = self.recorder.clone();
        self.tasks.spawn(async move {
            if let Err(e) = recorder.publish(&event, &object).await {
                tracing::warn!(reason = event.reason, "cannot publish an event: {e}");
            }
        });
    }
}
