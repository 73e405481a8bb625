//! Questions to an API server in this process, over TLS on loopback.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use portolan_apiserver::pki::{Pki, Usage};
use portolan_apiserver::{Config, Server};
use portolan_client::{Source, connect};
use portolan_store::{Options, Store};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::ask::ask;

struct Cluster {
    dir: tempfile::TempDir,
    client: Client,
    /// The cluster IP that the server gave to default/web.
    web: String,
}

impl Cluster {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let pki = Arc::new(Pki::ephemeral().unwrap());
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let pair = pki.issue("admin", Some("system:masters"), &[], Usage::Client).unwrap();
        let path = dir.path().join("kubeconfig");
        std::fs::write(&path, pki.kubeconfig(&format!("https://{address}"), "admin", &pair))
            .unwrap();
        let server = Server::new(Config {
            store: Store::open(&dir.path().join("state"), Options::default()).unwrap(),
            pki,
            service_cidrs: vec!["10.96.0.0/12".parse().unwrap()],
            node_port_range: 30000..=32767,
            advertise: SocketAddr::from(([172, 30, 0, 1], 6443)),
        })
        .await
        .unwrap();
        tokio::spawn(async move { server.serve(vec![listener], CancellationToken::new()).await });
        let client = connect(Source::Kubeconfig(path)).await.unwrap();
        let mut this = Self { dir, client, web: String::new() };
        this.fill().await;
        this
    }

    fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("kubeconfig")
    }

    async fn fill(&mut self) {
        let post = PostParams::default();
        for (name, address) in [("node-1", "172.30.0.11"), ("node-2", "172.30.0.12")] {
            let nodes: Api<core::Node> = Api::all(self.client.clone());
            let node = json!({"metadata": {"name": name}});
            nodes.create(&post, &serde_json::from_value(node).unwrap()).await.unwrap();
            let addresses = json!([{"type": "InternalIP", "address": address}]);
            let status = Patch::Merge(json!({"status": {"addresses": addresses}}));
            nodes.patch_status(name, &PatchParams::default(), &status).await.unwrap();
        }
        let services: Api<core::Service> = Api::default_namespaced(self.client.clone());
        let service = json!({
            "metadata": {"name": "web"},
            "spec": {"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]},
        });
        let made = services.create(&post, &serde_json::from_value(service).unwrap()).await.unwrap();
        self.web = made.spec.unwrap().cluster_ip.unwrap();
        let slices: Api<discovery::EndpointSlice> = Api::default_namespaced(self.client.clone());
        let slice = json!({
            "metadata": {"name": "web-a", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4",
            "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
            "endpoints": [
                {"addresses": ["10.244.0.2"], "nodeName": "node-1"},
                {"addresses": ["10.244.1.2"], "nodeName": "node-2", "conditions": {"ready": false}},
            ],
        });
        slices.create(&post, &serde_json::from_value(slice).unwrap()).await.unwrap();
        // No controller runs here that would make the account which pods need.
        let accounts: Api<core::ServiceAccount> = Api::default_namespaced(self.client.clone());
        let account = json!({"metadata": {"name": "default"}});
        accounts.create(&post, &serde_json::from_value(account).unwrap()).await.unwrap();
        let pods: Api<core::Pod> = Api::default_namespaced(self.client.clone());
        let pod = json!({
            "metadata": {"name": "client"},
            "spec": {"nodeName": "node-1", "containers": [{"name": "c", "image": "i"}]},
        });
        pods.create(&post, &serde_json::from_value(pod).unwrap()).await.unwrap();
        let ips = json!({"status": {"podIP": "10.244.0.9", "podIPs": [{"ip": "10.244.0.9"}]}});
        pods.patch_status("client", &PatchParams::default(), &Patch::Merge(ips)).await.unwrap();
        let maps: Api<core::ConfigMap> = Api::namespaced(self.client.clone(), "kube-system");
        let configuration = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: nftables\nclusterCIDR: 10.244.0.0/16\n";
        let map =
            json!({"metadata": {"name": "kube-proxy"}, "data": {"config.conf": configuration}});
        maps.create(&post, &serde_json::from_value(map).unwrap()).await.unwrap();
    }
}

async fn asked(kubeconfig: &Path, words: &str) -> (Value, Vec<String>, u8) {
    let mut all: Vec<String> = words.split_whitespace().map(Into::into).collect();
    let kubeconfig = kubeconfig.to_str().unwrap();
    all.extend(["--kubeconfig", kubeconfig, "-o", "json"].map(Into::into));
    let printed = tokio::task::spawn_blocking(move || ask(all)).await.unwrap();
    let json = serde_json::from_str(&printed.out).unwrap_or_default();
    (json, printed.notes, printed.code)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_is_asked_for_objects_and_configuration() {
    let cluster = Cluster::start().await;
    let kubeconfig = cluster.kubeconfig();
    let (answer, notes, code) =
        asked(&kubeconfig, "trace --from pod/default/client --to svc/default/web").await;
    assert_eq!(code, 0, "{notes:?}");
    assert_eq!(answer["verdict"], "DNAT");
    assert_eq!(answer["endpoints"], json!(["10.244.0.2:8080"]));
    // The ConfigMap says which addresses are pods'.
    assert_eq!(answer["masquerade"], false);
    let by_ip = format!("trace --from 10.244.0.9 --to {}:80", cluster.web);
    let (by_ip, _, _) = asked(&kubeconfig, &by_ip).await;
    assert_eq!(by_ip["endpoints"], answer["endpoints"]);
    // And the mode: what no Service has is refused.
    let undefined = format!("trace --from pod/default/client --to {}:81", cluster.web);
    assert_eq!(asked(&kubeconfig, &undefined).await.0["verdict"], "REJECT");
    let (other, _, _) =
        asked(&kubeconfig, "trace --from external --to 172.30.0.12:30080 --node node-2").await;
    assert_eq!((&other["verdict"], &other["masquerade"]), (&json!("DNAT"), &json!(true)));
    let (_, notes, code) =
        asked(&kubeconfig, "trace --from pod/default/nobody --to svc/default/web --node node-1")
            .await;
    assert_eq!(code, 1);
    assert!(notes.last().unwrap().contains("no Pod default/nobody"), "{notes:?}");
    let (_, notes, code) = asked(
        &kubeconfig,
        "trace --from external --to svc/default/web --node node-1 --context elsewhere",
    )
    .await;
    assert_eq!(code, 1);
    assert!(notes[0].contains("elsewhere"), "{notes:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_is_compared_with_the_servers_objects() {
    let cluster = Cluster::start().await;
    let kubeconfig = cluster.kubeconfig();
    let changed = cluster.dir.path().join("changed.yaml");
    // Neither cluster IP nor node port is named: both stay.
    std::fs::write(
        &changed,
        "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec:\n  type: NodePort\n  externalTrafficPolicy: Local\n  ports: [{port: 80}]\n",
    )
    .unwrap();
    let words = format!("diff -f {} --node node-1", changed.display());
    let (answer, notes, code) = asked(&kubeconfig, &words).await;
    assert_eq!(code, 1, "{notes:?}");
    let flows = answer["flows"].as_array().unwrap();
    assert_eq!(flows.len(), 1, "{answer}");
    assert_eq!(flows[0]["to"], "172.30.0.11:30080 TCP");
    assert_eq!(flows[0]["sources"], json!(["pod", "outside"]));
    assert_eq!(flows[0]["after"]["masquerade"], false);
    let (answer, _, code) =
        asked(&kubeconfig, "diff --delete svc/default/nothing --node node-1").await;
    assert_eq!((code, answer["flows"].as_array().unwrap().len()), (0, 0));
}
