//! A Service without a selector: Endpoints by hand, their mirror, rules, an answer.

use k8s_openapi::api::core::v1 as core;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use portolan_controllers as controllers;
use serde_json::json;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::fixture::{PODS, in_each_mode, server, until_answer};

#[test]
fn endpoints_by_hand_are_reached_through_their_service() {
    in_each_mode("endpoints_by_hand_are_reached_through_their_service", async |api| {
        let (one, two) = (server(PODS[0], "one").await, server(PODS[1], "two").await);
        let stop = CancellationToken::new();
        let (ready, is_ready) = oneshot::channel();
        let config = controllers::Config::new(["10.244.0.0/16".parse().unwrap()], "the CA");
        let running = controllers::run(api.client.clone(), config, ready, stop.clone());
        let running = tokio::spawn(running);
        is_ready.await.unwrap();
        let proxy = api.proxy();

        let port = json!([{"name": "http", "port": 80, "protocol": "TCP"}]);
        let ip = api.service("ext", json!({"ports": port})).await;
        let subsets = |end: std::net::SocketAddr| {
            json!([{
                "addresses": [{"ip": end.ip()}],
                "ports": [{"name": "http", "port": end.port()}],
            }])
        };
        let endpoints: Api<core::Endpoints> = Api::default_namespaced(api.client.clone());
        let by_hand = json!({"metadata": {"name": "ext"}, "subsets": subsets(one)});
        let by_hand = serde_json::from_value(by_hand).unwrap();
        endpoints.create(&PostParams::default(), &by_hand).await.unwrap();
        until_answer((ip, 80), "one").await;

        let moved = json!({"subsets": subsets(two)});
        endpoints.patch("ext", &PatchParams::default(), &Patch::Merge(moved)).await.unwrap();
        until_answer((ip, 80), "two").await;

        proxy.stop().await;
        stop.cancel();
        running.await.unwrap().unwrap();
    });
}
