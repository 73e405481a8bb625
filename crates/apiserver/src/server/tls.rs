//! TLS: listeners, connections, and who is behind a client certificate.
//!
//! The handshake asks for a certificate and checks only that the client owns its key. Whether the authority signed it is
//! decided after the handshake, as upstream does, so that a client with a foreign certificate gets a 401 Status that it
//! can read and not a broken connection.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{BodyError, Inner};
use crate::pki::{San, Usage};
use crate::{Error, UserInfo};

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
const DRAIN: Duration = Duration::from_secs(5);
/// Bytes of one request's headers.
const HEADER_LIMIT: u32 = 64 * 1024;
const STREAMS: u32 = 1000;

pub(super) async fn serve(
    inner: &Arc<Inner>,
    listeners: Vec<TcpListener>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let (acceptor, verifier) = acceptor(inner)?;
    let connections =
        Arc::new(Connections { acceptor, verifier, inner: inner.clone(), builder: builder() });
    let tasks = TaskTracker::new();
    for listener in listeners {
        tasks.spawn(accept(connections.clone(), listener, shutdown.clone(), tasks.clone()));
    }
    tasks.close();
    shutdown.cancelled().await;
    inner.stopping.cancel();
    if tokio::time::timeout(DRAIN, tasks.wait()).await.is_err() {
        tracing::debug!("connections were still open after the drain period");
    }
    Ok(())
}

struct Connections {
    acceptor: TlsAcceptor,
    verifier: Arc<dyn ClientCertVerifier>,
    inner: Arc<Inner>,
    builder: auto::Builder<TokioExecutor>,
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(usize::try_from(HEADER_LIMIT).expect("64 KiB fit"))
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(HEADER_LIMIT)
        .max_concurrent_streams(STREAMS)
        .keep_alive_interval(Duration::from_secs(30));
    builder
}

async fn accept(
    connections: Arc<Connections>,
    listener: TcpListener,
    shutdown: CancellationToken,
    tasks: TaskTracker,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                let (connections, shutdown) = (connections.clone(), shutdown.clone());
                tasks.spawn(async move {
                    if let Err(error) = connections.connection(stream, shutdown).await {
                        tracing::debug!(%peer, %error, "connection");
                    }
                });
            }
            Err(error) => {
                // Out of descriptors, most likely: wait for connections to end.
                tracing::warn!(%error, "accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

impl Connections {
    async fn connection(
        &self,
        stream: TcpStream,
        shutdown: CancellationToken,
    ) -> Result<(), crate::server::BoxError> {
        stream.set_nodelay(true)?;
        let stream =
            tokio::time::timeout(HANDSHAKE_TIMEOUT, self.acceptor.accept(stream)).await??;
        let user = stream
            .get_ref()
            .1
            .peer_certificates()
            .and_then(|chain| user_of(self.verifier.as_ref(), chain));
        let _open = self.inner.metrics.connection();
        let inner = self.inner.clone();
        let service = service_fn(move |request: http::Request<Incoming>| {
            let (inner, user) = (inner.clone(), user.clone());
            async move {
                let request = request.map(|body| body.map_err(BodyError::new).boxed_unsync());
                Ok::<_, std::convert::Infallible>(inner.handle(user, request).await)
            }
        });
        let graceful = GracefulShutdown::new();
        let connection =
            self.builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
        let connection = graceful.watch(connection);
        tokio::pin!(connection);
        tokio::select! {
            done = &mut connection => done,
            () = shutdown.cancelled() => {
                // Requests in flight may end; watches end by themselves.
                let (_, done) = futures::join!(graceful.shutdown(), connection);
                done
            }
        }
    }
}

fn acceptor(inner: &Inner) -> Result<(TlsAcceptor, Arc<dyn ClientCertVerifier>), Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    let authority = inner.config.pki.certificate_pem();
    for certificate in CertificateDer::pem_slice_iter(authority.as_bytes()) {
        roots.add(certificate?)?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone())
        .build()
        .map_err(|e| Error::Config(e.to_string()))?;
    let pair = inner.config.pki.issue("kube-apiserver", None, &names(inner), Usage::Server)?;
    let chain = vec![CertificateDer::from_pem_slice(pair.certificate_pem.as_bytes())?];
    let key = PrivateKeyDer::from_pem_slice(pair.key_pem.as_bytes())?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(Arc::new(AskOnly(verifier.clone())))
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok((TlsAcceptor::from(Arc::new(config)), verifier))
}

/// Every name under which clients know the server.
fn names(inner: &Inner) -> Vec<San> {
    let dns = [
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ];
    let ips = [
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
        inner.kubernetes_ip(),
        inner.config.advertise.ip(),
    ];
    dns.iter().map(|n| San::Dns((*n).to_owned())).chain(ips.into_iter().map(San::Ip)).collect()
}

/// The user in a certificate that the authority signed for clients.
fn user_of(verifier: &dyn ClientCertVerifier, chain: &[CertificateDer<'_>]) -> Option<UserInfo> {
    let (leaf, intermediates) = chain.split_first()?;
    if let Err(error) = verifier.verify_client_cert(leaf, intermediates, UnixTime::now()) {
        tracing::debug!(%error, "client certificate");
        return None;
    }
    let (_, certificate) = X509Certificate::from_der(leaf).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?;
    let groups = subject.iter_organization().filter_map(|o| o.as_str().ok());
    Some(UserInfo::new(name, groups))
}

/// Asks for a certificate and accepts any whose key the client owns.
struct AskOnly(Arc<dyn ClientCertVerifier>);

impl fmt::Debug for AskOnly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AskOnly")
    }
}

impl ClientCertVerifier for AskOnly {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // No hints: a client that has a foreign certificate shall show it and be told.
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
