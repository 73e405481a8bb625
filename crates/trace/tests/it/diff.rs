//! Changes on files: which flows they alter, and which they do not.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::ask::ask;

const CLUSTER: &str = "
apiVersion: v1
kind: Node
metadata: {name: node-1}
status: {addresses: [{type: InternalIP, address: 172.30.0.11}, {type: InternalIP, address: 'fd00:172:30::11'}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec:
  type: NodePort
  clusterIPs: [10.96.0.10, 'fd00:10:96::10']
  ports: [{port: 80, nodePort: 30080}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-4, namespace: default, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [10.244.0.2], nodeName: node-1}, {addresses: [10.244.1.2], nodeName: node-2}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-6, namespace: default, labels: {kubernetes.io/service-name: web}}
addressType: IPv6
ports: [{port: 8080}]
endpoints: [{addresses: ['fd00:10:244::2'], nodeName: node-1}, {addresses: ['fd00:10:244:1::2'], nodeName: node-2}]
";

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        let this = Self(tempfile::tempdir().unwrap());
        this.write("base.yaml", CLUSTER);
        this
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Flows that change, and the exit code; `more` are further arguments.
    fn diff(&self, changed: Option<&str>, more: &[&str]) -> (Vec<Value>, String, u8) {
        let base = self.0.path().join("base.yaml");
        let mut words: Vec<String> =
            ["diff", "--cluster-cidr", "10.244.0.0/16,fd00:10:244::/48", "--base"]
                .map(Into::into)
                .into();
        words.push(base.to_str().unwrap().into());
        if let Some(text) = changed {
            words.extend(["-f".into(), self.write("changed.yaml", text).to_str().unwrap().into()]);
        }
        words.extend(more.iter().map(|word| (*word).to_owned()));
        let text = ask(&words);
        let json = ask(words.iter().map(String::as_str).chain(["-o", "json"]));
        assert_eq!(text.code, json.code);
        let value: Value = serde_json::from_str(&json.out).unwrap_or_default();
        let flows = value["flows"].as_array().cloned().unwrap_or_default();
        (flows, text.out + &text.notes.join("\n"), text.code)
    }
}

fn to(flows: &[Value]) -> Vec<&str> {
    flows.iter().map(|flow| flow["to"].as_str().unwrap()).collect()
}

const LOCAL: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, externalTrafficPolicy: Local, ports: [{port: 80}]}
";

#[test]
fn a_policy_changes_external_flows_alone() {
    let files = Files::new();
    let (flows, text, code) = files.diff(Some(LOCAL), &["--proxy-mode", "nftables"]);
    assert_eq!(code, 1);
    assert_eq!(
        to(&flows),
        [
            "172.30.0.11:30080 TCP",
            "172.30.0.11:30080 TCP",
            "[fd00:172:30::11]:30080 TCP",
            "[fd00:172:30::11]:30080 TCP"
        ]
    );
    assert_eq!(flows[0]["sources"], json!(["pod"]));
    assert_eq!(flows[1]["sources"], json!(["outside"]));
    assert_eq!(flows[1]["before"]["endpoints"], json!(["10.244.0.2:8080", "10.244.1.2:8080"]));
    assert_eq!(flows[1]["after"]["endpoints"], json!(["10.244.0.2:8080"]));
    assert_eq!(flows[1]["after"]["masquerade"], false);
    assert!(text.contains("172.30.0.11:30080 TCP from outside the cluster\n- DNAT to 10.244.0.2:8080, 10.244.1.2:8080, masqueraded (default/web)\n+ DNAT to 10.244.0.2:8080 (default/web)\n"), "{text}");
    assert!(text.contains("4 flows change"), "{text}");
}

#[test]
fn a_change_that_no_client_sees_is_none() {
    let files = Files::new();
    let labels = "apiVersion: v1\nkind: Service\nmetadata: {name: web, labels: {a: b}}\nspec: {type: NodePort, ports: [{port: 80}]}\n";
    let (flows, text, code) = files.diff(Some(labels), &[]);
    assert_eq!((flows.len(), code), (0, 0), "{text}");
    assert!(text.contains("no flow changes"));
}

