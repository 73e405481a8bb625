//! TCP through rules: they follow the API, survive its restarts and ours, and come back when they
//! are flushed.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::networking::v1 as networking;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use portolan_netlink::ipvs;
use portolan_netlink::link::Links;
use portolan_netlink::nft::{Batch, Family, Op, Socket, TableRef};
use serde_json::json;

use crate::fixture::{
    DUAL, DUAL_IPS, DUAL_PORT, NODE, NODE_V6, POD_V6, PODS, ask, in_each_mode, in_namespace,
    iptables_save, server, table, until, until_answer,
};

fn http() -> serde_json::Value {
    json!({"ports": [{"port": 80, "targetPort": 8080}]})
}

#[test]
fn a_service_is_reachable_through_its_cluster_ip_and_node_port() {
    in_each_mode("a_service_is_reachable_through_its_cluster_ip_and_node_port", async |api| {
        let (one, two) = (server(PODS[0], "one").await, server(PODS[1], "two").await);
        let proxy = api.proxy();
        let spec = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]});
        let ip = api.service("web", spec).await;
        api.endpoints("web", "TCP", &[one, two]).await;
        for name in ["one", "two"] {
            until_answer((ip, 80), name).await;
            until_answer((NODE, 30080), name).await;
        }
        api.endpoints("web", "TCP", &[two]).await;
        until("the first endpoint to be gone", async || {
            let mut names = Vec::new();
            for _ in 0..20 {
                names.push(ask((ip, 80)).await);
            }
            names.iter().all(|name| name.as_deref() == Ok("two")).then_some(())
        })
        .await;
        proxy.stop().await;
        assert_eq!(ask((ip, 80)).await.as_deref(), Ok("two"));
    });
}

#[test]
fn a_dual_stack_service_is_reachable_in_both_families_each_by_its_own_endpoints() {
    let test = "a_dual_stack_service_is_reachable_in_both_families_each_by_its_own_endpoints";
    in_each_mode(test, async |api| {
        let (four, six) = (server(PODS[0], "four").await, server(POD_V6, "six").await);
        let proxy = api.proxy();
        let ways = |family: usize, node: IpAddr| [(DUAL_IPS[family], 80), (node, DUAL_PORT)];
        let (by_four, by_six) = (ways(0, NODE.into()), ways(1, NODE_V6.into()));
        // Without endpoints both refuse.
        for way in by_four.iter().chain(&by_six) {
            until("a refusal", async || {
                (ask(*way).await == Err(ErrorKind::ConnectionRefused)).then_some(())
            })
            .await;
        }
        api.endpoints(DUAL, "TCP", &[six]).await;
        for way in by_six {
            until_answer(way, "six").await;
        }
        // Endpoints of one family are none of the other.
        for way in by_four {
            assert_eq!(ask(way).await, Err(ErrorKind::ConnectionRefused));
        }
        api.endpoints(DUAL, "TCP", &[four]).await;
        for way in by_four {
            until_answer(way, "four").await;
        }
        for way in by_six {
            assert_eq!(ask(way).await.as_deref(), Ok("six"));
        }
        proxy.stop().await;
    });
}

#[test]
fn a_service_without_endpoints_refuses_at_once() {
    in_each_mode("a_service_without_endpoints_refuses_at_once", async |api| {
        let one = server(PODS[0], "one").await;
        let proxy = api.proxy();
        let ip = api.service("web", http()).await;
        until("a refusal", async || {
            (ask((ip, 80)).await == Err(ErrorKind::ConnectionRefused)).then_some(())
        })
        .await;
        api.endpoints("web", "TCP", &[one]).await;
        until_answer((ip, 80), "one").await;
        api.endpoints("web", "TCP", &[]).await;
        until("a refusal", async || {
            (ask((ip, 80)).await == Err(ErrorKind::ConnectionRefused)).then_some(())
        })
        .await;
        let services: Api<core::Service> = Api::default_namespaced(api.client.clone());
        services.delete("web", &DeleteParams::default()).await.unwrap();
        until("no trace of the Service", async || {
            if api.mode == "ipvs" {
                let servers = ipvs::Socket::open().unwrap().services().unwrap();
                let is_gone = !servers.iter().any(|(server, _)| server.address == ip);
                return is_gone.then_some(());
            }
            if api.mode == "iptables" {
                return (!iptables_save().contains(&ip.to_string())).then_some(());
            }
            let table = table()?;
            let octets = ip.octets();
            let names_it =
                |e: &portolan_netlink::nft::Element| e.key.as_bytes().starts_with(&octets);
            (!table.sets.iter().any(|(_, elements)| elements.iter().any(names_it))).then_some(())
        })
        .await;
        proxy.stop().await;
    });
}

#[test]
fn a_service_of_another_proxy_is_left_alone() {
    in_each_mode("a_service_of_another_proxy_is_left_alone", async |api| {
        let one = server(PODS[0], "one").await;
        let proxy = api.proxy();
        let ip = api.service("web", http()).await;
        api.endpoints("web", "TCP", &[one]).await;
        until_answer((ip, 80), "one").await;
        let services: Api<core::Service> = Api::default_namespaced(api.client.clone());
        let label =
            json!({"metadata": {"labels": {"service.kubernetes.io/service-proxy-name": "x"}}});
        services.patch("web", &PatchParams::default(), &Patch::Merge(label)).await.unwrap();
        until("the Service to be let go", async || ask((ip, 80)).await.is_err().then_some(()))
            .await;
        proxy.stop().await;
    });
}

