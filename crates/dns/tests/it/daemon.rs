//! The whole server, with an API server of the test's own: both on the loopback.

use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use hickory_proto::op::Message;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client};
use nix::sys::signal::{Signal, raise};
use portolan_apiserver::pki::{Pki, Usage};
use portolan_apiserver::{Config, Server};
use portolan_client::{Source, connect};
use portolan_dns::{Args, DnsError, run_until};
use portolan_store::{Options, Store};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::cases::question;

/// How long a test waits for something that must happen.
const PATIENCE: Duration = Duration::from_secs(30);

/// An API server with a thread and runtime of its own: when it stops, all of it goes.
struct ApiServer {
    pki: Arc<Pki>,
    address: SocketAddr,
    running: Option<(JoinHandle<()>, CancellationToken)>,
    dir: tempfile::TempDir,
}

fn free_port() -> u16 {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl ApiServer {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let pki = Arc::new(Pki::ephemeral().unwrap());
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let pair =
            pki.issue("kubernetes-admin", Some("system:masters"), &[], Usage::Client).unwrap();
        let text = pki.kubeconfig(&format!("https://{address}"), "admin", &pair);
        std::fs::write(dir.path().join("kubeconfig"), text).unwrap();
        Self { pki, address, running: None, dir }
    }

    fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("kubeconfig")
    }

    fn start(&mut self) {
        let stop = CancellationToken::new();
        let (token, pki, address) = (stop.clone(), Arc::clone(&self.pki), self.address);
        let state = self.dir.path().join("state");
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                token.run_until_cancelled(serve(pki, &state, address)).await;
            });
        });
        self.running = Some((thread, stop));
    }

    fn stop(&mut self) {
        let (thread, stop) = self.running.take().unwrap();
        stop.cancel();
        thread.join().unwrap();
    }
}

async fn serve(pki: Arc<Pki>, state: &Path, address: SocketAddr) {
    let config = Config {
        store: Store::open(state, Options::default()).unwrap(),
        pki,
        service_cidrs: vec!["10.96.0.0/12".parse().unwrap()],
        node_port_range: 30000..=32767,
        // Only what is written into an EndpointSlice: nobody goes there.
        advertise: ([172, 30, 0, 11], address.port()).into(),
    };
    let listener = tokio::net::TcpListener::bind(address).await.unwrap();
    let server = Server::new(config).await.unwrap();
    server.serve(vec![listener], CancellationToken::new()).await.unwrap();
}

/// A server in this process.
struct Dns {
    dns: u16,
    ready: u16,
    metrics: u16,
    corefile: PathBuf,
    stop: CancellationToken,
    running: tokio::task::JoinHandle<Result<(), DnsError>>,
}

impl Dns {
    fn start(api: &ApiServer, options: &str) -> Self {
        let [dns, ready, metrics] = [free_port(), free_port(), free_port()];
        let corefile = api.dir.path().join("Corefile");
        let stop = CancellationToken::new();
        let args = Args { conf: Some(corefile.clone()), port: dns, ..Args::default() };
        let mut this = Self {
            dns,
            ready,
            metrics,
            corefile,
            running: tokio::spawn(std::future::ready(Ok(()))),
            stop: stop.clone(),
        };
        this.write(api, options);
        this.running = tokio::spawn(run_until(args, stop));
        this
    }

    fn write(&self, api: &ApiServer, options: &str) {
        let text = format!(
            ". {{\n bind 127.0.0.1\n ready 127.0.0.1:{}\n prometheus 127.0.0.1:{}\n reload\n \
             kubernetes cluster.local in-addr.arpa {{\n  kubeconfig {}\n {options}\n }}\n}}\n",
            self.ready,
            self.metrics,
            api.kubeconfig().display()
        );
        std::fs::write(&self.corefile, text).unwrap();
    }

    fn ask(&self, name: &str, qtype: u16) -> Option<Message> {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        socket.connect(("127.0.0.1", self.dns)).unwrap();
        socket.send(&question(name, qtype)).ok()?;
        let mut buffer = [0; 1500];
        let length = socket.recv(&mut buffer).ok()?;
        Some(Message::from_vec(&buffer[..length]).unwrap())
    }

    /// The code, and the data of the answer.
    fn answer(&self, name: &str, qtype: u16) -> Option<(u16, Vec<String>)> {
        let message = self.ask(name, qtype)?;
        let mut data: Vec<_> =
            message.answers.iter().map(|record| record.data.to_string()).collect();
        data.sort();
        Some((message.metadata.response_code.into(), data))
    }

    async fn until_answer(&self, name: &str, qtype: u16, code: u16, data: &[&str]) {
        let expected = Some((code, data.iter().map(ToString::to_string).collect()));
        until(name, async || self.answer(name, qtype) == expected).await;
    }
}

