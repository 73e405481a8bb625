//! The cluster's own objects that the lab writes through the API: kube-proxy's, as kubeadm has them.
//!
//! What a user may edit (the ConfigMap, the DaemonSet) is made once and then left alone, but for
//! what the arguments of `up` decide. Addresses are written at each start. The proxy has no
//! credentials of its own: it is the service account `kube-proxy`, whose token its pod is given.

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ConfigMap, Node, ServiceAccount};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use super::agents::server_url;
use crate::config::{Config, ProxyMode};
use crate::error::LabError;
use crate::nets::Family;

/// Whether a value came from the user's arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// It wins over what is in the cluster.
    Explicitly,
    /// It is for a new cluster only.
    ByDefault,
}

const NAMESPACE: &str = "kube-system";

/// Writes kube-proxy's ServiceAccount, ConfigMap and DaemonSet.
pub(super) async fn apply_proxy(
    client: &Client,
    config: &Config,
    mode: Asked,
) -> Result<(), LabError> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), NAMESPACE);
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
    let sets: Api<DaemonSet> = Api::namespaced(client.clone(), NAMESPACE);
    let account = proxy_account();
    let existing = maps.get_opt("kube-proxy").await.map_err(api("ConfigMap kube-proxy"))?;
    let map = proxy_config_map(config, mode, existing.as_ref());
    tokio::try_join!(
        ensure(&accounts, "kube-proxy", account, Existing::Keep),
        ensure(&maps, "kube-proxy", map, Existing::Merge),
    )?;
    ensure(&sets, "kube-proxy", proxy_daemon_set(), Existing::Keep).await
}

/// Deletes the Nodes of an earlier, larger lab and marks the others as not heard of yet, so that
/// none passes for ready before its agent has said so.
pub(super) async fn reset_nodes(client: &Client, config: &Config) -> Result<(), LabError> {
    let nodes: Api<Node> = Api::all(client.clone());
    let names: Vec<String> = config.node_names().collect();
    let list = nodes.list(&ListParams::default()).await.map_err(api("Nodes"))?;
    for name in list.items.into_iter().filter_map(|node| node.metadata.name) {
        if names.contains(&name) {
            let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            let unknown = json!({"status": {"conditions": [{
                "type": "Ready",
                "status": "Unknown",
                "reason": "NodeStatusUnknown",
                "message": "The lab starts; the node's agent has not reported yet.",
                "lastTransitionTime": now,
            }]}});
            nodes
                .patch_status(&name, &PatchParams::default(), &Patch::Strategic(unknown))
                .await
                .map_err(api("Node"))?;
        } else {
            nodes.delete(&name, &DeleteParams::default()).await.map_err(api("Node"))?;
        }
    }
    Ok(())
}

/// What to do with an object that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Existing {
    Keep,
    Merge,
}

async fn ensure<K>(
    api_: &Api<K>,
    name: &str,
    value: Value,
    existing: Existing,
) -> Result<(), LabError>
where
    K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug,
    K: serde::Serialize + serde::de::DeserializeOwned,
{
    let what = || format!("{} {name}", K::kind(&()));
    let object: K = serde_json::from_value(value.clone()).map_err(|source| LabError::Api {
        what: what(),
        source: Box::new(kube::Error::SerdeError(source)),
    })?;
    match api_.create(&PostParams::default(), &object).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 409 => match existing {
            Existing::Keep => Ok(()),
            Existing::Merge => api_
                .patch(name, &PatchParams::default(), &Patch::Merge(value))
                .await
                .map(drop)
                .map_err(api(what())),
        },
        Err(error) => Err(api(what())(error)),
    }
}

fn api(what: impl Into<String>) -> impl FnOnce(kube::Error) -> LabError {
    let what = what.into();
    move |source| LabError::Api { what, source: Box::new(source) }
}

fn proxy_account() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": "kube-proxy", "namespace": NAMESPACE, "labels": {"app": "kube-proxy"}},
    })
}

fn proxy_config_map(config: &Config, mode: Asked, existing: Option<&ConfigMap>) -> Value {
    let edited = existing
        .and_then(|map| map.data.as_ref())
        .and_then(|data| data.get("config.conf"))
        .map(|text| {
            let text = with_line(text, "clusterCIDR", &config.cluster_cidr.to_string());
            match mode {
                Asked::Explicitly => with_line(&text, "mode", config.proxy_mode.as_str()),
                Asked::ByDefault => text,
            }
        });
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "kube-proxy", "namespace": NAMESPACE, "labels": {"app": "kube-proxy"}},
        "data": {
            "config.conf": edited.unwrap_or_else(|| proxy_config(config, config.proxy_mode)),
            "kubeconfig.conf": proxy_kubeconfig(config),
        },
    })
}

