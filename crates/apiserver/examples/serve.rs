//! The API server alone, on loopback, for trying clients against it:
//!
//! ```sh
//! cargo run -p portolan-apiserver --example serve -- /tmp/portolan-api
//! kubectl --kubeconfig /tmp/portolan-api/kubeconfig get services -A
//! ```
//!
//! No controllers and no nodes run here: Deployments stay as they are written, and pods outside of namespace `default`
//! need a service account made for them.

use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1::ServiceAccount;
use portolan_apiserver::pki::{Pki, Usage, write_private};
use portolan_apiserver::{Config, Server, UserInfo};
use portolan_store::{Options, Store};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = PathBuf::from(std::env::args().nth(1).ok_or("usage: serve DIRECTORY")?);
    std::fs::create_dir_all(&dir)?;
    let pki = Arc::new(Pki::load_or_create(&dir.join("pki"))?);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let admin = pki.issue("kubernetes-admin", Some("system:masters"), &[], Usage::Client)?;
    let kubeconfig = pki.kubeconfig(&format!("https://{address}"), "kubernetes-admin", &admin);
    write_private(&dir.join("kubeconfig"), &kubeconfig)?;
    let server = Server::new(Config {
        store: Store::open(&dir.join("state"), Options::default())?,
        pki,
        service_cidrs: vec!["10.96.0.0/12".parse()?, "fd00:10:96::/112".parse()?],
        node_port_range: 30000..=32767,
        // Nothing listens there; only nodes and pods would use it.
        advertise: "172.30.0.1:6443".parse()?,
    })
    .await?;
    let client = kube::Client::new(server.service(UserInfo::admin()), "default");
    let accounts = kube::Api::<ServiceAccount>::default_namespaced(client);
    if accounts.get_opt("default").await?.is_none() {
        let mut account = ServiceAccount::default();
        account.metadata.name = Some("default".to_owned());
        accounts.create(&kube::api::PostParams::default(), &account).await?;
    }
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            stop.cancel();
        }
    });
    server.serve(vec![listener], shutdown).await?;
    Ok(())
}
