//! A network namespace with an API server, a node and a proxy.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::api::events::v1 as events;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use nix::sched::{CloneFlags, unshare};
use portolan_client::{Source, connect};
use portolan_netlink::link::{Links, Netns, Route, VethEnd};
use portolan_netlink::nft::{Dump, Family, Socket, TableRef};
use portolan_netlink::sysctl;
use portolan_proxy::config::Settings;
use portolan_proxy::config::load::parse;
use portolan_proxy::{ProxyError, run_with};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::apiserver::{ApiServer, Origin, Relay};

/// How long a test waits for something that must happen.
const PATIENCE: Duration = Duration::from_secs(30);

/// The addresses of the namespace: the node's, and some of pods that run on it.
pub(crate) const NODE: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 11);
pub(crate) const PODS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 244, 0, 5), Ipv4Addr::new(10, 244, 0, 6)];

/// The same in IPv6.
pub(crate) const NODE_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x172, 0x30, 0, 0, 0, 0, 0x11);
pub(crate) const POD_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, 5);

/// A Service that is there from the beginning, with a cluster IP of each family.
pub(crate) const DUAL: &str = "dual";
pub(crate) const DUAL_IPS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 96, 7, 7)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 7)),
];
pub(crate) const DUAL_PORT: u16 = 30077;

fn dual() -> Value {
    json!({
        "metadata": {"name": DUAL},
        "spec": {
            "type": "NodePort",
            "clusterIP": DUAL_IPS[0],
            "clusterIPs": DUAL_IPS,
            "ipFamilies": ["IPv4", "IPv6"],
            "ipFamilyPolicy": "RequireDualStack",
            "ports": [{"port": 80, "protocol": "TCP", "targetPort": 8080, "nodePort": DUAL_PORT}],
        },
    })
}

/// The environment variable with the modes to test, where not those that every kernel has: `ipvs`.
const MODES_GIVEN: &str = "PORTOLAN_TEST_MODES";

/// The modes whose rules any traffic must find its way through.
fn modes() -> Vec<&'static str> {
    let given = std::env::var(MODES_GIVEN).unwrap_or_else(|_| "nftables,iptables".into());
    let all = ["nftables", "iptables", "ipvs"];
    let is_given = |mode: &&str| given.split(',').any(|other| other == *mode);
    let modes: Vec<_> = all.into_iter().filter(is_given).collect();
    assert!(!modes.is_empty(), "{MODES_GIVEN}={given} names no mode");
    modes
}

/// Runs `body` in a network namespace with the node's addresses, once for each mode of the proxy;
/// skips when none may be made.
pub(crate) fn in_each_mode<F>(test: &str, body: impl Fn(Fixture) -> F + Clone + Send + 'static)
where
    F: Future<Output = ()>,
{
    for mode in modes() {
        println!("in mode {mode}");
        if !in_mode(mode, test, body.clone()) {
            return;
        }
    }
}

/// As [`in_each_mode`], for what is of mode nftables alone.
pub(crate) fn in_namespace<F>(test: &str, body: impl FnOnce(Fixture) -> F + Send + 'static)
where
    F: Future<Output = ()>,
{
    in_mode("nftables", test, body);
}

/// As [`in_each_mode`], in one mode; whether it was not skipped.
pub(crate) fn in_mode<F>(
    mode: &'static str,
    test: &str,
    body: impl FnOnce(Fixture) -> F + Send + 'static,
) -> bool
where
    F: Future<Output = ()>,
{
    let origin = Origin::of_environment();
    let relay = origin.relay();
    let made = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET)?;
        sysctl::plain_ipv6().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            addresses().await;
            body(Fixture::start(mode, relay).await).await;
        });
        Ok::<_, nix::Error>(())
    })
    .join();
    origin.close();
    match made {
        Ok(Ok(())) => true,
        Ok(Err(e)) => {
            println!("SKIP {test}: cannot make a network namespace: {e}");
            false
        }
        Err(panic) => resume_unwind(panic),
    }
}