/// Replaces the value of a top-level key; everything else, comments too, stays as it was.
fn with_line(text: &str, key: &str, value: &str) -> String {
    let prefix = format!("{key}:");
    let mut found = false;
    let mut lines: Vec<String> = text
        .lines()
        .map(|line| {
            if line.starts_with(&prefix) {
                found = true;
                format!("{prefix} {value}")
            } else {
                line.to_owned()
            }
        })
        .collect();
    if !found {
        lines.push(format!("{prefix} {value}"));
    }
    lines.push(String::new());
    lines.join("\n")
}

fn proxy_config(config: &Config, mode: ProxyMode) -> String {
    format!(
        "\
apiVersion: kubeproxy.config.k8s.io/v1alpha1
bindAddress: \"{}\"
bindAddressHardFail: false
clientConnection:
  acceptContentTypes: \"\"
  burst: 0
  contentType: \"\"
  kubeconfig: /var/lib/kube-proxy/kubeconfig.conf
  qps: 0
clusterCIDR: {}
configSyncPeriod: 0s
conntrack:
  maxPerCore: null
  min: null
  tcpBeLiberal: false
  tcpCloseWaitTimeout: null
  tcpEstablishedTimeout: null
  udpStreamTimeout: 0s
  udpTimeout: 0s
detectLocalMode: \"\"
enableProfiling: false
healthzBindAddress: \"\"
hostnameOverride: \"\"
kind: KubeProxyConfiguration
metricsBindAddress: \"\"
mode: {}
nodePortAddresses: null
oomScoreAdj: null
portRange: \"\"
",
        // The address of all addresses of the primary family, at which health is asked for.
        match config.cluster_cidr.families().first() {
            Some(Family::Ipv6) => "::",
            _ => "0.0.0.0",
        },
        config.cluster_cidr,
        mode.as_str()
    )
}

fn proxy_kubeconfig(config: &Config) -> String {
    format!(
        "\
apiVersion: v1
kind: Config
clusters:
- cluster:
    certificate-authority: /var/run/secrets/kubernetes.io/serviceaccount/ca.crt
    server: {}
  name: default
contexts:
- context:
    cluster: default
    namespace: default
    user: default
  name: default
current-context: default
users:
- name: default
  user:
    tokenFile: /var/run/secrets/kubernetes.io/serviceaccount/token
",
        server_url(config)
    )
}

fn proxy_daemon_set() -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "kube-proxy", "namespace": NAMESPACE, "labels": {"k8s-app": "kube-proxy"}},
        "spec": {
            "selector": {"matchLabels": {"k8s-app": "kube-proxy"}},
            "updateStrategy": {"type": "RollingUpdate"},
            "template": {
                "metadata": {"labels": {"k8s-app": "kube-proxy"}},
                "spec": {
                    "priorityClassName": "system-node-critical",
                    "serviceAccountName": "kube-proxy",
                    "hostNetwork": true,
                    "nodeSelector": {"kubernetes.io/os": "linux"},
                    "tolerations": [{"operator": "Exists"}],
                    "containers": [{
                        "name": "kube-proxy",
                        "image": concat!("portolan:v", env!("CARGO_PKG_VERSION")),
                        "imagePullPolicy": "IfNotPresent",
                        "command": [
                            "/usr/local/bin/kube-proxy",
                            "--config=/var/lib/kube-proxy/config.conf",
                            "--hostname-override=$(NODE_NAME)",
                        ],
                        "env": [{
                            "name": "NODE_NAME",
                            "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}},
                        }],
                        "securityContext": {"privileged": true},
                        "volumeMounts": [
                            {"name": "kube-proxy", "mountPath": "/var/lib/kube-proxy"},
                        ],
                    }],
                    "volumes": [
                        {"name": "kube-proxy", "configMap": {"name": "kube-proxy"}},
                    ],
                },
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replacing_a_line_keeps_everything_else() {
        let text = "a: 1\n# mode: x\nmode: \"\"\n  mode: nested\n";
        assert_eq!(
            with_line(text, "mode", "nftables"),
            "a: 1\n# mode: x\nmode: nftables\n  mode: nested\n"
        );
        assert_eq!(with_line("a: 1", "mode", "ipvs"), "a: 1\nmode: ipvs\n");
    }
}
