//! The way to node agents and pods: logs, upgraded connections, and the HTTP proxy.
//!
//! A pod's node is found from `spec.nodeName`, its address and port from the Node's status. What arrives is passed on as
//! it comes: logs as a stream, an upgraded connection byte for byte in both directions, each closing its own half.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use portolan_api::kinds::{self, Subresource};
use portolan_store::Stored;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::metrics::SharedCount;
use crate::pki::{Pki, Usage};
use crate::query::Query;
use crate::registry::{Target, meta};
use crate::respond;
use crate::server::{Body, BodyError, BoxError, Inner};
use crate::status::{Result, Status};
use crate::{Error, UserInfo};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const DEFAULT_AGENT_PORT: u16 = 10250;

/// The server's identity towards node agents.
pub(crate) struct NodeClient {
    tls: TlsConnector,
}

impl NodeClient {
    pub(crate) fn new(pki: &Pki) -> Result<NodeClient, Error> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pki.certificate_pem().as_bytes()) {
            roots.add(certificate?)?;
        }
        let pair = pki.issue(
            "kube-apiserver-kubelet-client",
            Some(UserInfo::MASTERS),
            &[],
            Usage::Client,
        )?;
        let chain = vec![CertificateDer::from_pem_slice(pair.certificate_pem.as_bytes())?];
        let key = PrivateKeyDer::from_pem_slice(pair.key_pem.as_bytes())?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        Ok(NodeClient { tls: TlsConnector::from(Arc::new(config)) })
    }

    /// Opens a connection to a node agent.
    async fn dial(&self, to: SocketAddr) -> Result<TlsStream<TcpStream>> {
        let connect = async {
            let stream = TcpStream::connect(to).await?;
            stream.set_nodelay(true)?;
            self.tls.connect(ServerName::IpAddress(to.ip().into()), stream).await
        };
        tokio::time::timeout(CONNECT_TIMEOUT, connect)
            .await
            .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
            .map_err(|e| unreachable(to, &e))
    }
}

fn unreachable(to: SocketAddr, error: &dyn std::fmt::Display) -> Status {
    Status::internal(format!("error dialing backend: {to}: {error}"))
}

async fn send<S>(to: SocketAddr, stream: S, request: Request<Body>) -> Result<Response<Body>>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|e| unreachable(to, &e))?;
    // Lives as long as the response's body or the upgraded connection, and ends with them.
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%to, %error, "connection to a backend");
        }
    });
    let response = sender.send_request(request).await.map_err(|e| unreachable(to, &e))?;
    Ok(response.map(|body| body.map_err(BodyError::new).boxed_unsync()))
}

/// The address of the node agent that runs a pod.
fn agent_of(inner: &Inner, pod: &Stored) -> Result<SocketAddr> {
    let name = pod.value["spec"]["nodeName"].as_str().unwrap_or("");
    if name.is_empty() {
        return Err(Status::bad_request(format!(
            "pod {} does not have a host assigned",
            meta::name(&pod.value)
        )));
    }
    let kind = kinds::by_kind("v1", "Node").expect("the table of kinds has Node");
    let target = Target { kind, namespace: None, name: name.to_owned() };
    let node = inner.registry.get(&target, None)?;
    let status = &node.value["status"];
    let ip = status["addresses"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|a| a["type"] == "InternalIP")
        .and_then(|a| a["address"].as_str()?.parse::<IpAddr>().ok())
        .ok_or_else(|| Status::internal(format!("node {name} has no InternalIP")))?;
    let port = status["daemonEndpoints"]["kubeletEndpoint"]["Port"]
        .as_u64()
        .and_then(|p| u16::try_from(p).ok())
        .filter(|p| *p != 0)
        .unwrap_or(DEFAULT_AGENT_PORT);
    Ok(SocketAddr::new(ip, port))
}

/// The container that a request means: named, or the only one, or the one that the pod's annotation names.
fn container(pod: &Value, query: &Query) -> Result<String> {
    let names = |field: &str| -> Vec<&str> {
        let list = pod["spec"][field].as_array();
        list.into_iter().flatten().filter_map(|c| c["name"].as_str()).collect()
    };
    let containers = names("containers");
    let all: Vec<&str> =
        [containers.clone(), names("initContainers"), names("ephemeralContainers")].concat();
    let name = meta::name(pod);
    if let Some(wanted) = query.first("container") {
        if all.contains(&wanted) {
            return Ok(wanted.to_owned());
        }
        return Err(Status::bad_request(format!("container {wanted} is not valid for pod {name}")));
    }
    let default =
        pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"].as_str();
    match (default.filter(|d| all.contains(d)), containers.as_slice()) {
        (Some(default), _) => Ok(default.to_owned()),
        (None, [only]) => Ok((*only).to_owned()),
        (None, many) => Err(Status::bad_request(format!(
            "a container name must be specified for pod {name}, choose one of: [{}]",
            many.join(" ")
        ))),
    }
}