async fn addresses() {
    let links = Links::open().unwrap();
    links.set_up("lo").await.unwrap();
    for ip in [NODE, PODS[0], PODS[1]] {
        links.add_address("lo", IpAddr::from(ip).into()).await.unwrap();
    }
    for ip in [NODE_V6, POD_V6] {
        links.add_address("lo", IpAddr::from(ip).into()).await.unwrap();
    }
    let end = |name| VethEnd { name, mac: None };
    links.add_veth(end("out"), end("nowhere"), Netns::Here).await.unwrap();
    for name in ["out", "nowhere"] {
        links.set_up(name).await.unwrap();
    }
    // Packets to cluster IPs need a way out of the process before rules turn them. It is not the
    // loopback link: a refusal that iptables sends does not come back from there.
    for (services, node) in [("10.96.0.0/12", NODE.into()), ("fd00:10:96::/112", NODE_V6.into())] {
        let route = Route::on_link(services.parse().unwrap(), "out").prefer(node);
        links.add_route(&route).await.unwrap();
    }
}

pub(crate) struct Fixture {
    dir: TempDir,
    address: SocketAddr,
    server: ApiServer,
    pub(crate) client: Client,
    /// Where the Services are.
    pub(crate) namespace: &'static str,
    /// The proxy's.
    pub(crate) mode: &'static str,
}

impl Fixture {
    async fn start(mode: &'static str, relay: Option<Arc<Relay>>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind((NODE, 6443)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut server = ApiServer::new(relay, dir.path());
        let path = dir.path().join("kubeconfig");
        std::fs::write(&path, server.kubeconfig(address, None)).unwrap();
        let client = connect(Source::Kubeconfig(path)).await.unwrap();
        server.serve(listener, address);
        let namespace = server.namespace(&client).await;
        let this = Self { dir, address, server, client, namespace, mode };
        let services: Api<core::Service> = Api::default_namespaced(this.client.clone());
        let dual = serde_json::from_value(dual()).unwrap();
        services.create(&PostParams::default(), &dual).await.unwrap();
        let addresses: Vec<_> = [IpAddr::from(NODE), NODE_V6.into()]
            .map(|address| json!({"type": "InternalIP", "address": address}))
            .into();
        let node = json!({
            "metadata": {"name": "node-1"},
            "status": {"addresses": addresses},
        });
        let nodes: Api<core::Node> = Api::all(this.client.clone());
        let node: core::Node = serde_json::from_value(node).unwrap();
        nodes.create(&PostParams::default(), &node).await.unwrap();
        let status = json!({"status": {"addresses": addresses}});
        nodes.patch_status("node-1", &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
        this
    }

    /// Stops the API server; clients see broken watches and refused connections.
    pub(crate) fn stop_server(&mut self) {
        self.server.stop();
    }

    /// Starts the API server again, on what it has stored.
    pub(crate) async fn start_server(&mut self) {
        // The last one's listener may take a moment to close.
        let listener =
            until("the API server's port", async || TcpListener::bind(self.address).await.ok())
                .await;
        self.server.serve(listener, self.address);
    }

    /// A client with a user's rights.
    pub(crate) async fn client_of(&self, user: &str) -> Client {
        let path = self.dir.path().join("kubeconfig-of-a-user");
        std::fs::write(&path, self.server.kubeconfig(self.address, Some(user))).unwrap();
        connect(Source::Kubeconfig(path)).await.unwrap()
    }

    /// The administrator's kubeconfig, beside which files may be put.
    pub(crate) fn kubeconfig(&self) -> std::path::PathBuf {
        self.dir.path().join("kubeconfig")
    }

    /// The event with this reason about the node or one of the test's objects.
    pub(crate) async fn event(&self, reason: &str) -> events::Event {
        let all: Api<events::Event> = Api::all(self.client.clone());
        let is_ours = |event: &events::Event| {
            let regarding = event.regarding.as_ref();
            event.metadata.namespace.as_deref() == Some(self.namespace)
                || regarding.and_then(|of| of.name.as_deref()) == Some("node-1")
        };
        until(&format!("an event {reason}"), async || {
            let all = all.list(&ListParams::default()).await.ok()?.items.into_iter();
            all.filter(is_ours).find(|event| event.reason.as_deref() == Some(reason))
        })
        .await
    }

    /// Starts a proxy for node-1.
    pub(crate) fn proxy(&self) -> Proxy {
        self.proxy_with("")
    }

    /// Starts a proxy for node-1 with more lines of configuration.
    pub(crate) fn proxy_with(&self, more: &str) -> Proxy {
        Proxy::start(self.client.clone(), self.mode, more)
    }

    /// A Service with these ports and a cluster IP chosen by the API server.
    pub(crate) async fn service(&self, name: &str, spec: Value) -> Ipv4Addr {
        let service = json!({"metadata": {"name": name}, "spec": spec});
        let service: core::Service = serde_json::from_value(service).unwrap();
        let api: Api<core::Service> = Api::default_namespaced(self.client.clone());
        let made = api.create(&PostParams::default(), &service).await.unwrap();
        made.spec.unwrap().cluster_ip.unwrap().parse().unwrap()
    }

    /// The Service's only EndpointSlice of a family, as server-side truth: made or replaced.
    pub(crate) async fn endpoints(&self, service: &str, protocol: &str, ends: &[SocketAddr]) {
        let is_v6 = ends.first().is_some_and(SocketAddr::is_ipv6);
        let name = format!("{service}-{}", if is_v6 { "v6" } else { "v4" });
        let port = ends.first().map_or(1, SocketAddr::port);
        let endpoints: Vec<_> =
            ends.iter().map(|end| json!({"addresses": [end.ip()], "nodeName": "node-1"})).collect();
        let slice = json!({
            "metadata": {
                "name": name,
                "labels": {"kubernetes.io/service-name": service},
            },
            "addressType": if is_v6 { "IPv6" } else { "IPv4" },
            "ports": [{"name": "", "port": port, "protocol": protocol}],
            "endpoints": endpoints,
        });
        let api: Api<discovery::EndpointSlice> = Api::default_namespaced(self.client.clone());
        let mut slice: discovery::EndpointSlice = serde_json::from_value(slice).unwrap();
        match api.get_opt(&name).await.unwrap() {
            None => api.create(&PostParams::default(), &slice).await.unwrap(),
            Some(before) => {
                slice.metadata.resource_version = before.metadata.resource_version;
                api.replace(&name, &PostParams::default(), &slice).await.unwrap()
            }
        };
    }
}

/// A running proxy.
pub(crate) struct Proxy {
    stop: CancellationToken,
    task: JoinHandle<Result<(), ProxyError>>,
}

impl Proxy {
    /// Starts a proxy with more lines of configuration.
    pub(crate) fn start(client: Client, mode: &str, more: &str) -> Self {
        let text = format!(
            "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n\
             mode: {mode}\nclusterCIDR: 10.244.0.0/16,fd00:10:244::/48\n{more}"
        );
        let mut configuration = parse(&text).unwrap().configuration;
        configuration.set_defaults();
        let settings = Settings::check(configuration, "node-1").unwrap();
        let stop = CancellationToken::new();
        let task = tokio::spawn(run_with(settings, client, stop.clone()));
        Self { stop, task }
    }

