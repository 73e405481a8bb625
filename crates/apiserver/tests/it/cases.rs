//! The Service API as data: `tests/cases`, one test a file. How a case reads stands in the README there.

use std::collections::BTreeMap;
use std::path::Path;

use portolan_api::schema::{self, ContentType};
use serde_json::{Map, Value, json};

use crate::support::*;

/// Runs every case of a file, and tells all that fail.
async fn run(file: &str, least: usize) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases").join(file);
    let cases = schema::decode(&std::fs::read(path).unwrap(), ContentType::Yaml).unwrap().value;
    let cases = cases.as_array().unwrap();
    assert!(cases.len() >= least, "{} cases are left of {least}", cases.len());
    let mut servers: BTreeMap<&str, Fixture> = BTreeMap::new();
    let mut failures = Vec::new();
    for case in cases {
        let cluster = case["cluster"].as_str().unwrap_or("v4");
        if !servers.contains_key(cluster) {
            let dir = tempfile::tempdir().unwrap();
            servers.insert(cluster, start_on(dir, cidrs(cluster)).await);
        }
        let case = Case { server: &servers[cluster], case };
        if let Err(why) = case.run().await {
            failures.push(format!("{}: {why}", case.case["name"]));
        }
        case.clean_up().await;
    }
    assert!(failures.is_empty(), "{} fail:\n{}", failures.len(), failures.join("\n"));
}

fn cidrs(cluster: &str) -> &'static [&'static str] {
    match cluster {
        "v4" => &["10.96.0.0/24"],
        "v6" => &["fd00::/112"],
        "v4v6" => &["10.96.0.0/24", "fd00::/112"],
        "v6v4" => &["fd00::/112", "10.96.0.0/24"],
        other => panic!("no such cluster: {other}"),
    }
}

struct Case<'a> {
    server: &'a Fixture,
    case: &'a Value,
}

impl Case<'_> {
    fn kind(&self) -> &str {
        self.case["kind"].as_str().unwrap_or("Service")
    }

    fn collection(&self) -> &'static str {
        match self.kind() {
            "Service" => SERVICES,
            "ServiceCIDR" => "/apis/networking.k8s.io/v1/servicecidrs",
            "IPAddress" => "/apis/networking.k8s.io/v1/ipaddresses",
            other => panic!("no such kind: {other}"),
        }
    }

    fn name(&self) -> &str {
        self.case["metadata"]["name"].as_str().unwrap_or("web")
    }

    fn uri(&self) -> String {
        format!("{}/{}", self.collection(), self.name())
    }

    fn given(&self) -> &Map<String, Value> {
        static NONE: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);
        self.case["given"].as_object().unwrap_or(&NONE)
    }

    fn object(&self, spec: &Value) -> Value {
        let api_version = if self.kind() == "Service" { "v1" } else { "networking.k8s.io/v1" };
        let mut metadata = self.case["metadata"].as_object().cloned().unwrap_or_default();
        metadata.insert("name".into(), self.name().into());
        json!({
            "apiVersion": api_version, "kind": self.kind(), "metadata": metadata, "spec": spec,
        })
    }

    fn with_ports(&self, spec: &Value) -> Value {
        let mut spec = spec.clone();
        if self.kind() == "Service" && self.case["bare"] != true && spec.get("ports").is_none() {
            spec["ports"] = json!([{"port": 80}]);
        }
        spec
    }

    async fn run(&self) -> Result<(), String> {
        for (name, spec) in self.given() {
            let mut spec = spec.clone();
            if spec.get("ports").is_none() {
                spec["ports"] = json!([{"port": 80}]);
            }
            let answer = self.server.post(SERVICES, service(name, spec)).await;
            succeeded(&answer).map_err(|why| format!("given {name}: {why}"))?;
        }
        let mut answer = self
            .server
            .post(self.collection(), self.object(&self.with_ports(&self.case["create"])))
            .await;
        let created = answer.body.clone();
        for step in self.case["then"].as_array().into_iter().flatten() {
            succeeded(&answer)?;
            let (verb, fields) = step.as_object().unwrap().iter().next().unwrap();
            answer = self.step(verb, fields).await?;
        }
        self.judge(&answer, &created).await
    }

    async fn step(&self, verb: &str, fields: &Value) -> Result<Answer, String> {
        let uri = self.uri();
        let answer = match verb {
            "put" => self.server.put(&uri, self.object(fields)).await,
            "edit" => {
                let mut object = self.server.get(&uri).await.ok();
                for (field, value) in fields.as_object().unwrap() {
                    match value {
                        Value::Null => drop(object["spec"].as_object_mut().unwrap().remove(field)),
                        value => object["spec"][field] = value.clone(),
                    }
                }
                self.server.put(&uri, object).await
            }
            "patch" => self.server.patch(&uri, "merge-patch", json!({"spec": fields})).await,
            "status" => {
                let uri = format!("{uri}/status");
                self.server.patch(&uri, "merge-patch", json!({"status": fields})).await
            }
            "delete" => {
                let name = fields.as_str().unwrap();
                self.server.delete(&format!("{SERVICES}/{name}")).await
            }
            other => return Err(format!("no such step: {other}")),
        };
        Ok(answer)
    }

    async fn judge(&self, answer: &Answer, created: &Value) -> Result<(), String> {
        if let Some(expected) = self.case["causes"].as_array() {
            let causes = &answer.body["details"]["causes"];
            let causes: Vec<String> = causes
                .as_array()
                .into_iter()
                .flatten()
                .map(|cause| {
                    let text = |field: &str| cause[field].as_str().unwrap_or("").to_owned();
                    format!("{}: {}", text("field"), text("message"))
                })
                .collect();
            let agrees = |(cause, expected): (&String, &Value)| {
                let expected = expected.as_str().unwrap();
                match expected.strip_suffix('…') {
                    Some(start) => cause.starts_with(start),
                    None => cause == expected,
                }
            };
            let all = causes.iter().zip(expected).all(agrees) && causes.len() == expected.len();
            if answer.code != 422 || !all {
                return Err(format!("{}: {causes:#?} {}", answer.code, answer.body["message"]));
            }
            return Ok(());
        }
        if let Some(expected) = self.case["error"].as_str() {
            let message = answer.body["message"].as_str().unwrap_or("");
            let agrees = answer.code >= 400 && message == expected;
            return agrees.then_some(()).ok_or(format!("{}: {message}", answer.code));
        }
        succeeded(answer)?;
        if let Some(expected) = self.case["warnings"].as_array() {
            let warnings = answer.warnings();
            let expected: Vec<String> =
                expected.iter().map(|text| format!("299 - {:?}", text.as_str().unwrap())).collect();
            if warnings != expected {
                return Err(format!("warns {warnings:#?}"));
            }
        }
        let stored = self.server.get(&self.uri()).await.ok();
        for (path, expected) in self.case["want"].as_object().into_iter().flatten() {
            agrees(path, expected, &stored, created)?;
        }
        let asserts = ["want", "warnings"].iter().any(|key| !self.case[*key].is_null());
        asserts.then_some(()).ok_or("asserts nothing".to_owned())
    }

    async fn clean_up(&self) {
        self.server.delete(&self.uri()).await;
        for name in self.given().keys() {
            self.server.delete(&format!("{SERVICES}/{name}")).await;
        }
    }
}

