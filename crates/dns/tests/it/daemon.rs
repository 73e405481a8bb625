//! The whole server in its process, with an API server of the test's own: both on the loopback.

use std::io::Write as _;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::Message;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client};
use nix::sys::signal::{Signal, kill};
use portolan_apiserver::pki::{Pki, Usage};
use portolan_apiserver::{Config, Server};
use portolan_client::{Source, connect};
use portolan_store::{Options, Store};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::cases::question;

const PATIENCE: Duration = Duration::from_secs(30);

struct Cluster {
    dir: tempfile::TempDir,
    client: Client,
    api: SocketAddr,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

fn free_port() -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.local_addr().unwrap().port()
}

impl Cluster {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let api = listener.local_addr().unwrap();
        let pki = Arc::new(Pki::ephemeral().unwrap());
        let pair = pki.issue("kubernetes-admin", Some("system:masters"), &[], Usage::Client).unwrap();
        let kubeconfig = dir.path().join("kubeconfig");
        let text = pki.kubeconfig(&format!("https://{api}"), "admin", &pair);
        std::fs::write(&kubeconfig, text).unwrap();
        let stop = CancellationToken::new();
        let (token, state) = (stop.clone(), dir.path().join("state"));
        let serving = tokio::spawn(async move {
            let store = Store::open(&state, Options::default()).unwrap();
            let config = Config { address: api, ..Config::new(api) };
            let serving = Server::new(store, pki, config).serve(listener);
            token.run_until_cancelled(serving).await;
        });
        let client = connect(Source::Kubeconfig(kubeconfig)).await.unwrap();
        Self { dir, client, api, stop, serving }
    }

    fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("kubeconfig")
    }
}