    /// Stops it; its rules stay.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}

/// Waits until `ready` has something to show.
pub(crate) async fn until<T>(what: &str, mut ready: impl AsyncFnMut() -> Option<T>) -> T {
    let waited = tokio::time::timeout(PATIENCE, async {
        loop {
            if let Some(found) = ready().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

/// The proxy's IPv4 table.
pub(crate) fn table() -> Option<Dump> {
    Socket::open()
        .unwrap()
        .dump(&TableRef::new(Family::Ip, portolan_backend_nftables::TABLE))
        .unwrap()
}

/// The IPv4 rules that iptables sees.
pub(crate) fn iptables_save() -> String {
    let out = std::process::Command::new("iptables-save").output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// A server that answers every connection with its name; its address.
pub(crate) async fn server(ip: impl Into<IpAddr>, name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind((ip.into(), 8080)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            // A client that is gone needs no answer.
            let _ = stream.write_all(name.as_bytes()).await;
        }
    });
    address
}

/// What a new connection gets for an answer: the server's name, or the error.
pub(crate) async fn ask(to: impl Into<SocketAddr>) -> Result<String, std::io::ErrorKind> {
    let to = to.into();
    // Longer than a first retransmission: a refusal by ICMPv6 is heeded only then.
    let connect = tokio::time::timeout(Duration::from_millis(1500), TcpStream::connect(to));
    let mut stream = match connect.await {
        Ok(Ok(stream)) => stream,
        Ok(Err(e)) => return Err(e.kind()),
        Err(_) => return Err(std::io::ErrorKind::TimedOut),
    };
    let mut name = String::new();
    stream.read_to_string(&mut name).await.map_err(|e| e.kind())?;
    Ok(name)
}

/// Waits until a new connection gets this answer.
pub(crate) async fn until_answer(to: impl Into<SocketAddr>, name: &str) {
    let to = to.into();
    until(&format!("the answer {name} at {to}"), async || {
        (ask(to).await.as_deref() == Ok(name)).then_some(())
    })
    .await;
}
