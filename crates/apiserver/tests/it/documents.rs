//! What is no resource: discovery with its validators, OpenAPI in both versions, probes, metrics, compression.

use std::io::Read;

use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::support::*;

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
const AGGREGATED_BETA: &str =
    "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";

#[tokio::test]
async fn aggregated_discovery_comes_in_the_version_that_is_asked_for() {
    let t = start().await;
    let ask =
        async |path: &str, accept: String| t.send("GET", path, &[("accept", &accept)], "").await;
    // kubectl 1.30 and later, 1.27 to 1.29, and a client that knows neither.
    for (accept, version) in [
        (format!("{AGGREGATED},{AGGREGATED_BETA},application/json"), Some("v2")),
        (format!("{AGGREGATED_BETA},application/json"), Some("v2beta1")),
        ("application/json".to_owned(), None),
    ] {
        for (path, group, plain) in [("/apis", "apps", "APIGroupList"), ("/api", "", "APIVersions")]
        {
            let answer = ask(path, accept.clone()).await;
            let content_type = answer.headers["content-type"].to_str().unwrap().to_owned();
            let body = answer.ok();
            let Some(version) = version else {
                assert_eq!(body["kind"], plain);
                continue;
            };
            assert!(content_type.contains(&format!("v={version};")), "{content_type}");
            assert_eq!(body["apiVersion"], format!("apidiscovery.k8s.io/{version}"));
            let groups = body["items"].as_array().unwrap();
            let found = groups.iter().find(|g| g["metadata"]["name"] == group).unwrap();
            assert_eq!(found["versions"][0]["freshness"], "Current");
        }
    }
}