async fn until(what: &str, mut is: impl AsyncFnMut() -> bool) {
    let done = tokio::time::timeout(PATIENCE, async {
        while !is().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    done.await.unwrap_or_else(|_| panic!("{what}"));
}

async fn page(port: u16, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.ok()?;
    let code = text.split(' ').nth(1)?.parse().ok()?;
    Some((code, text))
}

async fn create<K>(client: &Client, value: Value)
where
    K: kube::Resource<Scope = kube::core::NamespaceResourceScope>
        + serde::Serialize
        + serde::de::DeserializeOwned
        + Clone
        + std::fmt::Debug,
    K::DynamicType: Default,
{
    let api: Api<K> = Api::default_namespaced(client.clone());
    let object = serde_json::from_value(value).unwrap();
    api.create(&PostParams::default(), &object).await.unwrap();
}

fn slice(name: &str, service: &str, endpoints: Value) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
        "endpoints": endpoints,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn names_follow_the_api_and_outlive_it() {
    let mut api = ApiServer::new();
    let dns = Dns::start(&api, "ttl 7");
    // Without the API server nothing is known, so nothing is denied.
    dns.until_answer("web.default.svc.cluster.local", 1, 2, &[]).await;
    until("ready page", async || page(dns.ready, "/ready").await.is_some()).await;
    assert_eq!(page(dns.ready, "/ready").await.unwrap().0, 503);
    api.start();
    let client = connect(Source::Kubeconfig(api.kubeconfig())).await.unwrap();
    until("ready", async || page(dns.ready, "/ready").await.is_some_and(|page| page.0 == 200))
        .await;
    dns.until_answer("web.default.svc.cluster.local", 1, 3, &[]).await;

    create::<core::Service>(
        &client,
        json!({"metadata": {"name": "web"},
               "spec": {"clusterIP": "10.96.7.7", "ports": [{"name": "http", "port": 80}]}}),
    )
    .await;
    dns.until_answer("web.default.svc.cluster.local", 1, 0, &["10.96.7.7"]).await;
    dns.until_answer("7.7.96.10.in-addr.arpa", 12, 0, &["web.default.svc.cluster.local."]).await;
    create::<core::Service>(
        &client,
        json!({"metadata": {"name": "db"}, "spec": {"clusterIP": "None", "ports": [{"name": "http", "port": 80}]}}),
    )
    .await;
    create::<discovery::EndpointSlice>(
        &client,
        slice(
            "db-1",
            "db",
            json!([
                {"addresses": ["10.244.1.5"], "hostname": "db-0", "conditions": {"ready": true}},
                {"addresses": ["10.244.1.6"], "hostname": "db-1", "conditions": {"ready": false}},
            ]),
        ),
    )
    .await;
    dns.until_answer("db-0.db.default.svc.cluster.local", 1, 0, &["10.244.1.5"]).await;
    dns.until_answer("db.default.svc.cluster.local", 1, 0, &["10.244.1.5"]).await;
    assert_eq!(dns.answer("db-1.db.default.svc.cluster.local", 1).unwrap().0, 3);

    // The API server goes; what was there is still answered, and we are still ready.
    api.stop();
    assert_eq!(dns.answer("web.default.svc.cluster.local", 1).unwrap().1, ["10.96.7.7"]);
    assert_eq!(page(dns.ready, "/ready").await.unwrap().0, 200);
    api.start();
    let services: Api<core::Service> = Api::default_namespaced(client.clone());
    until("deleted", async || services.delete("web", &DeleteParams::default()).await.is_ok()).await;
    dns.until_answer("web.default.svc.cluster.local", 1, 3, &[]).await;

    // A changed Corefile is taken over; one with a fault is refused and counted.
    assert_eq!(dns.ask("db.default.svc.cluster.local", 1).unwrap().answers[0].ttl, 7);
    dns.write(&api, "ttl 9\n pods verified\n endpoint_pod_names");
    raise(Signal::SIGUSR1).unwrap();
    until("ttl 9", async || {
        let message = dns.ask("db.default.svc.cluster.local", 1).expect("a lost query");
        message.answers[0].ttl == 9
    })
    .await;
    dns.write(&api, "nonsense");
    raise(Signal::SIGUSR1).unwrap();
    until("a refused Corefile", async || {
        page(dns.metrics, "/metrics")
            .await
            .is_some_and(|page| page.1.contains("reload_failed_total 1"))
    })
    .await;
    assert_eq!(dns.ask("db.default.svc.cluster.local", 1).unwrap().answers[0].ttl, 9);
    let (_, metrics) = page(dns.metrics, "/metrics").await.unwrap();
    for line in [
        "coredns_build_info{",
        "coredns_dns_requests_total{family=\"1\",proto=\"udp\",server=\"dns://:",
        "coredns_dns_responses_total{plugin=\"kubernetes\",rcode=\"NXDOMAIN\",",
        "coredns_dns_request_duration_seconds_bucket{",
        "coredns_kubernetes_dns_programming_duration_seconds_count{service_kind=\"headless_with_selector\"}",
        "coredns_plugin_enabled{name=\"kubernetes\",",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
    dns.stop.cancel();
    dns.running.await.unwrap().unwrap();
    api.stop();
}
