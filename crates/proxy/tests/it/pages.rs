//! Health and metrics, over HTTP.

use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpStream;

use crate::fixture::{PODS, in_namespace, server, until, until_answer};

async fn get(address: &str, path: &str) -> Option<(u16, String)> {
    let stream = TcpStream::connect(address).await.ok()?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
    tokio::spawn(connection);
    let request = http::Request::get(path)
        .header("host", address)
        .body(Empty::<bytes::Bytes>::new())
        .unwrap();
    let answer = sender.send_request(request).await.ok()?;
    let code = answer.status().as_u16();
    let body = answer.into_body().collect().await.ok()?.to_bytes();
    Some((code, String::from_utf8_lossy(&body).into_owned()))
}

#[test]
fn pages_are_those_of_kube_proxy() {
    in_namespace("pages_are_those_of_kube_proxy", async |api| {
        let one = server(PODS[0], "one").await;
        let proxy = api.proxy();
        let ip = api.service("web", json!({"ports": [{"port": 80}]})).await;
        api.endpoints("web", "TCP", &[one]).await;
        until_answer((ip, 80), "one").await;
        let health = "127.0.0.1:10256";
        let (_, body) = until("health", async || {
            get(health, "/healthz").await.filter(|(code, _)| *code == 200)
        })
        .await;
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["nodeEligible"], true);
        for family in ["IPv4", "IPv6"] {
            assert_eq!(body["status"][family]["healthy"], true, "{body}");
        }
        assert_eq!(get(health, "/livez").await.unwrap().0, 200);
        assert_eq!(get(health, "/metrics").await.unwrap().0, 404);
        let metrics = "127.0.0.1:10249";
        assert_eq!(get(metrics, "/proxyMode").await.unwrap(), (200, "nftables".into()));
        assert_eq!(get(metrics, "/healthz").await.unwrap(), (200, "ok".into()));
        let (_, configz) = get(metrics, "/configz").await.unwrap();
        assert!(
            configz.contains("\"clusterCIDR\":\"10.244.0.0/16,fd00:10:244::/48\""),
            "{configz}"
        );
        let (_, text) = get(metrics, "/metrics").await.unwrap();
        for name in [
            "kubeproxy_sync_proxy_rules_duration_seconds_bucket",
            "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
            "kubeproxy_sync_proxy_rules_service_changes_total",
            "kubeproxy_proxy_healthz_total{code=\"200\"}",
        ] {
            assert!(text.contains(name), "{name} in {text}");
        }
        for family in ["IPv4", "IPv6"] {
            let line = format!(
                "kubeproxy_sync_proxy_rules_last_timestamp_seconds{{ip_family=\"{family}\"}}"
            );
            assert!(text.contains(&line), "{line} in {text}");
        }
        proxy.stop().await;
    });
}