fn uri(path: &str, query: &Query, leave_out: &[&str]) -> Result<Uri> {
    let mut encoded = form_urlencoded::Serializer::new(String::new());
    for (name, value) in query.pairs().filter(|(n, _)| !leave_out.contains(n)) {
        encoded.append_pair(name, value);
    }
    let query = encoded.finish();
    let text = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
    text.parse().map_err(Status::internal)
}

fn request_to(to: SocketAddr, uri: Uri) -> http::request::Builder {
    Request::get(uri).header(header::HOST, to.to_string())
}

/// Streams a container's log.
pub(crate) async fn log(inner: &Inner, pod: &Stored, query: &Query) -> Result<Response<Body>> {
    let container = container(&pod.value, query)?;
    let to = agent_of(inner, pod)?;
    let (namespace, name) = (meta::text(&pod.value, "namespace"), meta::name(&pod.value));
    let path = format!("/containerLogs/{namespace}/{name}/{container}");
    let request = request_to(to, uri(&path, query, &["container"])?)
        .body(respond::full(""))
        .map_err(Status::internal)?;
    let response = send(to, inner.nodes.dial(to).await?, request).await?;
    if !response.status().is_success() {
        return Err(agent_error(response).await);
    }
    let mut answer = Response::new(response.into_body());
    let plain = HeaderValue::from_static("text/plain");
    answer.headers_mut().insert(header::CONTENT_TYPE, plain);
    Ok(answer)
}

/// The node agent's refusal as a Status: it says why in plain text.
async fn agent_error(response: Response<Body>) -> Status {
    let code = response.status();
    let body = crate::body::read(response.into_body()).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&body).trim().to_owned();
    match code {
        StatusCode::BAD_REQUEST => Status::bad_request(text),
        StatusCode::NOT_FOUND => Status::not_found_text(text),
        _ => Status::internal(text),
    }
}

/// Passes an exec, attach or port-forward through to the node agent.
pub(crate) async fn upgrade(
    inner: &Inner,
    pod: &Stored,
    subresource: Subresource,
    query: &Query,
    request: Request<Body>,
) -> Result<Response<Body>> {
    if !request.headers().contains_key(header::UPGRADE) {
        return Err(Status::bad_request("unable to upgrade: missing upgrade headers in request"));
    }
    let to = agent_of(inner, pod)?;
    let (namespace, name) = (meta::text(&pod.value, "namespace"), meta::name(&pod.value));
    let path = match subresource {
        Subresource::PortForward => format!("/portForward/{namespace}/{name}"),
        other => {
            let verb = if other == Subresource::Exec { "exec" } else { "attach" };
            let container = container(&pod.value, query)?;
            format!("/{verb}/{namespace}/{name}/{container}")
        }
    };
    let outgoing = agent_query(query, subresource);
    let uri = uri(&path, &outgoing, &[])?;
    tunnel(to, inner.nodes.dial(to).await?, uri, request).await
}

/// The API's parameter names in the node agent's spelling.
fn agent_query(query: &Query, subresource: Subresource) -> Query {
    if subresource == Subresource::PortForward {
        return query.clone();
    }
    Query::from_pairs(query.pairs().filter(|(n, _)| *n != "container").filter_map(|(n, v)| {
        let flag = matches!(v, "" | "true" | "1");
        match n {
            "stdin" => flag.then(|| ("input".to_owned(), "1".to_owned())),
            "stdout" => flag.then(|| ("output".to_owned(), "1".to_owned())),
            "stderr" => flag.then(|| ("error".to_owned(), "1".to_owned())),
            "tty" => flag.then(|| ("tty".to_owned(), "1".to_owned())),
            other => Some((other.to_owned(), v.to_owned())),
        }
    }))
}