#[tokio::test]
async fn a_client_that_has_the_document_is_told_so() {
    let t = start().await;
    let index = t.get("/openapi/v3").await;
    let v3 = index.body["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap().to_owned();
    for (path, accept) in [
        ("/apis", AGGREGATED),
        ("/api", AGGREGATED_BETA),
        ("/openapi/v3", "application/json"),
        (&v3, "application/json"),
        ("/openapi/v2", "application/json"),
        ("/openapi/v2", "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"),
    ] {
        let first = t.send("GET", path, &[("accept", accept)], "").await;
        assert_eq!(first.code, 200, "{path}");
        let etag = first.headers["etag"].to_str().unwrap().to_owned();
        assert!(etag.len() == 130 && etag.starts_with('"') && etag.ends_with('"'), "{etag}");
        assert_eq!(first.headers["vary"], "Accept");
        let again = [("accept", accept), ("if-none-match", &etag)];
        let again = t.send("GET", path, &again, "").await;
        assert_eq!((again.code, again.headers["etag"].to_str().unwrap()), (304, etag.as_str()));
        assert_eq!(again.body, "");
        let other = [("accept", accept), ("if-none-match", "\"other\"")];
        assert_eq!(t.send("GET", path, &other, "").await.code, 200);
    }
}

#[tokio::test]
async fn openapi_leads_from_the_path_to_the_schema() {
    let t = start().await;
    let index = t.get("/openapi/v3").await.ok();
    let url = index["paths"]["api/v1"]["serverRelativeURL"].as_str().unwrap().to_owned();
    let answer = t.get(&url).await;
    assert_eq!(answer.headers["cache-control"], "public, immutable");
    assert!(answer.headers["expires"].to_str().unwrap().ends_with("GMT"));
    let document = answer.ok();
    let post = &document["paths"]["/api/v1/namespaces/{namespace}/services"]["post"];
    assert_eq!(post["x-kubernetes-group-version-kind"]["kind"], "Service");
    let schema = &document["components"]["schemas"]["io.k8s.api.core.v1.Service"];
    assert_eq!(schema["x-kubernetes-group-version-kind"][0]["kind"], "Service");
    assert!(schema["properties"]["spec"].is_object());
    // Without its hash it is to be asked for again, with an old one it has moved.
    let plain = t.get("/openapi/v3/api/v1").await;
    assert_eq!(plain.headers["cache-control"], "no-cache, private");
    let old = t.get("/openapi/v3/api/v1?hash=ABC").await;
    assert_eq!((old.code, old.headers["location"].to_str().unwrap()), (301, url.as_str()));
    let html = [("accept", "text/html")];
    for path in ["/openapi/v3", &url, "/openapi/v2"] {
        let answer = t.send("GET", path, &html, "").await;
        assert_eq!((answer.code, &answer.body["reason"]), (406, &json!("NotAcceptable")));
    }
}

#[tokio::test]
async fn version_2_is_a_document_of_definitions_in_both_encodings() {
    let t = start().await;
    let answer = t.get("/openapi/v2").await.ok();
    assert_eq!(answer["swagger"], "2.0");
    let definition = &answer["definitions"]["io.k8s.api.apps.v1.Deployment"];
    assert_eq!(
        definition["properties"]["spec"]["$ref"],
        "#/definitions/io.k8s.api.apps.v1.DeploymentSpec"
    );
    let accept = [("accept", "application/com.github.proto-openapi.spec.v2@v1.0+protobuf")];
    let response = t.raw("GET", "/openapi/v2", &accept, "").await;
    assert_eq!(
        response.headers()["content-type"],
        "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
    );
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    assert!(bytes.starts_with(b"\x0a\x032.0\x12"), "{:?}", &bytes[..8]);
    let name = b"io.k8s.api.apps.v1.Deployment";
    assert!(bytes.windows(name.len()).any(|w| w == name));
}

#[tokio::test]
async fn probes_answer_one_by_one_verbose_and_without_what_is_excluded() {
    let t = start().await;
    let controller = "poststarthook/bootstrap-controller";
    for probe in ["healthz", "livez", "readyz"] {
        assert_eq!(t.get(&format!("/{probe}")).await.ok(), "ok");
        for check in ["ping", "etcd", controller] {
            let answer = t.get(&format!("/{probe}/{check}")).await;
            assert_eq!(answer.headers["x-content-type-options"], "nosniff");
            assert_eq!(answer.ok(), "ok", "{probe} {check}");
        }
        assert_eq!(t.get(&format!("/{probe}/nope")).await.code, 404);
    }
    assert_eq!(
        t.get("/livez?verbose").await.ok(),
        format!("[+]ping ok\n[+]etcd ok\n[+]{controller} ok\nlivez check passed\n")
    );
    assert_eq!(
        t.get("/readyz?verbose&exclude=etcd&exclude=nope").await.ok(),
        format!(
            "[+]ping ok\n[+]etcd excluded: ok\n[+]{controller} ok\n[+]shutdown ok\nwarn: some \
             health checks cannot be excluded: no matches for \"nope\"\nreadyz check passed\n"
        )
    );
    let version = t.get("/version").await.ok();
    assert_eq!((&version["major"], &version["minor"]), (&json!("1"), &json!("36")));
}

#[tokio::test]
async fn metrics_have_upstreams_names_and_labels() {
    let t = start().await;
    t.post(CONFIG_MAPS, config_map("m")).await.ok();
    t.get(CONFIG_MAPS).await.ok();
    t.get(&format!("{CONFIG_MAPS}/none")).await;
    t.get("/api/v1/invented-by-a-client").await;
    let answer = t.get("/metrics").await;
    assert_eq!(answer.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let body = answer.ok();
    let text = body.as_str().unwrap();
    let sample = |name: &str, labels: &[&str]| -> f64 {
        let line = text.lines().find(|l| {
            l.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
                && labels.iter().all(|label| l.contains(label))
        });
        let line = line.unwrap_or_else(|| panic!("no {name} with {labels:?} in\n{text}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    let on = ["version=\"v1\"", "resource=\"configmaps\"", "component=\"apiserver\""];
    let with = |more: &[&'static str]| [&on[..], more].concat();
    let requests = "apiserver_request_total";
    assert_eq!(
        sample(requests, &with(&["verb=\"POST\"", "code=\"201\"", "scope=\"resource\""])),
        1.0
    );
    assert_eq!(
        sample(requests, &with(&["verb=\"LIST\"", "code=\"200\"", "scope=\"namespace\""])),
        1.0
    );
    assert_eq!(sample(requests, &with(&["verb=\"GET\"", "code=\"404\""])), 1.0);
    let durations = "apiserver_request_duration_seconds_bucket";
    assert_eq!(sample(durations, &with(&["verb=\"LIST\"", "le=\"+Inf\"", "dry_run=\"\""])), 1.0);
    assert_eq!(sample("apiserver_storage_objects", &["resource=\"configmaps\""]), 1.0);
    assert_eq!(
        sample("apiserver_storage_objects", &["resource=\"endpointslices.discovery.k8s.io\""]),
        1.0
    );
    assert_eq!(
        sample("apiserver_resource_objects", &["group=\"\"", "resource=\"namespaces\""]),
        4.0
    );
    assert_eq!(sample("apiserver_current_inflight_requests", &["request_kind=\"readOnly\""]), 1.0);
    assert_eq!(sample("apiserver_current_inflight_requests", &["request_kind=\"mutating\""]), 0.0);
    assert_eq!(sample("kubernetes_build_info", &["major=\"1\"", "minor=\"36\""]), 1.0);
    assert!(sample("process_resident_memory_bytes", &[]) > 1e6);
    assert!(text.contains("# TYPE apiserver_request_total counter\n"));
    assert!(!text.contains("invented"), "a client makes no series");
}

#[tokio::test]
async fn what_watches_send_is_counted() {
    let t = start().await;
    t.post(CONFIG_MAPS, config_map("a")).await.ok();
    let watch = t.raw("GET", &format!("{CONFIG_MAPS}?watch=1"), &[], "").await;
    let mut body = watch.into_body();
    body.frame().await.unwrap().unwrap();
    t.post(CONFIG_MAPS, config_map("b")).await.ok();
    body.frame().await.unwrap().unwrap();
    let metrics = t.get("/metrics").await.ok();
    let lines = metrics.as_str().unwrap();
    let line = |name: &str| {
        let mut lines = lines.lines();
        lines.find(|l| l.starts_with(name) && l.contains("\"configmaps\"")).unwrap().to_owned()
    };
    assert!(line("apiserver_watch_events_total{").ends_with(" 2"));
    assert!(line("apiserver_watch_events_sizes_count{").ends_with(" 2"));
    assert!(line("apiserver_longrunning_requests{").ends_with(" 1"));
}

#[tokio::test]
async fn long_answers_are_compressed_for_those_who_ask() {
    let t = start().await;
    for i in 0..20 {
        let mut map = config_map(&format!("m-{i:02}"));
        map["data"]["text"] = json!("0123456789".repeat(2000));
        t.post(CONFIG_MAPS, map).await.ok();
    }
    let plain = t.get(CONFIG_MAPS).await.ok();
    let gzip = [("accept-encoding", "gzip")];
    let response = t.raw("GET", CONFIG_MAPS, &gzip, "").await;
    assert_eq!(response.headers()["content-encoding"], "gzip");
    assert_eq!(response.headers()["vary"], "Accept-Encoding");
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    assert!(bytes.len() < 100_000, "{}", bytes.len());
    let mut text = Vec::new();
    flate2::read::GzDecoder::new(&bytes[..]).read_to_end(&mut text).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&text).unwrap(), plain);
    for path in [&format!("{CONFIG_MAPS}/m-00"), &format!("{CONFIG_MAPS}?limit=2"), "/version"] {
        let response = t.raw("GET", path, &gzip, "").await;
        assert!(!response.headers().contains_key("content-encoding"), "{path}");
    }
    let watch = t.raw("GET", &format!("{CONFIG_MAPS}?watch=1"), &gzip, "").await;
    assert!(!watch.headers().contains_key("content-encoding"));
}
