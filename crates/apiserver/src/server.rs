//! The server as a value: made from a [`Config`], called in this process or over TLS.

mod bootstrap;
mod events;
mod tls;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use ipnet::IpNet;
use portolan_api::alloc::Family;
use portolan_store::Store;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::nodes::NodeClient;
use crate::openapi::Documents;
use crate::pki::Pki;
use crate::registry::Registry;
use crate::repair;
use crate::services::ServiceAllocator;
use crate::token::Issuer;
use crate::{Error, UserInfo};

/// What may go wrong while a body is read or written.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A body that broke off: the other side went away, or sent what is not HTTP.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct BodyError(BoxError);

impl BodyError {
    pub(crate) fn new(error: impl Into<BoxError>) -> BodyError {
        BodyError(error.into())
    }
}

/// The body of a response.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;

/// How a server is set up. Immutable after the start.
pub struct Config {
    /// Where objects are kept.
    pub store: Store,
    /// The authority that signs client certificates; the server issues its own certificates from it.
    pub pki: Arc<Pki>,
    /// Cluster IPs come from here: one range, or one of each family, the primary one first. The first address of the
    /// primary one is that of the Service default/kubernetes. Default 10.96.0.0/12.
    pub service_cidrs: Vec<IpNet>,
    /// Node ports come from here. Default 30000-32767.
    pub node_port_range: RangeInclusive<u16>,
    /// Where nodes and pods reach this server: the endpoint of default/kubernetes. Never loopback.
    pub advertise: SocketAddr,
}

/// A running API server. Cheap to clone.
#[derive(Clone)]
pub struct Server {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) registry: Arc<Registry>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) limits: Limits,
    pub(crate) nodes: NodeClient,
    /// Signs service account tokens and checks them.
    pub(crate) issuer: Issuer,
    pub(crate) documents: Documents,
    /// Cancelled when the server stops serving: watches end.
    pub(crate) stopping: CancellationToken,
}

impl Server {
    /// Makes the server: system namespaces, default/kubernetes, allocators rebuilt from the store.
    ///
    /// # Errors
    /// The configuration contradicts itself, or the store refuses a write.
    pub async fn new(config: Config) -> Result<Server, Error> {
        if config.node_port_range.is_empty() {
            return Err(Error::Config("the node port range is empty".into()));
        }
        let address = config.advertise.ip();
        if address.is_loopback() || address.is_unspecified() {
            // Pods could not reach it, and Endpoints may not hold it.
            return Err(Error::Config(format!("{address} is no address to advertise")));
        }
        check_service_cidrs(&config.service_cidrs)?;
        let metrics = Arc::new(Metrics::new());
        let services = ServiceAllocator::new(
            config.store.clone(),
            &config.service_cidrs,
            config.node_port_range.clone(),
            metrics.allocation(),
        );
        let registry = Arc::new(Registry::new(config.store.clone(), services));
        let nodes = NodeClient::new(&config.pki)?;
        let issuer = Issuer::new(config.pki.signing_key_pem())?;
        let inner = Arc::new(Inner {
            config,
            registry,
            metrics,
            limits: Limits::default(),
            nodes,
            issuer,
            documents: Documents::default(),
            stopping: CancellationToken::new(),
        });
        inner.bootstrap().await?;
        tokio::spawn(events::expire_events(Arc::downgrade(&inner)));
        tokio::spawn(bootstrap::keep_default_service(Arc::downgrade(&inner)));
        tokio::spawn(repair::run(Arc::downgrade(&inner)));
        Ok(Server { inner })
    }

    /// Serves at `/metrics` what the source gives, as OpenMetrics text, beside the server's own: others that run in this
    /// process have no address of their own.
    pub fn serve_metrics_of(&self, source: impl Fn() -> String + Send + Sync + 'static) {
        self.inner.metrics.beside(Box::new(source));
    }

    /// A tower service that acts as `user`, for `kube::Client::new(server.service(user), "default")`.
    pub fn service(&self, user: UserInfo) -> Service {
        Service { inner: self.inner.clone(), user }
    }

    /// Serves TLS (HTTP/1.1 and HTTP/2) on `listeners` until `shutdown`, then drains for at most five seconds.
    /// With it end all watches, those of callers in this process, too.
    ///
    /// # Errors
    /// The serving certificate cannot be issued. A failing connection is logged, never an error.
    pub async fn serve(
        &self,
        listeners: Vec<TcpListener>,
        shutdown: CancellationToken,
    ) -> Result<(), Error> {
        tls::serve(&self.inner, listeners, shutdown).await
    }
}

/// One range, or one of each family; a range of IPv6 no wider than upstream allocates from.
fn check_service_cidrs(cidrs: &[IpNet]) -> Result<(), Error> {
    let refuse = |why: String| Err(Error::Config(format!("service CIDRs: {why}")));
    match cidrs {
        [] => return refuse("at least one is needed".into()),
        [_] => {}
        [first, second] if Family::of_net(*first) != Family::of_net(*second) => {}
        [_, _] => return refuse("two must be of different families".into()),
        more => return refuse(format!("{} are too many, there are two families", more.len())),
    }
    for cidr in cidrs {
        if cidr.trunc() != *cidr {
            return refuse(format!("{cidr} has bits set beyond the prefix length"));
        }
        if cidr.max_prefix_len() - cidr.prefix_len() < 2 {
            return refuse(format!("{cidr} is too small to allocate from"));
        }
        if matches!(cidr, IpNet::V6(_)) && cidr.prefix_len() < 64 {
            return refuse(format!("{cidr} is wider than /64"));
        }
    }
    Ok(())
}

impl Inner {
    pub(crate) fn advertise(&self) -> SocketAddr {
        self.config.advertise
    }
}

/// Calls the server in this process as one user.
#[derive(Clone)]
pub struct Service {
    inner: Arc<Inner>,
    user: UserInfo,
}

impl<B> tower::Service<Request<B>> for Service
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (inner, user) = (self.inner.clone(), self.user.clone());
        let request = request.map(|body| body.map_err(BodyError::new).boxed_unsync());
        Box::pin(async move { Ok(inner.handle(Some(user), request).await) })
    }
}