/// Sends the client's request on; when both sides switch protocols, joins them until both halves are closed.
async fn tunnel<S>(
    to: SocketAddr,
    stream: S,
    uri: Uri,
    mut request: Request<Body>,
) -> Result<Response<Body>>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let client = hyper::upgrade::on(&mut request);
    let counted = request.extensions_mut().remove::<SharedCount>();
    let mut outgoing = Request::builder()
        .method(request.method())
        .uri(uri)
        .body(respond::full(""))
        .map_err(Status::internal)?;
    *outgoing.headers_mut() = forwarded(request.headers(), Hop::Upgrade);
    outgoing.headers_mut().insert(header::HOST, host_header(to)?);
    let mut response = send(to, stream, outgoing).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(agent_error(response).await);
    }
    let backend = hyper::upgrade::on(&mut response);
    tokio::spawn(async move {
        let _counted = counted;
        let joined = async {
            let (client, backend) = futures::future::try_join(client, backend).await?;
            let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
            copy_bidirectional(&mut client, &mut backend).await?;
            Ok::<_, BoxError>(())
        };
        if let Err(error) = joined.await {
            tracing::debug!(%to, %error, "upgraded connection");
        }
    });
    let mut answer = Response::new(respond::full(""));
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *answer.headers_mut() = forwarded(response.headers(), Hop::Upgrade);
    Ok(answer)
}

fn host_header(to: SocketAddr) -> Result<HeaderValue> {
    HeaderValue::from_str(&to.to_string()).map_err(Status::internal)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Hop {
    /// `Connection` and `Upgrade` are what the request is about.
    Upgrade,
    /// They concern one connection only (RFC 9110 section 7.6.1).
    Plain,
}

/// Headers that go on to the other side. The client's credentials stay here.
fn forwarded(headers: &HeaderMap, hop: Hop) -> HeaderMap {
    const NEVER: [HeaderName; 5] = [
        header::AUTHORIZATION,
        header::PROXY_AUTHORIZATION,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
    ];
    let mut kept = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        let connection = *name == header::CONNECTION || *name == header::UPGRADE;
        if NEVER.contains(name) || (connection && hop == Hop::Plain) {
            continue;
        }
        kept.append(name, value.clone());
    }
    kept
}

/// `pods/proxy` and `services/proxy`: plain HTTP to the pod, or to one ready endpoint of the Service.
pub(crate) async fn proxy(
    inner: &Inner,
    target: &Target,
    rest: &str,
    request: Request<Body>,
) -> Result<Response<Body>> {
    // The name may be `scheme:name:port` or `name:port`.
    let parts: Vec<&str> = target.name.split(':').collect();
    let (scheme, name, port) = match parts.as_slice() {
        [name] => ("", *name, ""),
        [name, port] => ("", *name, *port),
        [scheme, name, port] => (*scheme, *name, *port),
        _ => return Err(Status::bad_request(format!("invalid proxy name {:?}", target.name))),
    };
    if !matches!(scheme, "" | "http") {
        return Err(Status::bad_request(format!("scheme {scheme:?} is not supported")));
    }
    let named = Target { name: name.to_owned(), ..target.clone() };
    let object = inner.registry.get(&named, None)?;
    let to = match target.kind.kind {
        "Pod" => pod_address(&object.value, port),
        "Service" => service_address(inner, &object.value, port),
        _ => Err(Status::method_not_supported(target.subject(), "proxy")),
    }?;
    let text = match request.uri().query() {
        Some(query) => format!("{rest}?{query}"),
        None => rest.to_owned(),
    };
    let uri: Uri = text.parse().map_err(Status::internal)?;
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(to))
        .await
        .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
        .map_err(|e| Status::unavailable(format!("error trying to reach service: {to}: {e}")))?;
    if request.headers().contains_key(header::UPGRADE) {
        return tunnel(to, stream, uri, request).await;
    }
    let (head, body) = request.into_parts();
    let mut outgoing = Request::new(body);
    *outgoing.method_mut() = head.method;
    *outgoing.uri_mut() = uri;
    *outgoing.headers_mut() = forwarded(&head.headers, Hop::Plain);
    outgoing.headers_mut().insert(header::HOST, host_header(to)?);
    let response = send(to, stream, outgoing).await?;
    let (head, body) = response.into_parts();
    let mut answer = Response::new(body);
    *answer.status_mut() = head.status;
    *answer.headers_mut() = forwarded(&head.headers, Hop::Plain);
    Ok(answer)
}

fn pod_address(pod: &Value, port: &str) -> Result<SocketAddr> {
    let name = meta::name(pod);
    let ip = pod["status"]["podIP"]
        .as_str()
        .and_then(|ip| ip.parse().ok())
        .ok_or_else(|| Status::bad_request(format!("pod {name} does not have an IP address")))?;
    let first = pod["spec"]["containers"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|c| c["ports"].as_array())
        .flatten()
        .find_map(|p| p["containerPort"].as_u64())
        .and_then(|p| u16::try_from(p).ok());
    let port = match port {
        "" => first.unwrap_or(80),
        text => text
            .parse()
            .map_err(|_| Status::bad_request(format!("invalid port {text:?} in proxy request")))?,
    };
    Ok(SocketAddr::new(ip, port))
}

