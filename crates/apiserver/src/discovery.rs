//! Discovery: which groups, versions and resources are served.
//!
//! Aggregated discovery (`apidiscovery.k8s.io` v2, and v2beta1 for kubectl before 1.30; KEP-3352) when `Accept` asks for it
//! on `/api` and `/apis`, the older documents else. All of it is derived from the table of kinds, so it is rendered once.

use std::sync::LazyLock;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, ETAG, HeaderMap, HeaderValue, IF_NONE_MATCH, VARY};
use http::{Response, StatusCode};
use portolan_api::Kind;
use portolan_api::kinds::{self, Scope, Subresource};
use serde_json::{Value, json};

use crate::encode::to_json;
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
        Subresource::Status | Subresource::EphemeralContainers | Subresource::Approval => {
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

/// Groups with their versions, the preferred one first.
fn groups() -> Vec<(&'static str, Vec<&'static str>)> {
    let mut found: Vec<(&str, Vec<&str>)> = Vec::new();
    for (group, version) in group_versions() {
        match found.iter_mut().find(|(name, _)| *name == group) {
            Some((_, versions)) => versions.push(version),
            None => found.push((group, vec![version])),
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
    if let ["api" | "apis"] = segments
        && let Some(version) = wants_aggregated(headers)
    {
        return Ok(aggregated(segments == ["api"], version, headers));
    }
    let encoding = negotiate::plain(headers);
    let ok = |value: Value| Ok(respond::value(encoding, StatusCode::OK, &value));
    match segments {
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
            "groups": groups().iter().filter(|(g, _)| !g.is_empty())
                .map(|(g, v)| api_group(g, v)).collect::<Vec<_>>(),
        })),
        ["api", version] => resource_list("", version).map(ok).unwrap_or_else(unknown),
        ["apis", group] => match groups().iter().find(|(g, _)| g == group) {
            Some((group, versions)) if !group.is_empty() => {
                let mut value = api_group(group, versions);
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

/// The versions of aggregated discovery. They differ in their name only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Aggregation {
    V2,
    V2Beta1,
}

/// Which aggregated form the client likes best, when it likes one better than the plain documents.
fn wants_aggregated(headers: &HeaderMap) -> Option<Aggregation> {
    for range in negotiate::ranges(headers) {
        match (range.essence, range.param("as"), range.param("g"), range.param("v")) {
            (
                "application/json",
                Some("APIGroupDiscoveryList"),
                Some("apidiscovery.k8s.io"),
                Some(version),
            ) => match version {
                "v2" => return Some(Aggregation::V2),
                "v2beta1" => return Some(Aggregation::V2Beta1),
                _ => {}
            },
            ("application/json" | "application/yaml" | "*/*", None, ..) => return None,
            _ => {}
        }
    }
    None
}

/// A rendered document of aggregated discovery.
struct Aggregated {
    bytes: Bytes,
    etag: HeaderValue,
    content_type: &'static str,
}

impl Aggregated {
    fn render(core: bool, version: Aggregation) -> Aggregated {
        let (version, content_type) = match version {
            Aggregation::V2 => {
                ("v2", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")
            }
            Aggregation::V2Beta1 => (
                "v2beta1",
                "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
            ),
        };
        let groups = groups().into_iter().filter(|(group, _)| group.is_empty() == core);
        let bytes = to_json(&json!({
            "kind": "APIGroupDiscoveryList",
            "apiVersion": format!("apidiscovery.k8s.io/{version}"),
            "metadata": {},
            "items": groups.map(|(g, v)| aggregated_group(g, &v)).collect::<Vec<_>>(),
        }));
        Aggregated { etag: etag(&bytes), bytes: bytes.into(), content_type }
    }
}

/// Answers aggregated discovery, or that what the client has is still right.
fn aggregated(core: bool, version: Aggregation, headers: &HeaderMap) -> Response<Body> {
    static RENDERED: [LazyLock<Aggregated>; 4] = [
        LazyLock::new(|| Aggregated::render(false, Aggregation::V2)),
        LazyLock::new(|| Aggregated::render(true, Aggregation::V2)),
        LazyLock::new(|| Aggregated::render(false, Aggregation::V2Beta1)),
        LazyLock::new(|| Aggregated::render(true, Aggregation::V2Beta1)),
    ];
    let index = usize::from(core) + if version == Aggregation::V2 { 0 } else { 2 };
    let document = &*RENDERED[index];
    let mut response = if is_current(headers, &document.etag) {
        not_modified()
    } else {
        respond::document(document.content_type, document.bytes.clone())
    };
    let answered = response.headers_mut();
    answered.insert(ETAG, document.etag.clone());
    answered.insert(VARY, HeaderValue::from_static("Accept"));
    answered.insert(CACHE_CONTROL, HeaderValue::from_static("public"));
    response
}

/// The strong validator of a document: its hash in quotes.
pub(crate) fn etag(document: &[u8]) -> HeaderValue {
    use sha2::Digest as _;
    let hash: String = sha2::Sha512::digest(document).iter().map(|b| format!("{b:02X}")).collect();
    HeaderValue::from_str(&format!("\"{hash}\"")).expect("hexadecimal is a fine header value")
}

/// Whether `If-None-Match` names the document that there is (RFC 9110 section 13.1.2).
pub(crate) fn is_current(headers: &HeaderMap, etag: &HeaderValue) -> bool {
    let sent = headers.get_all(IF_NONE_MATCH).iter().filter_map(|v| v.to_str().ok());
    let mut sent = sent.flat_map(|v| v.split(',')).map(str::trim);
    sent.any(|tag| tag == "*" || tag.trim_start_matches("W/").as_bytes() == etag.as_bytes())
}

pub(crate) fn not_modified() -> Response<Body> {
    let mut response = Response::new(respond::full(Bytes::new()));
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    response
}

/// A review by its name, as constants.
pub(crate) fn review_resource(group: &str, resource: &str) -> Option<(&'static str, &'static str)> {
    let review = REVIEWS.iter().find(|r| r.group == group && r.plural == resource)?;
    Some((review.group, review.plural))
}

fn api_group(group: &str, versions: &[&str]) -> Value {
    let versions: Vec<Value> = versions
        .iter()
        .map(|version| json!({"groupVersion": join(group, version), "version": version}))
        .collect();
    json!({"name": group, "versions": versions, "preferredVersion": versions.first()})
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
                "name": format!("{}/{}", kind.plural, subresource.as_str()),
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

fn aggregated_group(group: &str, versions: &[&str]) -> Value {
    let versions: Vec<Value> =
        versions.iter().map(|version| aggregated_version(group, version)).collect();
    json!({"metadata": {"name": group, "creationTimestamp": null}, "versions": versions})
}

fn aggregated_version(group: &str, version: &str) -> Value {
    let mut resources = Vec::new();
    for kind in in_version(group, version) {
        let subresources: Vec<Value> = kind
            .subresources
            .iter()
            .map(|s| {
                let (g, v, k, verbs) = subresource_type(kind, *s);
                json!({
                    "subresource": s.as_str(),
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
    json!({"version": version, "resources": resources, "freshness": "Current"})
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
    for (group, versions) in groups().iter().filter(|(g, _)| !g.is_empty()) {
        paths.push(format!("/apis/{group}"));
        paths.extend(versions.iter().map(|version| format!("/apis/{group}/{version}")));
    }
    paths.extend(
        ["/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/readyz", "/version"]
            .map(str::to_owned),
    );
    json!({"paths": paths})
}
