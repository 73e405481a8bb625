//! Validation with upstream's rules and messages (pkg/apis/*/validation).
//!
//! Objects come in checked by the schema, defaulted, and with their allocated values. All mistakes
//! are reported, in the order of upstream where clients can see it.

mod addresses;
mod autoscaling;
mod batch;
mod causes;
mod certificates;
mod config;
mod container;
mod cron;
mod endpoints;
mod formats;
mod metadata;
mod networking;
mod node;
mod pod;
mod policy;
mod probe;
mod quota;
mod rbac;
mod selector;
mod service;
mod service_update;
mod storage;
mod volume;
mod workloads;

use serde_json::Value;

use self::causes::{Causes, Path};
use crate::cause::Cause;
use crate::fields::Fields;
use crate::kinds::{Kind, Subresource};

/// What is wrong with a new object (already defaulted, name generated).
pub fn validate_create(kind: &Kind, object: &Value) -> Vec<Cause> {
    let mut causes = Causes::default();
    metadata::validate(&mut causes, kind, object);
    match (kind.group, kind.kind) {
        ("batch", "CronJob") => batch::cron_job_create(&mut causes, object),
        ("networking.k8s.io", "Ingress") => networking::ingress_create(&mut causes, object),
        _ => {}
    }
    validate(&mut causes, kind, object, None);
    causes.into_inner()
}

/// What is wrong with a changed object, written to itself or to a subresource.
pub fn validate_update(
    kind: &Kind,
    subresource: Option<Subresource>,
    new: &Value,
    old: &Value,
) -> Vec<Cause> {
    let mut causes = Causes::default();
    metadata::validate_update(&mut causes, new, old);
    match subresource {
        None => {
            update(&mut causes, kind, new, old);
            metadata::validate(&mut causes, kind, new);
            validate(&mut causes, kind, new, Some(old));
        }
        Some(part @ (Subresource::Status | Subresource::Approval)) => {
            match (kind.group, kind.kind) {
                ("", "Service") => service::validate_status(&mut causes, new, old),
                ("networking.k8s.io", "Ingress") => networking::ingress_status(&mut causes, new),
                ("policy", "PodDisruptionBudget") => policy::budget_status(&mut causes, new),
                ("certificates.k8s.io", "CertificateSigningRequest") => {
                    certificates::request(&mut causes, new);
                    certificates::request_update(&mut causes, Some(part), new, old);
                }
                _ => {}
            }
        }
        Some(Subresource::Scale) => workloads::replicas(&mut causes, &new["spec"]),
        Some(_) => {}
    }
    causes.into_inner()
}

/// What is wrong with a Service's addresses, families and policy, before anything is allocated.
pub(crate) fn service_addresses(service: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut causes = Causes::default();
    service::addresses(&mut causes, &service["spec"], old);
    causes.into_inner()
}

/// What is wrong with a `Binding`.
pub fn validate_binding(binding: &Value) -> Vec<Cause> {
    let mut causes = Causes::default();
    let target = &binding["target"];
    let path = Path::new("target");
    if !matches!(target.text("kind"), "" | "Node") {
        causes.not_supported(&path.child("kind"), target.text("kind"), &["Node", "<empty>"]);
    }
    if target.text("name").is_empty() {
        causes.required(&path.child("name"), "");
    }
    causes.into_inner()
}

