//! Discovery: which groups, versions and resources are served.
//!
//! Aggregated discovery (`apidiscovery.k8s.io/v2`, KEP-3352) when `Accept` asks for it on `/api` and `/apis`, the
//! older documents else. All of it is derived from the table of kinds.

use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Response, StatusCode};
use portolan_api::Kind;
use portolan_api::kinds::{self, Scope, Subresource};
use serde_json::{Value, json};

use crate::negotiate;
use crate::respond;
use crate::server::{Body, Inner};
use crate::status::{Result, Status};

/// A resource that is created but never stored.
struct Review {
    group: &'static str,
    plural: &'static str,
    kind: &'static str,
    scope: Scope,
}

const REVIEWS: &[Review] = &[
    review("authentication.k8s.io", "selfsubjectreviews", "SelfSubjectReview"),
    review("authentication.k8s.io", "tokenreviews", "TokenReview"),
    Review {
        scope: Scope::Namespaced,
        ..review("authorization.k8s.io", "localsubjectaccessreviews", "LocalSubjectAccessReview")
    },
    review("authorization.k8s.io", "selfsubjectaccessreviews", "SelfSubjectAccessReview"),
    review("authorization.k8s.io", "selfsubjectrulesreviews", "SelfSubjectRulesReview"),
    review("authorization.k8s.io", "subjectaccessreviews", "SubjectAccessReview"),
];

const fn review(group: &'static str, plural: &'static str, kind: &'static str) -> Review {
    Review { group, plural, kind, scope: Scope::Cluster }
}

impl Review {
    fn singular(&self) -> String {
        self.kind.to_lowercase()
    }
}

/// The name of a subresource in paths.
pub(crate) fn subresource_name(subresource: Subresource) -> &'static str {
    match subresource {
        Subresource::Status => "status",
        Subresource::Scale => "scale",
        Subresource::Log => "log",
        Subresource::Exec => "exec",
        Subresource::Attach => "attach",
        Subresource::PortForward => "portforward",
        Subresource::Binding => "binding",
        Subresource::Eviction => "eviction",
        Subresource::EphemeralContainers => "ephemeralcontainers",
        Subresource::Finalize => "finalize",
        Subresource::Proxy => "proxy",
        Subresource::Token => "token",
    }
}

