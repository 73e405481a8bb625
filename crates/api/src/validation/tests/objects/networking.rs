//! Ingresses, their classes, and network policies.

use super::*;

#[test]
fn ingresses() {
    let backend = json!({ "service": { "name": "web", "port": { "number": 80 } } });
    let path = json!({ "path": "/", "pathType": "Prefix", "backend": backend });
    let sound = object(
        "networking.k8s.io/v1",
        "Ingress",
        json!({ "spec": {
            "ingressClassName": "nginx",
            "rules": [{ "host": "*.example.com", "http": { "paths": [path] } }],
            "tls": [{ "hosts": ["a.example.com"], "secretName": "s" }],
        } }),
    );
    const PATH: &str = "/spec/rules/0/http/paths/0";
    let at = |rest: &str| -> &'static str { format!("{PATH}{rest}").leak() };
    check(
        &sound,
        &[
            case(
                "/spec/rules",
                Value::Null,
                &[
                    "spec: Invalid value: null: either `defaultBackend` or `rules` must be specified",
                ],
            ),
            case(
                "/spec/rules/0/host",
                json!("192.0.2.1"),
                &[
                    "spec.rules[0].host: Invalid value: \"192.0.2.1\": must be a DNS name, not an IP \
                   address",
                ],
            ),
            case(
                "/spec/rules/0/host",
                json!("a.*"),
                &[
                    "spec.rules[0].host: Invalid value: \"a.*\": a wildcard DNS-1123 subdomain must \
                   start with '*.', followed by a valid DNS subdomain, which must consist of lower \
                   case alphanumeric characters, '-' or '.' and end with an alphanumeric character \
                   (e.g. '*.example.com', regex used for validation is \
                   '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
                ],
            ),
            case(
                "/spec/rules/0/http/paths",
                json!([]),
                &["spec.rules[0].http.paths: Required value"],
            ),
            case(
                at("/pathType"),
                Value::Null,
                &["spec.rules[0].http.paths[0].pathType: Required value: pathType must be \
                   specified"],
            ),
            case(
                at("/pathType"),
                json!("Regex"),
                &["spec.rules[0].http.paths[0].pathType: Unsupported value: \"Regex\": supported \
                   values: \"Exact\", \"ImplementationSpecific\", \"Prefix\""],
            ),
            case(
                at("/path"),
                json!("a"),
                &["spec.rules[0].http.paths[0].path: Invalid value: \"a\": must be an absolute \
                   path"],
            ),
            case(
                at("/path"),
                json!("/a//b/."),
                &[
                    "spec.rules[0].http.paths[0].path: Invalid value: \"/a//b/.\": must not \
                     contain '//'",
                    "spec.rules[0].http.paths[0].path: Invalid value: \"/a//b/.\": cannot end \
                     with '/.'",
                ],
            ),
            case(
                at("/backend"),
                json!({}),
                &["spec.rules[0].http.paths[0].backend: Invalid value: \"\": resource or service \
                   backend is required"],
            ),
            case(
                at("/backend/service/port/name"),
                json!("http"),
                &[
                    "spec.rules[0].http.paths[0].backend: Invalid value: \"\": cannot set both port \
                   name & port number",
                ],
            ),
            case(
                at("/backend/service/port"),
                json!({}),
                &["spec.rules[0].http.paths[0].backend: Required value: port name or number is \
                   required"],
            ),
            case(
                at("/backend/service/name"),
                json!(""),
                &["spec.rules[0].http.paths[0].backend.service.name: Required value"],
            ),
            case(
                at("/backend/service/port/number"),
                json!(70000),
                &[
                    "spec.rules[0].http.paths[0].backend.service.port.number: Invalid value: 70000: \
                   must be between 1 and 65535, inclusive",
                ],
            ),
            case(
                "/metadata/annotations",
                json!({ "kubernetes.io/ingress.class": "other" }),
                &["annotations.kubernetes.io/ingress.class: Invalid value: \"other\": must match \
                   `ingressClassName` when both are specified"],
            ),
        ],
    );
}

