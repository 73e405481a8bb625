//! Bindings of roles, and requests for certificates.

use jiff::SignedDuration;
use serde_json::Value;

use super::{AGE, Column, NAME, age, human_duration, name, or, text, wide};
use crate::fields::Fields;

pub(super) const ROLE_BINDING: &[Column] = &[
    NAME,
    text("Role", "The role that the subjects have."),
    AGE,
    wide("Users", "Users in the roleBinding"),
    wide("Groups", "Groups in the roleBinding"),
    wide("ServiceAccounts", "ServiceAccounts in the roleBinding"),
];

pub(super) const CLUSTER_ROLE_BINDING: &[Column] = &[
    NAME,
    text("Role", "The role that the subjects have."),
    AGE,
    wide("Users", "Users in the clusterRoleBinding"),
    wide("Groups", "Groups in the clusterRoleBinding"),
    wide("ServiceAccounts", "ServiceAccounts in the clusterRoleBinding"),
];

pub(super) const CERTIFICATE_SIGNING_REQUEST: &[Column] = &[
    NAME,
    AGE,
    text("SignerName", "Who is to sign."),
    text("Requestor", "Who asks."),
    text("RequestedDuration", "How long the certificate is to be valid."),
    text("Condition", "What has been decided."),
];

/// Of a RoleBinding or ClusterRoleBinding.
pub(super) fn binding(binding: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let role = &binding["roleRef"];
    let subjects = |kind: &str| {
        let own = binding.items("subjects").iter().filter(|subject| subject.text("kind") == kind);
        let names = own.map(|subject| match (kind, subject.text("namespace")) {
            ("ServiceAccount", namespace) if !namespace.is_empty() => {
                format!("{namespace}/{}", subject.text("name"))
            }
            _ => subject.text("name").to_owned(),
        });
        names.collect::<Vec<_>>().join(", ")
    };
    vec![
        name(binding),
        format!("{}/{}", role.text("kind"), role.text("name")).into(),
        age(binding, now),
        subjects("User").into(),
        subjects("Group").into(),
        subjects("ServiceAccount").into(),
    ]
}

pub(super) fn certificate_signing_request(request: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let (spec, status) = (&request["spec"], &request["status"]);
    let has = |kind: &str| status.items("conditions").iter().any(|c| c.text("type") == kind);
    let mut condition = String::from(match (has("Denied"), has("Approved")) {
        (true, _) => "Denied",
        (false, true) => "Approved",
        (false, false) => "Pending",
    });
    if has("Failed") {
        condition.push_str(",Failed");
    }
    if !status.text("certificate").is_empty() {
        condition.push_str(",Issued");
    }
    let duration = match spec["expirationSeconds"].as_i64() {
        Some(seconds) => human_duration(SignedDuration::from_secs(seconds)),
        None => "<none>".to_owned(),
    };
    vec![
        name(request),
        age(request, now),
        or(spec.text("signerName"), "<none>"),
        spec.text("username").into(),
        duration.into(),
        condition.into(),
    ]
}
