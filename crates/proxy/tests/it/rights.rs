//! The proxy needs no more rights than upstream's ClusterRole gives it.

use std::collections::BTreeSet;

use k8s_openapi::api::rbac::v1 as rbac;
use kube::Api;
use kube::api::ListParams;
use serde_json::json;

use crate::fixture::{PODS, Proxy, in_each_mode, in_namespace, server, until_answer};

/// What `system:node-proxier` may: API group, resource, verb.
///
/// Upstream rule: `NodeRules` and its neighbours in plugin/pkg/auth/authorizer/rbac/bootstrappolicy/policy.go.
const RIGHTS: [(&str, &str, &str); 17] = [
    ("", "endpoints", "list"),
    ("", "endpoints", "watch"),
    ("", "events", "create"),
    ("", "events", "patch"),
    ("", "events", "update"),
    ("", "nodes", "get"),
    ("", "nodes", "list"),
    ("", "nodes", "watch"),
    ("", "services", "list"),
    ("", "services", "watch"),
    ("discovery.k8s.io", "endpointslices", "list"),
    ("discovery.k8s.io", "endpointslices", "watch"),
    ("events.k8s.io", "events", "create"),
    ("events.k8s.io", "events", "patch"),
    ("events.k8s.io", "events", "update"),
    ("networking.k8s.io", "servicecidrs", "list"),
    ("networking.k8s.io", "servicecidrs", "watch"),
];

#[test]
fn the_role_is_upstreams() {
    in_namespace("the_role_is_upstreams", async |api| {
        let roles: Api<rbac::ClusterRole> = Api::all(api.client.clone());
        let role = roles.get("system:node-proxier").await.unwrap();
        let mut rights = BTreeSet::new();
        for rule in role.rules.unwrap() {
            assert_eq!(rule.non_resource_urls, None);
            for group in rule.api_groups.iter().flatten() {
                for resource in rule.resources.iter().flatten() {
                    for verb in &rule.verbs {
                        rights.insert((group.clone(), resource.clone(), verb.clone()));
                    }
                }
            }
        }
        let owned = |(a, b, c): &(&str, &str, &str)| (a.to_string(), b.to_string(), c.to_string());
        assert_eq!(rights, RIGHTS.iter().map(owned).collect());
    });
}

#[test]
fn a_proxy_with_that_role_alone_does_all_its_work() {
    in_each_mode("a_proxy_with_that_role_alone_does_all_its_work", async |api| {
        let client = api.client_of("system:kube-proxy").await;
        let secrets: Api<k8s_openapi::api::core::v1::Secret> = Api::all(client.clone());
        let refused = secrets.list(&ListParams::default()).await.unwrap_err();
        assert!(matches!(refused, kube::Error::Api(status) if status.code == 403));

        let one = server(PODS[0], "one").await;
        // One setting that cannot be written, so that there is an event to be told.
        let proxy = Proxy::start(client, api.mode, "conntrack: {min: 2000000000}\n");
        let ip = api.service("web", json!({"ports": [{"port": 80}]})).await;
        api.endpoints("web", "TCP", &[one]).await;
        until_answer((ip, 80), "one").await;
        for reason in ["Starting", "SysctlNotWritten"] {
            api.event(reason).await;
        }
        proxy.stop().await;
    });
}
