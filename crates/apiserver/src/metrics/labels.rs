//! What requests are counted by. All values come from the table of kinds and other constants, so that nothing that a
//! client sends makes a new series.

use http::header::CONTENT_TYPE;
use http::{HeaderMap, Method};
use portolan_api::kinds;
use prometheus_client::encoding::EncodeLabelSet;

use crate::discovery::review_resource;
use crate::query::Query;
use crate::request::{RequestInfo, Route, Verb};

/// The labels that all metrics of requests share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RequestLabels {
    pub(super) verb: &'static str,
    pub(super) dry_run: &'static str,
    pub(super) group: &'static str,
    pub(super) version: &'static str,
    pub(super) resource: &'static str,
    pub(super) subresource: &'static str,
    pub(super) scope: &'static str,
    pub(super) component: &'static str,
}

/// The same with the outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct CodeLabels {
    pub(super) verb: &'static str,
    pub(super) dry_run: &'static str,
    pub(super) group: &'static str,
    pub(super) version: &'static str,
    pub(super) resource: &'static str,
    pub(super) subresource: &'static str,
    pub(super) scope: &'static str,
    pub(super) component: &'static str,
    pub(super) code: u16,
}

/// Those of requests that last, which upstream counts without `dry_run`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct LongLabels {
    pub(super) verb: &'static str,
    pub(super) group: &'static str,
    pub(super) version: &'static str,
    pub(super) resource: &'static str,
    pub(super) subresource: &'static str,
    pub(super) scope: &'static str,
    pub(super) component: &'static str,
}

/// What a watch's events are counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct WatchLabels {
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    pub(crate) resource: &'static str,
}

/// Paths that are no resources and are counted by name.
const DOCUMENTS: &[&str] =
    &["/healthz", "/livez", "/readyz", "/version", "/metrics", "/openapi/v2", "/openapi/v3"];

const COMPONENT: &str = "apiserver";

impl RequestLabels {
    pub(crate) fn new(
        method: &Method,
        headers: &HeaderMap,
        query: &Query,
        route: Option<&Route>,
    ) -> RequestLabels {
        let none = RequestLabels {
            verb: match *method {
                Method::GET | Method::HEAD => "GET",
                _ => "other",
            },
            dry_run: "",
            group: "",
            version: "",
            resource: "",
            subresource: "",
            scope: "",
            component: COMPONENT,
        };
        match route {
            Some(Route::Resource(info)) => RequestLabels {
                verb: verb(info, headers),
                dry_run: if query.first("dryRun") == Some("All") { "All" } else { "" },
                scope: scope(info),
                ..named(info, none)
            },
            Some(Route::Path(path)) => {
                let path = path.trim_end_matches('/');
                let known = DOCUMENTS.iter().find(|d| {
                    path.strip_prefix(**d).is_some_and(|r| r.is_empty() || r.starts_with('/'))
                });
                RequestLabels { subresource: known.copied().unwrap_or(""), ..none }
            }
            None => none,
        }
    }

    pub(super) fn with_code(self, code: u16) -> CodeLabels {
        let RequestLabels {
            verb,
            dry_run,
            group,
            version,
            resource,
            subresource,
            scope,
            component,
        } = self;
        CodeLabels { verb, dry_run, group, version, resource, subresource, scope, component, code }
    }

    pub(super) fn long(self) -> LongLabels {
        let RequestLabels { verb, group, version, resource, subresource, scope, component, .. } =
            self;
        LongLabels { verb, group, version, resource, subresource, scope, component }
    }
}

fn verb(info: &RequestInfo, headers: &HeaderMap) -> &'static str {
    if matches!(info.subresource.as_deref(), Some("exec" | "attach" | "portforward" | "proxy")) {
        return "CONNECT";
    }
    let content_type = headers.get(CONTENT_TYPE).map_or(&b""[..], |v| v.as_bytes());
    match info.verb {
        Verb::Get => "GET",
        Verb::List => "LIST",
        Verb::Watch => "WATCH",
        Verb::Create => "POST",
        Verb::Update => "PUT",
        Verb::Patch if content_type.starts_with(b"application/apply-patch") => "APPLY",
        Verb::Patch => "PATCH",
        Verb::Delete => "DELETE",
        Verb::DeleteCollection => "DELETECOLLECTION",
    }
}

/// `CleanScope`.
fn scope(info: &RequestInfo) -> &'static str {
    match (&info.name, &info.namespace) {
        (Some(_), _) => "resource",
        _ if info.verb == Verb::Create => "resource",
        (None, Some(_)) => "namespace",
        (None, None) => "cluster",
    }
}

/// Group, version, resource and subresource, where they are served.
fn named(info: &RequestInfo, none: RequestLabels) -> RequestLabels {
    let Some(kind) = kinds::by_resource(&info.group, &info.version, &info.resource) else {
        return match review_resource(&info.group, &info.resource) {
            Some((group, resource)) => RequestLabels { group, version: "v1", resource, ..none },
            None => none,
        };
    };
    let asked = info.subresource.as_deref();
    let served = kind.subresources.iter().map(|s| s.as_str());
    RequestLabels {
        group: kind.group,
        version: kind.version,
        resource: kind.plural,
        subresource: served.into_iter().find(|s| Some(*s) == asked).unwrap_or(""),
        ..none
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request;

    fn labels(method: Method, uri: &str) -> RequestLabels {
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        let query = Query::parse(query);
        let route = request::parse(&method, path, &query);
        RequestLabels::new(&method, &HeaderMap::new(), &query, route.as_ref().ok())
    }

    #[test]
    fn requests_are_named_as_upstream_names_them() {
        for (method, uri, verb, resource, subresource, scope) in [
            (Method::GET, "/api/v1/pods", "LIST", "pods", "", "cluster"),
            (Method::GET, "/api/v1/namespaces/a/pods?watch=1", "WATCH", "pods", "", "namespace"),
            (Method::GET, "/api/v1/namespaces/a/pods/p/log", "GET", "pods", "log", "resource"),
            (Method::POST, "/api/v1/namespaces/a/pods", "POST", "pods", "", "resource"),
            (
                Method::POST,
                "/api/v1/namespaces/a/pods/p/exec",
                "CONNECT",
                "pods",
                "exec",
                "resource",
            ),
            (
                Method::DELETE,
                "/api/v1/namespaces/a/pods",
                "DELETECOLLECTION",
                "pods",
                "",
                "namespace",
            ),
            (Method::GET, "/api/v1/invented", "LIST", "", "", "cluster"),
            (Method::GET, "/livez/ping", "GET", "", "/livez", ""),
            (Method::GET, "/livezzz", "GET", "", "", ""),
            (Method::PUT, "/version", "other", "", "/version", ""),
        ] {
            let labels = labels(method, uri);
            assert_eq!(
                (labels.verb, labels.resource, labels.subresource, labels.scope),
                (verb, resource, subresource, scope),
                "{uri}"
            );
        }
        let dry = labels(Method::POST, "/apis/apps/v1/namespaces/a/deployments?dryRun=All");
        assert_eq!((dry.dry_run, dry.group, dry.version), ("All", "apps", "v1"));
    }
}
