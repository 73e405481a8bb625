//! What load balancers ask: whether this node has endpoints of a Service (`healthCheckNodePort`).
//!
//! ```text
//!   GET / ─▶ 200 or 503, X-Load-Balancing-Endpoint-Weight: N
//!            {"service":{"namespace":…,"name":…},"localEndpoints":N,"serviceProxyHealthy":…}
//! ```
//!
//! A port stays open while its Service has it; only the number behind it changes. A port that cannot
//! be had is an event about the Service, and is tried again.
//!
//! Upstream rule: pkg/proxy/healthcheck/service_health.go.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response};
use http_body_util::Full;
use portolan_model::{Family, NamespacedName, NodePort, NodePortAddresses};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::events::Events;
use crate::http::{Pages, accept, json};
use crate::sync::Checks;

/// The waits before a port that is taken is tried again.
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// Where one Service is asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    family: Family,
    address: SocketAddr,
    service: NamespacedName,
}

/// A port that is open, or is being opened.
#[derive(Debug)]
struct Open {
    local_endpoints: Arc<AtomicUsize>,
    stop: CancellationToken,
}

/// All ports of this node.
pub(crate) struct HealthChecks {
    node_name: String,
    pages: Arc<Pages>,
    events: Events,
    tasks: TaskTracker,
    stop: CancellationToken,
    open: BTreeMap<Place, Open>,
}

impl HealthChecks {
    /// No port is open yet; all close at `stop`.
    pub(crate) fn new(
        node_name: &str,
        pages: Arc<Pages>,
        events: Events,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        Self { node_name: node_name.into(), pages, events, tasks, stop, open: BTreeMap::new() }
    }

    /// Opens and closes ports of a family, and takes note of the numbers.
    pub(crate) fn set(&mut self, family: Family, checks: &Checks) {
        let mut wanted = BTreeMap::new();
        for (port, check) in &checks.services {
            for address in addresses(family, &checks.addresses, *port) {
                let place = Place { family, address, service: check.service.clone() };
                wanted.insert(place, check.local_endpoints);
            }
        }
        self.open.retain(|place, open| {
            let stays = place.family != family || wanted.contains_key(place);
            if !stays {
                open.stop.cancel();
            }
            stays
        });
        for (place, count) in wanted {
            match self.open.get(&place) {
                Some(open) => open.local_endpoints.store(count, Ordering::Relaxed),
                None => self.open(place, count),
            }
        }
    }

    fn open(&mut self, place: Place, count: usize) {
        let (local_endpoints, stop) = (Arc::new(AtomicUsize::new(count)), self.stop.child_token());
        let answer = answer(&place.service, Arc::clone(&local_endpoints), Arc::clone(&self.pages));
        let (events, node, tasks) =
            (self.events.clone(), self.node_name.clone(), self.tasks.clone());
        let (at, stopped) = (place.clone(), stop.clone());
        self.tasks.spawn(async move {
            let listening = listen(&at, &node, &events);
            if let Some(listener) = stopped.run_until_cancelled(listening).await {
                accept(listener, Arc::new(answer), tasks, stopped).await;
            }
        });
        self.open.insert(place, Open { local_endpoints, stop });
    }
}

/// Where a port is opened: at the addresses of node ports.
fn addresses(
    family: Family,
    addresses: &NodePortAddresses,
    port: NodePort,
) -> BTreeSet<SocketAddr> {
    let any = match family {
        Family::Ipv4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Family::Ipv6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let ips = match addresses {
        NodePortAddresses::AllLocal => BTreeSet::from([any]),
        NodePortAddresses::Only(ips) => ips.clone(),
    };
    ips.into_iter().map(|ip| SocketAddr::new(ip, port.number())).collect()
}

/// The port, as soon as it can be had.
async fn listen(place: &Place, node: &str, events: &Events) -> TcpListener {
    let Place { address, service, .. } = place;
    let mut wait = FIRST_RETRY;
    loop {
        match bind(*address) {
            Ok(listener) => return listener,
            Err(e) => {
                let (name, port) = (service.to_string(), address.port());
                tracing::error!(service = name, %address, "cannot listen for health checks: {e}");
                if wait == FIRST_RETRY {
                    let note = format!(
                        "node {node} failed to start healthcheck {name:?} on port {port}: {e}"
                    );
                    events.no_health_check(service, note);
                }
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(LONGEST_RETRY);
            }
        }
    }
}

/// An IPv6 port leaves the IPv4 one of the same number to the other family.
fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(128)?;
    TcpListener::from_std(socket.into())
}

/// What is answered, whatever is asked.
fn answer<R>(
    service: &NamespacedName,
    local_endpoints: Arc<AtomicUsize>,
    pages: Arc<Pages>,
) -> impl Fn(&R) -> Response<Full<Bytes>> + Send + Sync + use<R> {
    let service = json!({"namespace": &*service.namespace, "name": &*service.name});
    move |_: &R| {
        let count = local_endpoints.load(Ordering::Relaxed);
        let is_healthy = pages.health.is_healthy();
        let code = if count > 0 && is_healthy { 200 } else { 503 };
        let body = json!({
            "service": service, "localEndpoints": count, "serviceProxyHealthy": is_healthy,
        });
        let mut response = json(code, &body);
        let weight = HeaderValue::from(count);
        response.headers_mut().insert("x-load-balancing-endpoint-weight", weight);
        response
    }
}