#[test]
fn a_flushed_ruleset_comes_back() {
    in_namespace("a_flushed_ruleset_comes_back", async |api| {
        let one = server(PODS[0], "one").await;
        let proxy = api.proxy();
        let ip = api.service("web", http()).await;
        api.endpoints("web", "TCP", &[one]).await;
        until_answer((ip, 80), "one").await;
        let ours = TableRef::new(Family::Ip, portolan_backend_nftables::TABLE);
        let mut other = Socket::open().unwrap();
        for round in 0..3 {
            other.commit(&Batch::from(vec![Op::DeleteTable(ours.clone())])).unwrap();
            assert_ne!(ask((ip, 80)).await.as_deref(), Ok("one"), "round {round}");
            until_answer((ip, 80), "one").await;
        }
        // A set that lost its elements is put right as well.
        let sets = table().unwrap().sets;
        let (fronts, _) = sets
            .iter()
            .find(|(_, elements)| {
                elements.iter().any(|e| e.key.as_bytes().starts_with(&ip.octets()))
            })
            .unwrap();
        other.commit(&Batch::from(vec![Op::FlushSet(fronts.id())])).unwrap();
        until_answer((ip, 80), "one").await;
        proxy.stop().await;
    });
}

#[test]
fn a_restarted_api_server_is_followed_again() {
    in_each_mode("a_restarted_api_server_is_followed_again", async |mut api| {
        let (one, two) = (server(PODS[0], "one").await, server(PODS[1], "two").await);
        let proxy = api.proxy();
        let first = api.service("first", http()).await;
        api.endpoints("first", "TCP", &[one]).await;
        until_answer((first, 80), "one").await;
        api.stop_server();
        assert_eq!(ask((first, 80)).await.as_deref(), Ok("one"));
        api.start_server().await;
        let second = api.service("second", http()).await;
        api.endpoints("second", "TCP", &[two]).await;
        until_answer((second, 80), "two").await;
        api.endpoints("first", "TCP", &[two]).await;
        until_answer((first, 80), "two").await;
        proxy.stop().await;
    });
}

#[test]
fn a_restarted_proxy_makes_of_the_kernel_what_a_fresh_one_would() {
    in_each_mode("a_restarted_proxy_makes_of_the_kernel_what_a_fresh_one_would", async |api| {
        let (one, two) = (server(PODS[0], "one").await, server(PODS[1], "two").await);
        let proxy = api.proxy();
        let kept = api.service("kept", http()).await;
        let gone = api.service("gone", http()).await;
        api.endpoints("kept", "TCP", &[one]).await;
        api.endpoints("gone", "TCP", &[one]).await;
        until_answer((gone, 80), "one").await;
        proxy.stop().await;
        let services: Api<core::Service> = Api::default_namespaced(api.client.clone());
        services.delete("gone", &DeleteParams::default()).await.unwrap();
        api.endpoints("kept", "TCP", &[two]).await;
        assert_eq!(ask((kept, 80)).await.as_deref(), Ok("one"));
        let proxy = api.proxy();
        until_answer((kept, 80), "two").await;
        assert!(ask((gone, 80)).await.is_err());
        proxy.stop().await;
    });
}

/// Upstream's nftables mode: an address of a service range that no Service has is nobody's, even if
/// somebody on this node has it.
#[test]
fn an_address_of_a_service_range_without_a_service_gets_no_packets() {
    in_namespace("an_address_of_a_service_range_without_a_service_gets_no_packets", async |api| {
        let stray = Ipv4Addr::new(10, 112, 0, 1);
        Links::open().unwrap().add_address("lo", IpAddr::from(stray).into()).await.unwrap();
        let end = server(stray, "stray").await;
        let proxy = api.proxy();
        until_answer(end, "stray").await;
        let cidrs: Api<networking::ServiceCIDR> = Api::all(api.client.clone());
        let range = json!({"metadata": {"name": "more"}, "spec": {"cidrs": ["10.112.0.0/24"]}});
        let range: networking::ServiceCIDR = serde_json::from_value(range).unwrap();
        cidrs.create(&PostParams::default(), &range).await.unwrap();
        until("packets are dropped", async || ask(end).await.is_err().then_some(())).await;
        assert_eq!(ask(end).await, Err(std::io::ErrorKind::TimedOut));
        proxy.stop().await;
    });
}

/// A thousand endpoints of ten Services come and go in halves; in the end each Service has one, and no
/// connection goes anywhere else.
#[test]
fn a_thousand_endpoints_may_flap() {
    in_each_mode("a_thousand_endpoints_may_flap", async |api| {
        let one = server(PODS[0], "one").await;
        let proxy = api.proxy();
        let names: Vec<_> = (0..10_u8).map(|number| format!("flap-{number}")).collect();
        let mut ips = Vec::new();
        for name in &names {
            ips.push(api.service(name, http()).await);
        }
        for round in 0..12 {
            for (number, name) in (0..).zip(&names) {
                let all = (0..100).map(|end| SocketAddr::from(([10, 244, 1 + number, end], 8080)));
                let half = |(index, end)| (round % 3 == 0 || index % 2 == round % 2).then_some(end);
                let ends: Vec<_> = all.enumerate().filter_map(half).collect();
                api.endpoints(name, "TCP", &ends).await;
            }
        }
        for name in &names {
            api.endpoints(name, "TCP", &[one]).await;
        }
        for ip in ips {
            until_answer((ip, 80), "one").await;
            for _ in 0..10 {
                assert_eq!(ask((ip, 80)).await.as_deref(), Ok("one"));
            }
        }
        proxy.stop().await;
    });
}