/// `old` is there on updates: what was stored already is not refused by a rule that came later.
fn validate(causes: &mut Causes, kind: &Kind, object: &Value, old: Option<&Value>) {
    match (kind.group, kind.kind) {
        ("", "Service") => service::validate(causes, object, old),
        ("", "Pod") => pod::validate(causes, object),
        ("", "ConfigMap") => config::config_map(causes, object),
        ("", "Secret") => config::secret(causes, object),
        ("", "Endpoints") => endpoints::endpoints(causes, object),
        ("", "Node") => node::validate(causes, object),
        ("", "Event") => event(causes, object),
        ("apps", "Deployment") => workloads::deployment(causes, object),
        ("apps", "ReplicaSet") => workloads::replica_set(causes, object),
        ("apps", "StatefulSet") => workloads::stateful_set(causes, object),
        ("apps", "DaemonSet") => workloads::daemon_set(causes, object),
        ("", "ReplicationController") => workloads::replication_controller(causes, object),
        ("", "PodTemplate") => workloads::pod_template(causes, object),
        ("", "LimitRange") => quota::limit_range(causes, object),
        ("", "ResourceQuota") => quota::resource_quota(causes, object),
        ("", "PersistentVolume") => storage::persistent_volume(causes, object),
        ("", "PersistentVolumeClaim") => storage::persistent_volume_claim(causes, object),
        ("autoscaling", "HorizontalPodAutoscaler") => {
            autoscaling::horizontal_pod_autoscaler(causes, object);
        }
        ("batch", "Job") => batch::job(causes, object),
        ("batch", "CronJob") => batch::cron_job(causes, object),
        ("certificates.k8s.io", "CertificateSigningRequest") => {
            certificates::request(causes, object);
        }
        ("discovery.k8s.io", "EndpointSlice") => endpoints::slice(causes, object),
        ("networking.k8s.io", "Ingress") => networking::ingress(causes, object),
        ("networking.k8s.io", "IngressClass") => networking::ingress_class(causes, object),
        ("networking.k8s.io", "NetworkPolicy") => networking::network_policy(causes, object),
        ("node.k8s.io", "RuntimeClass") => policy::runtime_class(causes, object),
        ("policy", "PodDisruptionBudget") => policy::pod_disruption_budget(causes, object),
        ("rbac.authorization.k8s.io", "Role" | "ClusterRole") => rbac::role(causes, kind, object),
        ("rbac.authorization.k8s.io", _) => rbac::binding(causes, kind, object),
        ("scheduling.k8s.io", "PriorityClass") => policy::priority_class(causes, object),
        ("storage.k8s.io", "StorageClass") => storage::storage_class(causes, object),
        ("storage.k8s.io", "CSIDriver") => storage::csi_driver(causes, object),
        ("storage.k8s.io", "CSINode") => storage::csi_node(causes, object),
        ("storage.k8s.io", "VolumeAttachment") => storage::volume_attachment(causes, object),
        ("coordination.k8s.io", "Lease") => lease(causes, object),
        ("networking.k8s.io", "IPAddress") => addresses::ip_address(causes, object),
        ("networking.k8s.io", "ServiceCIDR") => addresses::service_cidr(causes, object),
        _ => {}
    }
}

fn update(causes: &mut Causes, kind: &Kind, new: &Value, old: &Value) {
    match (kind.group, kind.kind) {
        ("", "Service") => service_update::validate(causes, new, old),
        ("", "Pod") => pod::validate_update(causes, new, old),
        ("", "ConfigMap") => config::config_map_update(causes, new, old),
        ("", "Secret") => config::secret_update(causes, new, old),
        ("", "Node") => node::validate_update(causes, new, old),
        ("apps", "StatefulSet") => workloads::stateful_set_update(causes, new, old),
        ("apps", _) => workloads::selector_update(causes, new, old),
        ("discovery.k8s.io", "EndpointSlice") => {
            causes.immutable(&Path::new("addressType"), &new["addressType"], &old["addressType"]);
        }
        ("", "ResourceQuota") => quota::resource_quota_update(causes, new, old),
        ("", "PersistentVolume") => storage::persistent_volume_update(causes, new, old),
        ("", "PersistentVolumeClaim") => storage::persistent_volume_claim_update(causes, new, old),
        ("batch", "Job") => batch::job_update(causes, new, old),
        ("certificates.k8s.io", "CertificateSigningRequest") => {
            certificates::request_update(causes, None, new, old);
        }
        ("networking.k8s.io", "IngressClass") => networking::ingress_class_update(causes, new, old),
        ("node.k8s.io", "RuntimeClass") => policy::runtime_class_update(causes, new, old),
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => {
            rbac::binding_update(causes, new, old);
        }
        ("scheduling.k8s.io", "PriorityClass") => policy::priority_class_update(causes, new, old),
        ("storage.k8s.io", "StorageClass") => storage::storage_class_update(causes, new, old),
        ("storage.k8s.io", "VolumeAttachment") => {
            storage::volume_attachment_update(causes, new, old);
        }
        ("networking.k8s.io", "IPAddress") => addresses::ip_address_update(causes, new, old),
        ("networking.k8s.io", "ServiceCIDR") => addresses::service_cidr_update(causes, new, old),
        _ => {}
    }
}

fn lease(causes: &mut Causes, lease: &Value) {
    let (spec, path) = (&lease["spec"], Path::new("spec"));
    if spec.has("leaseDurationSeconds") && spec.number("leaseDurationSeconds") <= 0 {
        let seconds = spec.number("leaseDurationSeconds");
        causes.invalid(&path.child("leaseDurationSeconds"), seconds, formats::NOT_POSITIVE);
    }
    causes.non_negative(&path, spec, "leaseTransitions");
}

fn event(causes: &mut Causes, event: &Value) {
    let own = event["metadata"].text("namespace");
    let involved = event["involvedObject"].text("namespace");
    // Events about cluster scoped objects live in namespace default.
    if own != involved && !(involved.is_empty() && matches!(own, "default" | "kube-system")) {
        let path = Path::new("involvedObject");
        let message = "does not match event.namespace";
        causes.invalid(&path.child("namespace"), involved, message);
    }
}

#[cfg(test)]
mod tests;