/// What a subresource takes and which verbs it has: (group, version, kind, verbs).
fn subresource_type(
    kind: &Kind,
    subresource: Subresource,
) -> (&'static str, &'static str, &'static str, &'static [&'static str]) {
    let connect: &[&str] = &["create", "get"];
    match subresource {
        Subresource::Scale => ("autoscaling", "v1", "Scale", &["get", "patch", "update"]),
        Subresource::Log => ("", "v1", kind.kind, &["get"]),
        Subresource::Exec => ("", "v1", "PodExecOptions", connect),
        Subresource::Attach => ("", "v1", "PodAttachOptions", connect),
        Subresource::PortForward => ("", "v1", "PodPortForwardOptions", connect),
        Subresource::Binding => ("", "v1", "Binding", &["create"]),
        Subresource::Eviction => ("policy", "v1", "Eviction", &["create"]),
        Subresource::Finalize => ("", "v1", "Namespace", &["update"]),
        Subresource::Token => ("authentication.k8s.io", "v1", "TokenRequest", &["create"]),
        Subresource::Proxy => (
            "",
            "v1",
            match kind.kind {
                "Service" => "ServiceProxyOptions",
                "Node" => "NodeProxyOptions",
                _ => "PodProxyOptions",
            },
            &["create", "delete", "get", "patch", "update"],
        ),
        Subresource::Status | Subresource::EphemeralContainers => {
            (kind.group, kind.version, kind.kind, &["get", "patch", "update"])
        }
    }
}

/// Group → its versions, core first, in the order of the table.
pub(crate) fn group_versions() -> Vec<(&'static str, &'static str)> {
    let mut found: Vec<(&str, &str)> = Vec::new();
    let kinds = kinds::all().iter().map(|k| (k.group, k.version));
    for pair in kinds.chain(REVIEWS.iter().map(|r| (r.group, "v1"))) {
        if !found.contains(&pair) {
            found.push(pair);
        }
    }
    found
}

fn join(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

pub(crate) fn respond(
    inner: &Inner,
    segments: &[&str],
    headers: &HeaderMap,
) -> Result<Response<Body>> {
    let encoding = negotiate::plain(headers);
    let ok = |value: Value| Ok(respond::value(encoding, StatusCode::OK, &value));
    match segments {
        ["api" | "apis"] if wants_aggregated(headers) => {
            let groups = group_versions()
                .into_iter()
                .filter(|(group, _)| group.is_empty() == (segments == ["api"]));
            let list = json!({
                "kind": "APIGroupDiscoveryList",
                "apiVersion": "apidiscovery.k8s.io/v2",
                "metadata": {},
                "items": groups.map(|(g, v)| aggregated_group(g, v)).collect::<Vec<_>>(),
            });
            let mut response = respond::value(negotiate::Encoding::Json, StatusCode::OK, &list);
            response.headers_mut().insert(
                CONTENT_TYPE,
                HeaderValue::from_static(
                    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
                ),
            );
            response.headers_mut().insert("Vary", HeaderValue::from_static("Accept"));
            Ok(response)
        }
        ["api"] => ok(json!({
            "kind": "APIVersions",
            "versions": ["v1"],
            "serverAddressByClientCIDRs": [{
                "clientCIDR": "0.0.0.0/0",
                "serverAddress": inner.advertise().to_string(),
            }],
        })),
        ["apis"] => ok(json!({
            "kind": "APIGroupList",
            "apiVersion": "v1",
            "groups": group_versions().iter().filter(|(g, _)| !g.is_empty())
                .map(|(g, v)| api_group(g, v)).collect::<Vec<_>>(),
        })),
        ["api", version] => resource_list("", version).map(ok).unwrap_or_else(unknown),
        ["apis", group] => match group_versions().iter().find(|(g, _)| g == group) {
            Some((group, version)) if !group.is_empty() => {
                let mut value = api_group(group, version);
                value["kind"] = "APIGroup".into();
                value["apiVersion"] = "v1".into();
                ok(value)
            }
            _ => unknown(),
        },
        ["apis", group, version] if !group.is_empty() => {
            resource_list(group, version).map(ok).unwrap_or_else(unknown)
        }
        _ => unknown(),
    }
}

fn unknown() -> Result<Response<Body>> {
    Err(Status::unknown_path())
}

fn wants_aggregated(headers: &HeaderMap) -> bool {
    for range in negotiate::ranges(headers) {
        match (range.essence, range.param("as"), range.param("g"), range.param("v")) {
            (
                "application/json",
                Some("APIGroupDiscoveryList"),
                Some("apidiscovery.k8s.io"),
                Some("v2"),
            ) => return true,
            ("application/json" | "application/yaml" | "*/*", None, ..) => return false,
            _ => {}
        }
    }
    false
}

fn api_group(group: &str, version: &str) -> Value {
    let version = json!({"groupVersion": join(group, version), "version": version});
    json!({"name": group, "versions": [version], "preferredVersion": version})
}

fn in_version<'a>(group: &'a str, version: &'a str) -> impl Iterator<Item = &'static Kind> + 'a {
    kinds::all().iter().filter(move |k| k.group == group && k.version == version)
}

fn resource_list(group: &str, version: &str) -> Option<Value> {
    let mut resources = Vec::new();
    for kind in in_version(group, version) {
        let namespaced = kind.scope == Scope::Namespaced;
        let mut resource = json!({
            "name": kind.plural,
            "singularName": kind.singular,
            "namespaced": namespaced,
            "kind": kind.kind,
            "verbs": kind.verbs,
            "storageVersionHash": storage_hash(kind),
        });
        if !kind.short_names.is_empty() {
            resource["shortNames"] = json!(kind.short_names);
        }
        if !kind.categories.is_empty() {
            resource["categories"] = json!(kind.categories);
        }
        resources.push(resource);
        for subresource in kind.subresources {
            let (g, v, k, verbs) = subresource_type(kind, *subresource);
            let mut resource = json!({
                "name": format!("{}/{}", kind.plural, subresource_name(*subresource)),
                "singularName": "",
                "namespaced": namespaced,
                "kind": k,
                "verbs": verbs,
            });
            if (g, v) != (group, version) {
                resource["group"] = g.into();
                resource["version"] = v.into();
            }
            resources.push(resource);
        }
    }
    for review in REVIEWS.iter().filter(|r| r.group == group && version == "v1") {
        resources.push(json!({
            "name": review.plural,
            "singularName": review.singular(),
            "namespaced": review.scope == Scope::Namespaced,
            "kind": review.kind,
            "verbs": ["create"],
        }));
    }
    (!resources.is_empty()).then(|| {
        json!({
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": join(group, version),
            "resources": resources,
        })
    })
}

fn aggregated_group(group: &str, version: &str) -> Value {
    let mut resources = Vec::new();
    for kind in in_version(group, version) {
        let subresources: Vec<Value> = kind
            .subresources
            .iter()
            .map(|s| {
                let (g, v, k, verbs) = subresource_type(kind, *s);
                json!({
                    "subresource": subresource_name(*s),
                    "responseKind": {"group": g, "version": v, "kind": k},
                    "verbs": verbs,
                })
            })
            .collect();
        let mut resource = json!({
            "resource": kind.plural,
            "responseKind": {"group": group, "version": version, "kind": kind.kind},
            "scope": match kind.scope {
                Scope::Namespaced => "Namespaced",
                Scope::Cluster => "Cluster",
            },
            "singularResource": kind.singular,
            "verbs": kind.verbs,
        });
        if !kind.short_names.is_empty() {
            resource["shortNames"] = json!(kind.short_names);
        }
        if !kind.categories.is_empty() {
            resource["categories"] = json!(kind.categories);
        }
        if !subresources.is_empty() {
            resource["subresources"] = subresources.into();
        }
        resources.push(resource);
    }
    for review in REVIEWS.iter().filter(|r| r.group == group) {
        resources.push(json!({
            "resource": review.plural,
            "responseKind": {"group": group, "version": version, "kind": review.kind},
            "scope": match review.scope {
                Scope::Namespaced => "Namespaced",
                Scope::Cluster => "Cluster",
            },
            "singularResource": review.singular(),
            "verbs": ["create"],
        }));
    }
    json!({
        "metadata": {"name": group, "creationTimestamp": null},
        "versions": [{"version": version, "resources": resources, "freshness": "Current"}],
    })
}

/// Changes when the form in which a kind is stored does, so that clients may drop what they cached.
fn storage_hash(kind: &Kind) -> String {
    use base64::Engine as _;
    use sha2::Digest as _;
    let digest = sha2::Sha256::digest(format!("{}/v1/{}", kind.storage.group, kind.kind));
    base64::engine::general_purpose::STANDARD.encode(&digest[..8])
}

/// What `/` lists.
pub(crate) fn paths() -> Value {
    let mut paths: Vec<String> = ["/api", "/api/v1", "/apis"].map(str::to_owned).to_vec();
    for (group, version) in group_versions().iter().filter(|(g, _)| !g.is_empty()) {
        paths.push(format!("/apis/{group}"));
        paths.push(format!("/apis/{group}/{version}"));
    }
    paths.extend(
        ["/healthz", "/livez", "/metrics", "/openapi/v3", "/readyz", "/version"].map(str::to_owned),
    );
    json!({"paths": paths})
}