fn succeeded(answer: &Answer) -> Result<(), String> {
    let fine = (200..300).contains(&answer.code);
    fine.then_some(()).ok_or_else(|| format!("{}: {}", answer.code, answer.body["message"]))
}

fn agrees(path: &str, expected: &Value, stored: &Value, created: &Value) -> Result<(), String> {
    let pointer = format!("/{}", path.replace('.', "/"));
    let (actual, before) = (stored.pointer(&pointer), created.pointer(&pointer));
    let text = actual.and_then(Value::as_str).unwrap_or("");
    let fine = match expected.as_str() {
        Some("<absent>") => actual.is_none(),
        Some("<ipv4>") => text.parse::<std::net::Ipv4Addr>().is_ok(),
        Some("<ipv6>") => text.parse::<std::net::Ipv6Addr>().is_ok(),
        Some("<port>") => {
            actual.and_then(Value::as_u64).is_some_and(|port| (30000..=30100).contains(&port))
        }
        Some("<same>") => actual.is_some() && actual == before,
        _ => actual == Some(expected),
    };
    fine.then_some(()).ok_or_else(|| format!("{path} is {actual:?} (at first {before:?})"))
}

#[tokio::test]
async fn services_get_upstreams_defaults() {
    run("defaults.yaml", 37).await;
}

#[tokio::test]
async fn services_are_refused_in_upstreams_words() {
    run("validation.yaml", 120).await;
}

#[tokio::test]
async fn services_are_warned_of_in_upstreams_words() {
    run("warnings.yaml", 14).await;
}

#[tokio::test]
async fn updates_keep_what_was_given_and_refuse_what_stays() {
    run("updates.yaml", 43).await;
}

#[tokio::test]
async fn changes_of_type_take_and_give_back() {
    run("types.yaml", 38).await;
}

#[tokio::test]
async fn families_follow_policy_addresses_and_cluster() {
    run("families.yaml", 54).await;
}

#[tokio::test]
async fn addresses_and_ports_are_given_once() {
    run("allocation.yaml", 33).await;
}

#[tokio::test]
async fn service_cidrs_and_ip_addresses_are_checked() {
    run("networking.yaml", 31).await;
}