#[test]
fn ingress_classes() {
    let sound = object(
        "networking.k8s.io/v1",
        "IngressClass",
        json!({ "spec": { "controller": "example.com/c" } }),
    );
    check(
        &sound,
        &[
            case("/spec/controller", json!(""), &["spec.controller: Required value"]),
            case(
                "/spec/controller",
                json!("c"),
                &[
                    "spec.controller: Invalid value: \"c\": must be a domain-prefixed path (such as \
                   \"acme.io/foo\")",
                ],
            ),
            case(
                "/spec/controller",
                json!("a.io/b c"),
                &[
                    "spec.controller: Invalid value: \"b c\": Invalid path (regex used for validation \
                   is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')",
                ],
            ),
            case(
                "/spec/parameters",
                json!({ "kind": "P", "name": "p", "scope": "Namespace" }),
                &["spec.parameters.namespace: Required value: `parameters.scope` is set to \
                   'Namespace'"],
            ),
            case(
                "/spec/parameters",
                json!({ "kind": "P", "name": "p", "namespace": "n" }),
                &["spec.parameters.namespace: Forbidden: `parameters.scope` is set to 'Cluster'"],
            ),
        ],
    );
    check_updates(
        &sound,
        &[case(
            "/spec/controller",
            json!("example.com/d"),
            &["spec.controller: Invalid value: \"example.com/d\": field is immutable"],
        )],
    );
}

#[test]
fn network_policies() {
    let sound = object(
        "networking.k8s.io/v1",
        "NetworkPolicy",
        json!({ "spec": {
            "podSelector": {},
            "ingress": [{
                "from": [{ "podSelector": { "matchLabels": { "a": "b" } } }],
                "ports": [{ "port": 80, "endPort": 90 }, { "port": "web" }],
            }],
            "egress": [{ "to": [{ "ipBlock": {
                "cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"],
            } }] }],
        } }),
    );
    check(
        &sound,
        &[
            case(
                "/spec/ingress/0/ports/0/endPort",
                json!(79),
                &["spec.ingress[0].ports[0].endPort: Invalid value: 80: must be greater than or \
                   equal to `port`"],
            ),
            case(
                "/spec/ingress/0/ports/1/endPort",
                json!(80),
                &[
                    "spec.ingress[0].ports[1].endPort: Invalid value: 80: may not be specified when \
                   `port` is non-numeric",
                ],
            ),
            case(
                "/spec/ingress/0/ports/0/port",
                Value::Null,
                &[
                    "spec.ingress[0].ports[0].endPort: Invalid value: 90: may not be specified when \
                   `port` is not specified",
                ],
            ),
            case(
                "/spec/ingress/0/ports/0/protocol",
                json!("ICMP"),
                &["spec.ingress[0].ports[0].protocol: Unsupported value: \"ICMP\": supported \
                   values: \"SCTP\", \"TCP\", \"UDP\""],
            ),
            case(
                "/spec/ingress/0/from/0",
                json!({}),
                &["spec.ingress[0].from[0]: Required value: must specify a peer"],
            ),
            case(
                "/spec/egress/0/to/0/podSelector",
                json!({}),
                &["spec.egress[0].to[0]: Forbidden: may not specify both ipBlock and another peer"],
            ),
            case(
                "/spec/egress/0/to/0/ipBlock/except/0",
                json!("11.0.0.0/16"),
                &[
                    "spec.egress[0].to[0].ipBlock.except[0]: Invalid value: \"11.0.0.0/16\": must be \
                   a strict subset of `cidr`",
                ],
            ),
            case(
                "/spec/policyTypes",
                json!(["Egress", "Both"]),
                &[
                    "spec.policyTypes[1]: Unsupported value: \"Both\": supported values: \"Egress\", \
                   \"Ingress\"",
                ],
            ),
            case(
                "/spec/podSelector",
                json!({ "matchExpressions": [{ "key": "a", "operator": "In" }] }),
                &[
                    "spec.podSelector.matchExpressions[0].values: Required value: must be specified \
                   when `operator` is 'In' or 'NotIn'",
                ],
            ),
        ],
    );
}

#[test]
fn the_status_of_an_ingress_or_budget_is_checked() {
    for (api_version, kind, status, expected) in [
        (
            "networking.k8s.io/v1",
            "Ingress",
            json!({ "loadBalancer": { "ingress": [
                { "ip": "x" }, { "hostname": "192.0.2.1" }, { "ip": "192.0.2.1" },
            ] } }),
            vec![
                "status.loadBalancer.ingress[0].ip: Invalid value: \"x\": must be a valid IP \
                 address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
                "status.loadBalancer.ingress[1].hostname: Invalid value: \"192.0.2.1\": must be a \
                 DNS name, not an IP address",
            ],
        ),
        (
            "policy/v1",
            "PodDisruptionBudget",
            json!({ "currentHealthy": -1, "expectedPods": 1 }),
            vec!["status.currentHealthy: Invalid value: -1: must be greater than or equal to 0"],
        ),
    ] {
        let object = object(api_version, kind, json!({ "status": status }));
        let causes = validate_update(kind_of(&object), Some(Subresource::Status), &object, &object);
        let causes: Vec<String> = causes.iter().map(ToString::to_string).collect();
        assert_eq!(causes, expected, "{kind}");
    }
}