/// A random ready endpoint for the Service's port, which may be given by name or number.
fn service_address(inner: &Inner, service: &Value, port: &str) -> Result<SocketAddr> {
    let name = meta::name(service);
    let none = || Status::unavailable(format!("no endpoints available for service {name:?}"));
    let ports = service["spec"]["ports"].as_array();
    let wanted = ports
        .into_iter()
        .flatten()
        .find(|p| {
            port.is_empty()
                || p["name"] == port
                || p["port"].as_u64().is_some_and(|n| n.to_string() == port)
        })
        .ok_or_else(|| {
            Status::unavailable(format!("no service port {port:?} found for service {name:?}"))
        })?;
    let wanted = wanted["name"].as_str().unwrap_or("");
    let kind = kinds::by_kind("discovery.k8s.io/v1", "EndpointSlice")
        .expect("the table of kinds has EndpointSlice");
    let prefix = kind.prefix(Some(meta::text(service, "namespace")));
    let page = inner
        .registry
        .store
        .list(&prefix, portolan_store::ListOptions::default())
        .map_err(|e| Status::from(&e))?;
    let ready = ready_endpoints(page.items.iter().map(|s| &*s.value), name, wanted);
    let at = crate::random::random_below(ready.len() as u64);
    usize::try_from(at).ok().and_then(|at| ready.get(at)).copied().ok_or_else(none)
}

/// Where the named port of a Service is served, by its slices.
fn ready_endpoints<'a>(
    slices: impl Iterator<Item = &'a Value>,
    service: &str,
    port: &str,
) -> Vec<SocketAddr> {
    let mut ready = Vec::new();
    for slice in slices {
        if slice["metadata"]["labels"]["kubernetes.io/service-name"] != service {
            continue;
        }
        let ports = slice["ports"].as_array().into_iter().flatten();
        let Some(number) = ports
            .filter(|p| p["name"].as_str().unwrap_or("") == port)
            .find_map(|p| u16::try_from(p["port"].as_u64()?).ok())
        else {
            continue;
        };
        let endpoints = slice["endpoints"].as_array().into_iter().flatten();
        // Unknown readiness counts as ready.
        let usable = endpoints.filter(|e| e["conditions"]["ready"] != false);
        let addresses = usable.filter_map(|e| e["addresses"][0].as_str()?.parse().ok());
        ready.extend(addresses.map(|ip| SocketAddr::new(ip, number)));
    }
    ready
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_ready_endpoints_of_the_named_port_of_that_service_are_chosen_from() {
        let slice = |service: &str| {
            json!({
                "metadata": {"labels": {"kubernetes.io/service-name": service}},
                "ports": [{"name": "a", "port": 1}, {"name": "b", "port": 2}],
                "endpoints": [
                    {"addresses": ["10.0.0.1"], "conditions": {"ready": true}},
                    {"addresses": ["10.0.0.2"], "conditions": {"ready": false}},
                    {"addresses": ["10.0.0.3"], "conditions": {}},
                ],
            })
        };
        let slices = [slice("web"), slice("other")];
        let found = ready_endpoints(slices.iter(), "web", "b");
        assert_eq!(found, ["10.0.0.1:2".parse().unwrap(), "10.0.0.3:2".parse().unwrap()]);
        assert!(ready_endpoints(slices.iter(), "web", "c").is_empty());
    }

    #[test]
    fn the_container_is_named_single_or_annotated() {
        let pod = |names: &[&str], default: Option<&str>| {
            json!({
                "metadata": {"name": "p", "annotations":
                    {"kubectl.kubernetes.io/default-container": default}},
                "spec": {"containers":
                    names.iter().map(|n| json!({"name": n})).collect::<Vec<_>>()},
            })
        };
        let none = Query::default();
        assert_eq!(container(&pod(&["a"], None), &none).unwrap(), "a");
        assert_eq!(container(&pod(&["a", "b"], Some("b")), &none).unwrap(), "b");
        assert_eq!(container(&pod(&["a", "b"], None), &none).unwrap_err().code, 400);
        let named = Query::parse("container=b");
        assert_eq!(container(&pod(&["a", "b"], None), &named).unwrap(), "b");
    }
}