#[test]
fn a_deletion_refuses_or_frees() {
    let files = Files::new();
    let (flows, _, code) =
        files.diff(None, &["--delete", "endpointslice/default/web-4", "--proxy-mode", "nftables"]);
    assert_eq!(code, 1);
    assert_eq!(to(&flows), ["10.96.0.10:80 TCP", "10.96.0.10:80 TCP", "172.30.0.11:30080 TCP"]);
    assert!(flows.iter().all(|flow| flow["after"]["verdict"] == "REJECT"));
    assert_eq!(flows[2]["sources"], json!(["pod", "node", "outside"]));
    let (flows, _, _) =
        files.diff(None, &["--delete", "svc/default/web", "--proxy-mode", "nftables"]);
    assert_eq!(flows.iter().filter(|flow| flow["to"] == "any other port of 10.96.0.10").count(), 1);
    assert!(flows.iter().all(|flow| flow["after"]["verdict"] == "ACCEPT"));
}

#[test]
fn endpoints_affinity_ranges_and_service_cidrs_are_compared() {
    let files = Files::new();
    let affine = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {type: NodePort, sessionAffinity: ClientIP, ports: [{port: 80}]}\n";
    let (flows, _, _) = files.diff(Some(affine), &[]);
    assert!(flows.iter().all(|flow| flow["after"]["affinitySeconds"] == 10800));
    assert!(flows.iter().any(|flow| flow["to"] == "127.0.0.1:30080 TCP"), "{flows:?}");
    let balanced = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {type: LoadBalancer, loadBalancerSourceRanges: [203.0.113.0/24], ports: [{port: 80}]}\nstatus: {loadBalancer: {ingress: [{ip: 192.0.2.1}]}}\n";
    let (flows, text, _) = files.diff(Some(balanced), &["--proxy-mode", "nftables"]);
    assert_eq!(to(&flows), ["192.0.2.1:80 TCP"], "{text}");
    assert_eq!(flows[0]["after"]["admitted"], json!(["203.0.113.0/24"]));
    let range = "apiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {name: more}\nspec: {cidrs: [10.96.0.0/16]}\n";
    let (flows, _, _) = files.diff(Some(range), &["--proxy-mode", "nftables"]);
    assert_eq!(to(&flows), ["any unallocated address of 10.96.0.0/16"]);
    let (_, _, code) = files.diff(Some(range), &["--proxy-mode", "iptables"]);
    assert_eq!(code, 0);
}

#[test]
fn a_node_can_change_too() {
    let files = Files::new();
    let moved = "apiVersion: v1\nkind: Node\nmetadata: {name: node-1}\nstatus: {addresses: [{type: InternalIP, address: 172.30.0.21}, {type: InternalIP, address: 'fd00:172:30::11'}]}\n";
    let (flows, _, _) = files.diff(Some(moved), &["--proxy-mode", "nftables"]);
    assert_eq!(to(&flows), ["172.30.0.11:30080 TCP", "172.30.0.21:30080 TCP"]);
}

#[test]
fn what_cannot_be_compared_is_an_error_or_a_note() {
    let files = Files::new();
    let fresh = "apiVersion: v1\nkind: Service\nmetadata: {name: fresh}\nspec: {ports: [{port: 80}]}\n---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, namespace: default}\n";
    let (flows, text, code) = files.diff(Some(fresh), &[]);
    assert_eq!((flows.len(), code), (0, 0));
    assert!(text.contains("Service default/fresh has no cluster IP yet"), "{text}");
    assert!(text.contains("Deployment default/web decides about no packet"), "{text}");
    assert_eq!(files.diff(None, &["--delete", "svc/web"]).2, 2);
    assert_eq!(files.diff(None, &[]).2, 2);
    assert_eq!(files.diff(Some("kind: ["), &[]).2, 2);
    assert_eq!(files.diff(Some("kind: Service\napiVersion: v1\n"), &[]).2, 2);
}
