//! Roles, their bindings, and requests for certificates.

use super::*;

#[test]
fn roles_and_bindings() {
    let rule = json!({ "verbs": ["get"], "apiGroups": [""], "resources": ["pods"] });
    let rules = json!({ "rules": [rule] });
    let mut role = object("rbac.authorization.k8s.io/v1", "Role", rules.clone());
    set(&mut role, "/metadata/name", json!("system:a"));
    check(
        &role,
        &[
            case(
                "/metadata/name",
                json!("a/b"),
                &["metadata.name: Invalid value: \"a/b\": may not contain '/'"],
            ),
            case(
                "/rules/0/verbs",
                json!([]),
                &["rules[0].verbs: Required value: verbs must contain at least one value"],
            ),
            case(
                "/rules/0/apiGroups",
                Value::Null,
                &["rules[0].apiGroups: Required value: resource rules must supply at least one \
                   api group"],
            ),
            case(
                "/rules/0",
                json!({ "verbs": ["get"], "nonResourceURLs": ["/x"] }),
                &["rules[0].nonResourceURLs: Invalid value: [\"/x\"]: namespaced rules cannot \
                   apply to non-resource URLs"],
            ),
        ],
    );
    check(
        &object("rbac.authorization.k8s.io/v1", "ClusterRole", rules),
        &[
            case("/rules/0", json!({ "verbs": ["get"], "nonResourceURLs": ["/x"] }), &[]),
            case(
                "/rules/0/nonResourceURLs",
                json!(["/x"]),
                &["rules[0].nonResourceURLs: Invalid value: [\"/x\"]: rules cannot apply to both \
                   regular resources and non-resource URLs"],
            ),
            case(
                "/aggregationRule",
                json!({}),
                &["aggregationRule.clusterRoleSelectors: Required value: at least one \
                   clusterRoleSelector required if aggregationRule is non-nil"],
            ),
        ],
    );
    let binding = object(
        "rbac.authorization.k8s.io/v1",
        "ClusterRoleBinding",
        json!({
            "roleRef": { "kind": "ClusterRole", "name": "r" },
            "subjects": [{ "kind": "User", "name": "jane" }],
        }),
    );
    check(
        &binding,
        &[
            case(
                "/roleRef/kind",
                json!("Role"),
                &["roleRef.kind: Unsupported value: \"Role\": supported values: \"ClusterRole\""],
            ),
            case(
                "/subjects/0",
                json!({ "kind": "ServiceAccount", "name": "a" }),
                &["subjects[0].namespace: Required value"],
            ),
            case(
                "/subjects/0/apiGroup",
                json!("x"),
                &["subjects[0].apiGroup: Unsupported value: \"x\": supported values: \
                   \"rbac.authorization.k8s.io\""],
            ),
            case(
                "/subjects/0/kind",
                json!("Robot"),
                &["subjects[0].kind: Unsupported value: \"Robot\": supported values: \"Group\", \
                   \"ServiceAccount\", \"User\""],
            ),
        ],
    );
    check_updates(
        &binding,
        &[
            case("/subjects", json!([]), &[]),
            case(
                "/roleRef/name",
                json!("s"),
                &["roleRef: Invalid value: {\"apiGroup\":\"rbac.authorization.k8s.io\",\"kind\":\
                   \"ClusterRole\",\"name\":\"s\"}: cannot change roleRef"],
            ),
        ],
    );
}

/// An empty request, well formed on the outside.
fn signing_request() -> Value {
    use base64::Engine;
    let pem = "-----BEGIN CERTIFICATE REQUEST-----\nMAIFAA==\n-----END CERTIFICATE REQUEST-----\n";
    let request = base64::engine::general_purpose::STANDARD.encode(pem);
    object(
        "certificates.k8s.io/v1",
        "CertificateSigningRequest",
        json!({ "spec": {
            "request": request, "signerName": "example.com/s", "usages": ["client auth"],
        } }),
    )
}

#[test]
fn certificate_signing_requests() {
    check(
        &signing_request(),
        &[
            case(
                "/spec/request",
                json!("eA=="),
                &["spec.request: Invalid value: \"eA==\": PEM block type must be CERTIFICATE \
                   REQUEST"],
            ),
            case("/spec/usages", Value::Null, &["spec.usages: Required value"]),
            case(
                "/spec/signerName",
                json!("s"),
                &["spec.signerName: Invalid value: \"s\": must be a fully qualified domain and \
                   path of the form 'example.com/signer-name'"],
            ),
            case(
                "/spec/expirationSeconds",
                json!(599),
                &["spec.expirationSeconds: Invalid value: 599: may not specify a duration less \
                   than 600 seconds (10 minutes)"],
            ),
        ],
    );
}

#[test]
fn each_part_of_a_signing_request_has_its_own_writer() {
    let kind = kind_of(&signing_request());
    let old = signing_request();
    let condition = |kind: &str| json!({ "type": kind, "status": "True" });
    let written = |part, status: Value, old: &Value| -> Vec<String> {
        let mut new = old.clone();
        new.set("status", status);
        crate::strategy::prepare_for_update(kind, part, &mut new, old);
        validate_update(kind, part, &new, old).iter().map(ToString::to_string).collect()
    };
    let approval = Some(Subresource::Approval);
    let approved = json!({ "conditions": [condition("Approved")] });
    assert_eq!(written(approval, approved.clone(), &old), Vec::<String>::new());
    let both = json!({ "conditions": [condition("Approved"), condition("Denied")] });
    assert_eq!(
        written(approval, both, &old),
        [
            "status.conditions[1].type: Invalid value: \"Denied\": Approved and Denied conditions are \
          mutually exclusive"
        ]
    );
    let mut done = old.clone();
    done.set("status", approved);
    assert_eq!(
        written(approval, json!({ "conditions": [] }), &done),
        ["status.conditions: Forbidden: updates may not remove a condition of type \"Approved\""]
    );
    // Approvals that come with the status are not taken over; the certificate is, once.
    let issued = json!({ "conditions": [condition("Denied")], "certificate": "eA==" });
    assert_eq!(written(Some(Subresource::Status), issued.clone(), &done), Vec::<String>::new());
    done["status"].set("certificate", "eQ==");
    assert_eq!(
        written(Some(Subresource::Status), issued, &done),
        ["status.certificate: Forbidden: updates may not modify existing certificate content"]
    );
}
