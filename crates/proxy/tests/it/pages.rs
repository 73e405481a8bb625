//! Health and metrics, over HTTP.

use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::fixture::{NODE, PODS, in_namespace, server, until, until_answer};

pub(crate) async fn get(address: &str, path: &str) -> Option<(u16, String)> {
    let (head, body) = ask(address, path).await?;
    Some((head.status.as_u16(), body))
}

async fn ask(address: &str, path: &str) -> Option<(http::response::Parts, String)> {
    let stream = TcpStream::connect(address).await.ok()?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
    tokio::spawn(connection);
    let request = http::Request::get(path)
        .header("host", address)
        .body(Empty::<bytes::Bytes>::new())
        .unwrap();
    let answer = sender.send_request(request).await.ok()?;
    let (head, body) = answer.into_parts();
    let body = body.collect().await.ok()?.to_bytes();
    Some((head, String::from_utf8_lossy(&body).into_owned()))
}

#[test]
fn a_changed_configuration_is_taken_over_and_a_wrong_one_refused() {
    in_namespace("a_changed_configuration_is_taken_over_and_a_wrong_one_refused", async |api| {
        let one = server(PODS[0], "one").await;
        let ip = api.service("web", json!({"ports": [{"port": 80}]})).await;
        api.endpoints("web", "TCP", &[one]).await;
        let kubeconfig = api.kubeconfig();
        let file = kubeconfig.with_file_name("config.conf");
        let write = |more: &str| {
            let text = format!(
                "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n\
                 mode: nftables\nhostnameOverride: node-1\n\
                 clientConnection: {{kubeconfig: {}}}\n{more}",
                kubeconfig.display()
            );
            // As kubelet does it: never half a file.
            let new = file.with_extension("new");
            std::fs::write(&new, text).unwrap();
            std::fs::rename(&new, &file).unwrap();
        };
        write("healthzBindAddress: 127.0.0.1:10301\n");
        let words = ["kube-proxy".to_owned(), format!("--config={}", file.display())];
        let options = portolan_proxy::Options::parse(words).unwrap();
        let proxy = tokio::spawn(portolan_proxy::run(options));
        let answers = async |address: &str| {
            until("health", async || {
                get(address, "/healthz").await.filter(|(code, _)| *code == 200)
            })
            .await;
        };
        answers("127.0.0.1:10301").await;
        until_answer((ip, 80), "one").await;

        write("healthzBindAddress: 127.0.0.1:10302\nmode: no-such-mode\n");
        write("healthzBindAddress: 127.0.0.1:10302\n");
        answers("127.0.0.1:10302").await;
        assert_eq!(get("127.0.0.1:10301", "/healthz").await, None);
        until_answer((ip, 80), "one").await;

        write("healthzBindAddress: 127.0.0.1:10303\nconntrack: {min: many}\n");
        // The refused one is passed over: the next one is what comes.
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        assert_eq!(get("127.0.0.1:10302", "/healthz").await.map(|(code, _)| code), Some(200));
        proxy.abort();
    });
}

/// In a network namespace of its own the limit of connections can be read only.
#[test]
fn a_kernel_setting_that_cannot_be_written_is_an_event_and_a_metric() {
    in_namespace("a_kernel_setting_that_cannot_be_written_is_an_event_and_a_metric", async |api| {
        let one = server(PODS[0], "one").await;
        let proxy = api.proxy_with("conntrack: {min: 2000000000}\n");
        let ip = api.service("web", json!({"ports": [{"port": 80}]})).await;
        api.endpoints("web", "TCP", &[one]).await;
        until_answer((ip, 80), "one").await;
        let event = api.event("SysctlNotWritten").await;
        let note = event.note.unwrap();
        assert!(note.contains("nf_conntrack_max"), "{note}");
        let (_, text) = get("127.0.0.1:10249", "/metrics").await.unwrap();
        assert!(text.contains("kubeproxy_sysctl_failures_total 1\n"), "{text}");
        proxy.stop().await;
    });
}

#[test]
fn load_balancers_are_told_of_endpoints_on_this_node() {
    in_namespace("load_balancers_are_told_of_endpoints_on_this_node", async |api| {
        let one = server(PODS[0], "one").await;
        // Somebody else has the port at first.
        let taken = tokio::net::TcpListener::bind((NODE, 32_100)).await.unwrap();
        let proxy = api.proxy();
        let spec = json!({
            "type": "LoadBalancer", "externalTrafficPolicy": "Local",
            "healthCheckNodePort": 32_100, "ports": [{"port": 80}],
        });
        let ip = api.service("web", spec).await;
        api.endpoints("web", "TCP", &[one]).await;
        until_answer((ip, 80), "one").await;
        let event = api.event("FailedToStartServiceHealthcheck").await;
        assert_eq!(event.regarding.unwrap().name.as_deref(), Some("web"));
        let note = event.note.unwrap();
        let web = format!("{}/web", api.namespace);
        let begin = format!("node node-1 failed to start healthcheck \"{web}\" on port 32100: ");
        assert!(note.starts_with(&begin), "{note}");
        drop(taken);

        let check = format!("{NODE}:32100");
        let told = async |code: u16, count: usize| {
            until("the number of endpoints", async || {
                let (head, body) = ask(&check, "/anything").await?;
                let weight = head.headers["x-load-balancing-endpoint-weight"].to_str().unwrap();
                let body: serde_json::Value = serde_json::from_str(&body).unwrap();
                let expected = json!({
                    "service": {"namespace": api.namespace, "name": "web"},
                    "localEndpoints": count, "serviceProxyHealthy": true,
                });
                let is_so = (head.status.as_u16(), weight) == (code, &count.to_string());
                (is_so && body == expected).then_some(())
            })
            .await;
        };
        told(200, 1).await;
        api.endpoints("web", "TCP", &[]).await;
        told(503, 0).await;
        let services: kube::Api<k8s_openapi::api::core::v1::Service> =
            kube::Api::default_namespaced(api.client.clone());
        services.delete("web", &kube::api::DeleteParams::default()).await.unwrap();
        until("the port is closed", async || ask(&check, "/").await.is_none().then_some(())).await;
        proxy.stop().await;
    });
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
            "process_resident_memory_bytes ",
        ] {
            assert!(text.contains(name), "{name} in {text}");
        }
        for (path, part) in [
            ("/metrics", "# TYPE kubeproxy_sync_proxy_rules_service_changes_total counter\n"),
            ("/metrics/slis", "kubernetes_healthcheck{name=\"IPv6\",type=\"healthz\"} 1\n"),
            ("/statusz", "\nUp: 0 hr 00 min "),
            ("/flagz", "\nkube-proxy flagz\n"),
        ] {
            let (code, text) = get(metrics, path).await.unwrap();
            assert!(code == 200 && text.contains(part), "{part} in {text}");
        }
        let put = async |body: &str| {
            let mut stream = tokio::net::TcpStream::connect(metrics).await.unwrap();
            let length = body.len();
            let head = format!("PUT /debug/flags/v HTTP/1.0\r\nContent-Length: {length}\r\n\r\n");
            stream.write_all((head + body).as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer.split(' ').nth(1).unwrap().to_owned()
        };
        assert_eq!(
            [put("4").await, put("much").await, put(&"9".repeat(99)).await],
            ["200", "400", "413"]
        );
        for path in ["/debug/pprof/heap", "/debug/flags/v", "/nothing"] {
            assert_eq!(get(metrics, path).await.unwrap().0, 404, "{path}");
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
