//! An API server on loopback, with or without the controllers, for `cargo xtask bench api`:
//!
//! ```sh
//! cargo run --release -p portolan-controllers --example control_plane -- DIRECTORY [controllers]
//! ```
//!
//! It prints `ready`, with the milliseconds since it was started, once it serves and, if asked for
//! them, the controllers run. A line on standard input asks for how much has been written: the answer is the number of
//! transactions and of groups (syncs). It ends with its input.
#![expect(clippy::print_stdout, reason = "what it prints is its interface")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use kube::Client;
use portolan_apiserver::pki::{Pki, Usage, write_private};
use portolan_apiserver::{Config, Server, UserInfo};
use portolan_store::{Options, Store};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let begun = Instant::now();
    let mut arguments = std::env::args().skip(1);
    let dir = PathBuf::from(arguments.next().ok_or("usage: control_plane DIR [controllers]")?);
    let with_controllers = arguments.next().is_some_and(|word| word == "controllers");
    std::fs::create_dir_all(&dir)?;
    let pki = Arc::new(Pki::load_or_create(&dir.join("pki"))?);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let admin = pki.issue("kubernetes-admin", Some("system:masters"), &[], Usage::Client)?;
    let kubeconfig = pki.kubeconfig(&format!("https://{address}"), "kubernetes-admin", &admin);
    write_private(&dir.join("kubeconfig"), &kubeconfig)?;
    let store = Store::open(&dir.join("objects.redb"), Options::default())?;
    let server = Server::new(Config {
        store: store.clone(),
        pki: Arc::clone(&pki),
        service_cidrs: vec!["10.96.0.0/12".parse()?],
        node_port_range: 30000..=32767,
        // Nothing listens there; only nodes and pods would use it.
        advertise: "172.30.0.1:6443".parse()?,
    })
    .await?;
    let stop = CancellationToken::new();
    let serving = tokio::spawn({
        let (server, stop) = (server.clone(), stop.clone());
        async move { server.serve(vec![listener], stop).await }
    });
    let mut controllers = None;
    if with_controllers {
        let user = UserInfo::component("system:kube-controller-manager");
        let client = Client::new(server.service(user), "default");
        let config = portolan_controllers::Config::new(
            ["10.244.0.0/16".parse()?],
            pki.certificate_pem().to_owned(),
        );
        let (ready, is_ready) = oneshot::channel();
        controllers =
            Some(tokio::spawn(portolan_controllers::run(client, config, ready, stop.clone())));
        is_ready.await?;
    }
    println!("ready {:.1}", begun.elapsed().as_secs_f64() * 1e3);
    tokio::task::spawn_blocking(move || {
        for _line in std::io::stdin().lines().map_while(Result::ok) {
            let written = store.written();
            println!("{} {}", written.transactions, written.groups);
        }
    })
    .await?;
    stop.cancel();
    serving.await??;
    if let Some(controllers) = controllers {
        controllers.await??;
    }
    Ok(())
}
