//! The modes beside each other: from one to the other and back, what is left after, and what is mode
//! iptables' alone.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;

use portolan_netlink::nft::{Batch, Family, Op, Socket, Table, TableRef};
use portolan_netlink::sysctl;
use portolan_proxy::{Options, ProxyError};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::fixture::{
    Fixture, NODE, PODS, ask, in_each_mode, in_mode, in_namespace, iptables_save, server, table,
    until, until_answer,
};

/// A server that sends back what it gets; its address.
async fn echo(ip: Ipv4Addr) -> SocketAddr {
    let listener = TcpListener::bind((ip, 8080)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                // A client that is gone needs no answer.
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    address
}

async fn sends_back(stream: &mut TcpStream) {
    stream.write_all(b"ping").await.unwrap();
    let mut back = [0; 4];
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"ping");
}

/// A proxy that runs by a file.
struct ByFile {
    file: PathBuf,
    kubeconfig: PathBuf,
}

impl ByFile {
    fn new(api: &Fixture) -> Self {
        let kubeconfig = api.kubeconfig();
        Self { file: kubeconfig.with_file_name("config.conf"), kubeconfig }
    }

    /// As kubelet does it: never half a file.
    fn write(&self, more: &str) {
        let text = format!(
            "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n\
             hostnameOverride: node-1\nclusterCIDR: 10.244.0.0/16,fd00:10:244::/48\n\
             clientConnection: {{kubeconfig: {}}}\n{more}",
            self.kubeconfig.display()
        );
        let new = self.file.with_extension("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(&new, &self.file).unwrap();
    }

    fn run(&self) -> JoinHandle<Result<std::process::ExitCode, ProxyError>> {
        let words = ["kube-proxy".to_owned(), format!("--config={}", self.file.display())];
        tokio::spawn(portolan_proxy::run(Options::parse(words).unwrap()))
    }
}

fn has_iptables_rules() -> bool {
    iptables_save().contains("KUBE-SERVICES")
}

#[test]
fn a_switch_of_modes_cuts_no_connection_and_leaves_nothing_of_the_other() {
    let test = "a_switch_of_modes_cuts_no_connection_and_leaves_nothing_of_the_other";
    in_namespace(test, async |api| {
        let end = echo(PODS[0]).await;
        let ip = api.service("web", json!({"ports": [{"port": 80}]})).await;
        api.endpoints("web", "TCP", &[end]).await;
        let by_file = ByFile::new(&api);
        by_file.write("mode: nftables\n");
        let proxy = by_file.run();
        let connected =
            async || until("a connection", async || TcpStream::connect((ip, 80)).await.ok()).await;
        let mut old = connected().await;
        sends_back(&mut old).await;
        for round in 0..2 {
            // No mode is the default one.
            by_file.write("");
            let only = async || (has_iptables_rules() && table().is_none()).then_some(());
            until("the rules of iptables alone", only).await;
            sends_back(&mut old).await;
            sends_back(&mut connected().await).await;
            by_file.write("mode: nftables\n");
            let only = async || (!has_iptables_rules() && table().is_some()).then_some(());
            until("the rules of nftables alone", only).await;
            sends_back(&mut old).await;
            sends_back(&mut connected().await).await;
            assert!(!iptables_save().contains("KUBE-SVC"), "round {round}");
        }
        proxy.abort();
    });
}

#[test]
fn a_clean_up_removes_the_rules_of_every_mode_and_nobody_elses() {
    let test = "a_clean_up_removes_the_rules_of_every_mode_and_nobody_elses";
    in_namespace(test, async |mut api| {
        let end = server(PODS[0], "one").await;
        let ip = api.service("web", json!({"ports": [{"port": 80}]})).await;
        api.endpoints("web", "TCP", &[end]).await;
        let theirs = ["-t", "nat", "-A", "PREROUTING", "-d", "203.0.113.9", "-j", "RETURN"];
        assert!(Command::new("iptables").args(theirs).status().unwrap().success());
        let before = iptables_save();
        let proxy = api.proxy();
        until_answer((ip, 80), "one").await;
        proxy.stop().await;
        api.mode = "iptables";
        let proxy = api.proxy();
        until("the rules of iptables alone", async || {
            (has_iptables_rules() && table().is_none()).then_some(())
        })
        .await;
        proxy.stop().await;
        assert_eq!(ask((ip, 80)).await.as_deref(), Ok("one"));

        let options = Options::parse(["kube-proxy", "--cleanup=true"].map(str::to_owned)).unwrap();
        portolan_proxy::run(options).await.unwrap();
        assert_ne!(ask((ip, 80)).await.as_deref(), Ok("one"));
        let ours = |line: &&str| line.contains("KUBE-") && !line.contains("KUBE-FIREWALL");
        let after = iptables_save();
        assert_eq!(after.lines().filter(ours).collect::<Vec<_>>(), [""; 0]);
        for line in before.lines().filter(|line| line.starts_with("-A")) {
            assert!(after.contains(line), "{line} in {after}");
        }
    });
}

/// Before the rules that keep neighbours out are there, the kernel must.
#[test]
fn localhost_is_not_opened_before_the_rules_are_there() {
    let test = "localhost_is_not_opened_before_the_rules_are_there";
    in_each_mode(test, async |mut api| {
        let opened = || sysctl::read("net/ipv4/conf/all/route_localnet").unwrap();
        api.stop_server();
        let proxy = api.proxy_with("featureGates: {KubeProxyNFTablesLocalhostNodePorts: true}\n");
        until("the proxy's pages", async || crate::pages::get("127.0.0.1:10249", "/healthz").await)
            .await;
        for _ in 0..20 {
            assert_eq!(opened(), "0");
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        api.start_server().await;
        until("localhost to be opened", async || (opened() == "1").then_some(())).await;
        let has_rules = match api.mode {
            "iptables" => iptables_save().contains("block incoming localnet connections"),
            _ => table().is_some(),
        };
        assert!(has_rules);
        proxy.stop().await;
    });
}

/// Its rules would go on sending packets where they did when it was stopped.
#[test]
fn what_upstreams_nftables_proxy_left_goes_once_our_rules_are_there() {
    let test = "what_upstreams_nftables_proxy_left_goes_once_our_rules_are_there";
    in_each_mode(test, async |api| {
        let theirs = [Family::Ip, Family::Ip6].map(|family| TableRef::new(family, "kube-proxy"));
        let others = TableRef::new(Family::Ip, "others");
        let mut socket = Socket::open().unwrap();
        let tables = theirs.iter().chain([&others]);
        let tables = tables.map(|id| Op::AddTable(Table { id: id.clone(), comment: None }));
        socket.commit(&Batch::from(tables.collect::<Vec<_>>())).unwrap();
        let proxy = api.proxy();
        until("their tables to be gone", async || {
            let there = Socket::open().unwrap().tables().unwrap();
            let is_there = |id: &TableRef| there.iter().any(|table| table.id == *id);
            assert!(is_there(&others));
            (!theirs.iter().any(is_there)).then_some(())
        })
        .await;
        proxy.stop().await;
    });
}

#[test]
fn flushed_iptables_rules_come_back_with_an_event_and_a_metric() {
    let test = "flushed_iptables_rules_come_back_with_an_event_and_a_metric";
    in_mode("iptables", test, async |api| {
        let one = server(PODS[0], "one").await;
        let proxy = api.proxy_with("iptables: {syncPeriod: 100ms}\n");
        let ip = api.service("web", json!({"ports": [{"port": 80}]})).await;
        api.endpoints("web", "TCP", &[one]).await;
        until_answer((ip, 80), "one").await;
        let svc = iptables_save();
        let chain = svc.lines().find_map(|line| line.strip_prefix(":KUBE-SVC-")).unwrap();
        let chain = format!("KUBE-SVC-{}", chain.split(' ').next().unwrap());
        // All of a table, a chain's rules, and the way in.
        let services = ["-t", "nat", "-F", "KUBE-SERVICES"];
        let endpoints = ["-t", "nat", "-F", chain.as_str()];
        for harm in
            [&["-t", "nat", "-F"][..], &services, &endpoints, &["-t", "nat", "-F", "OUTPUT"]]
        {
            assert!(Command::new("iptables").args(harm).status().unwrap().success());
            until_answer((ip, 80), "one").await;
        }
        let event = api.event("IptablesRulesRepaired").await;
        let note = event.note.unwrap();
        assert!(note.contains("Somebody changed the IPv4 iptables rules"), "{note}");
        let (_, text) = crate::pages::get("127.0.0.1:10249", "/metrics").await.unwrap();
        let repairs = "kubeproxy_sync_proxy_rules_repairs_total{ip_family=\"IPv4\"}";
        assert!(text.contains(repairs), "{text}");
        for table in ["filter", "nat"] {
            let name = "kubeproxy_sync_proxy_rules_iptables_total";
            let line = format!("{name}{{ip_family=\"IPv4\",table=\"{table}\"}} ");
            assert!(text.contains(&line), "{line} in {text}");
        }
        proxy.stop().await;
    });
}

#[test]
fn node_ports_answer_at_localhost_where_they_are_told_to() {
    in_each_mode("node_ports_answer_at_localhost_where_they_are_told_to", async |api| {
        let one = server(PODS[0], "one").await;
        let spec = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]});
        api.service("web", spec).await;
        api.endpoints("web", "TCP", &[one]).await;
        let gate = "featureGates: {KubeProxyNFTablesLocalhostNodePorts: true}\n";
        let proxy = api.proxy_with(gate);
        until_answer((NODE, 30080), "one").await;
        until_answer((Ipv4Addr::LOCALHOST, 30080), "one").await;
        // In mode iptables, upstream counts them, and invalid packets.
        let (_, text) = crate::pages::get("127.0.0.1:10249", "/metrics").await.unwrap();
        let is_counted = |line| text.contains(&format!("\nkubeproxy_iptables_{line}\n"));
        for line in [
            "localhost_nodeports_accepted_packets_total 1",
            "ct_state_invalid_dropped_packets_total 0",
        ] {
            assert_eq!(is_counted(line), api.mode == "iptables", "{line} in {text}");
        }
        proxy.stop().await;
        let proxy = api.proxy_with("iptables: {localhostNodePorts: false}\n");
        until("silence at localhost", async || {
            ask((Ipv4Addr::LOCALHOST, 30080)).await.is_err().then_some(())
        })
        .await;
        assert_eq!(ask((NODE, 30080)).await.as_deref(), Ok("one"));
        proxy.stop().await;
    });
}
