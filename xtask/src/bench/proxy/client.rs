//! The client: the network that it is in, and a Service whose endpoint comes and goes.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use portolan_netlink::link::{Links, Route};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::super::api::server::Server;

const NODE: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 11);
const POD: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 5);
const PORT: u16 = 8080;
const SERVICES: &str = "/api/v1/namespaces/default/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";

/// Gives this namespace the node's address, a pod's, and a way for packets to cluster IPs.
pub async fn network() -> Result<()> {
    let links = Links::open()?;
    links.set_up("lo").await?;
    for ip in [NODE, POD] {
        links.add_address("lo", IpAddr::from(ip).into()).await?;
    }
    let route = Route::on_link("10.96.0.0/12".parse()?, "lo").prefer(NODE.into());
    links.add_route(&route).await?;
    Ok(())
}

/// A Service, its slice, and who listens at its endpoint.
pub struct Probe {
    client: kube::Client,
    address: SocketAddr,
    listening: tokio::task::JoinHandle<()>,
}

impl Probe {
    /// Makes the node, the Service and an empty slice.
    pub async fn create(server: &Server) -> Result<Probe> {
        let client = server.client().await?;
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"}});
        send(&client, "POST", "/api/v1/nodes", &node).await?;
        let status = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"},
            "status": {"addresses": [{"type": "InternalIP", "address": NODE}]}});
        send(&client, "PUT", "/api/v1/nodes/node-1/status", &status).await?;
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "probe"},
            "spec": {"ports": [{"port": 80, "targetPort": PORT}]}});
        let made = send(&client, "POST", SERVICES, &service).await?;
        let ip: Ipv4Addr = made["spec"]["clusterIP"].as_str().context("a cluster IP")?.parse()?;
        send(&client, "POST", SLICES, &slice(false)).await?;
        let listener = listener().await?;
        let listening = tokio::spawn(async move { while listener.accept().await.is_ok() {} });
        Ok(Probe { client, address: (ip, 80).into(), listening })
    }

    /// Writes the slice with its endpoint or without.
    pub async fn set(&mut self, is_there: bool) -> Result<()> {
        send(&self.client, "PUT", &format!("{SLICES}/probe"), &slice(is_there)).await?;
        Ok(())
    }

    /// Connects until the Service answers, or refuses.
    pub async fn until(&self, is_answered: bool, limit: Duration) -> Result<()> {
        let begun = Instant::now();
        while self.ask().await != Some(is_answered) {
            ensure!(begun.elapsed() < limit, "no change seen within {limit:?}");
            // The longer it takes, the less often: a port that comes round again within the time
            // that connection tracking remembers it would get the answer of then.
            tokio::time::sleep(Duration::from_micros(200).max(begun.elapsed() / 50)).await;
        }
        Ok(())
    }

    /// Whether a connection is accepted.
    pub async fn is_answered(&self) -> bool {
        self.ask().await == Some(true)
    }

    /// Whether a connection is accepted or refused; nothing when neither comes within a moment.
    async fn ask(&self) -> Option<bool> {
        let connected = timeout(Duration::from_millis(20), TcpStream::connect(self.address)).await;
        match connected.ok()? {
            Ok(_) => Some(true),
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => Some(false),
            Err(_) => None,
        }
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

/// The endpoint's port, once the last probe has given it up.
async fn listener() -> Result<TcpListener> {
    for _ in 0..100 {
        match TcpListener::bind((POD, PORT)).await {
            Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            bound => return Ok(bound?),
        }
    }
    anyhow::bail!("somebody else listens at {POD}:{PORT}")
}

fn slice(is_there: bool) -> Value {
    let endpoints =
        if is_there { json!([{"addresses": [POD], "nodeName": "node-1"}]) } else { json!([]) };
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "probe", "labels": {"kubernetes.io/service-name": "probe"}},
        "ports": [{"name": "", "port": PORT, "protocol": "TCP"}],
        "endpoints": endpoints,
    })
}

async fn send(client: &kube::Client, method: &str, path: &str, object: &Value) -> Result<Value> {
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(object.to_string().into_bytes())?;
    let text = client.request_text(request).await.with_context(|| path.to_owned())?;
    Ok(serde_json::from_str(&text)?)
}
