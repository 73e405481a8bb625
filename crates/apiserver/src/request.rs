//! The one parser of request paths: from method and path to a [`RequestInfo`].
//!
//! Follows upstream's `apiserver/pkg/endpoints/request.RequestInfoFactory`: `/api/v1/...` and `/apis/{group}/{version}/...`
//! are resource requests, everything else is not. `namespaces/{name}` itself is a request on the Namespace.

use http::Method;
use percent_encoding::percent_decode_str;

use crate::query::Query;
use crate::status::{Result, Status};

/// What a request wants to do, in the authorizer's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
    DeleteCollection,
}

impl Verb {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Watch => "watch",
            Verb::Create => "create",
            Verb::Update => "update",
            Verb::Patch => "patch",
            Verb::Delete => "delete",
            Verb::DeleteCollection => "deletecollection",
        }
    }

    pub(crate) fn changes_something(self) -> bool {
        !matches!(self, Verb::Get | Verb::List | Verb::Watch)
    }
}

/// A request on a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RequestInfo {
    pub(crate) verb: Verb,
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) resource: String,
    pub(crate) subresource: Option<String>,
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
    /// What follows the subresource: the path of `proxy` requests, with its leading slash.
    pub(crate) rest: Option<String>,
}

impl RequestInfo {
    /// Whether the request may take as long as it likes (upstream `BasicLongRunningRequestCheck`).
    pub(crate) fn is_long_running(&self) -> bool {
        let subresource = self.subresource.as_deref();
        self.verb == Verb::Watch
            || matches!(subresource, Some("log" | "exec" | "attach" | "portforward" | "proxy"))
    }
}

/// Where a path leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    Resource(RequestInfo),
    /// Everything else: health, version, discovery, OpenAPI, metrics, or nothing.
    Path(String),
}

/// Parses a request line.
///
/// # Errors
/// A path that is not percent-encoded UTF-8, or a method that no resource has.
pub(crate) fn parse(method: &Method, path: &str, query: &Query) -> Result<Route> {
    let segments: Vec<String> = path
        .split('/')
        .filter(|s| !s.is_empty())
        .map(|s| percent_decode_str(s).decode_utf8().map(|s| s.into_owned()))
        .collect::<Result<_, _>>()
        .map_err(|e| Status::bad_request(format!("the path is not UTF-8: {e}")))?;
    let parts: Vec<&str> = segments.iter().map(String::as_str).collect();
    let (group, version, mut parts) = match parts.as_slice() {
        ["api", version, rest @ ..] if !rest.is_empty() => ("", *version, rest),
        ["apis", group, version, rest @ ..] if !rest.is_empty() => (*group, *version, rest),
        _ => return Ok(Route::Path(path.to_owned())),
    };
    // The deprecated prefix form of watches.
    let mut watch = query.flag("watch");
    if let ["watch", rest @ ..] = parts {
        watch = true;
        parts = rest;
    }
    let (namespace, parts) = match parts {
        ["namespaces", namespace, resource, rest @ ..]
            if !matches!(*resource, "status" | "finalize") =>
        {
            (Some(*namespace), [&[*resource], rest].concat())
        }
        rest => (None, rest.to_vec()),
    };
    let [resource, rest @ ..] = parts.as_slice() else {
        return Ok(Route::Path(path.to_owned()));
    };
    let name = rest.first().copied();
    let subresource = rest.get(1).copied();
    let tail = (subresource == Some("proxy")).then(|| tail_of(path, rest.len().saturating_sub(2)));
    if tail.is_none() && rest.len() > 2 {
        return Ok(Route::Path(path.to_owned()));
    }
    let verb = match (method, name) {
        (&Method::GET | &Method::HEAD, None) if watch => Verb::Watch,
        (&Method::GET | &Method::HEAD, None) => Verb::List,
        (&Method::GET | &Method::HEAD, Some(_)) if watch && subresource.is_none() => Verb::Watch,
        (&Method::GET | &Method::HEAD, Some(_)) => Verb::Get,
        (&Method::POST, _) => Verb::Create,
        (&Method::PUT, _) => Verb::Update,
        (&Method::PATCH, _) => Verb::Patch,
        (&Method::DELETE, None) => Verb::DeleteCollection,
        (&Method::DELETE, Some(_)) => Verb::Delete,
        _ => return Err(Status::wrong_method()),
    };
    let owned = |s: &str| s.to_owned();
    Ok(Route::Resource(RequestInfo {
        verb,
        group: group.to_owned(),
        version: version.to_owned(),
        resource: (*resource).to_owned(),
        subresource: subresource.map(owned),
        namespace: namespace.map(owned),
        name: name.map(owned),
        rest: tail,
    }))
}

/// The last `count` segments of a path as they were sent (still encoded, trailing slash kept).
fn tail_of(path: &str, count: usize) -> String {
    let trimmed = path.strip_suffix('/').unwrap_or(path);
    let slash = if path.len() > trimmed.len() { "/" } else { "" };
    let mut tail: Vec<&str> = trimmed.rsplit('/').take(count).collect();
    tail.reverse();
    if tail.is_empty() { "/".to_owned() } else { format!("/{}{slash}", tail.join("/")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(method: Method, uri: &str) -> RequestInfo {
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        match parse(&method, path, &Query::parse(query)).unwrap() {
            Route::Resource(info) => info,
            Route::Path(path) => panic!("{path} is no resource"),
        }
    }

    #[test]
    fn a_namespaced_object_is_found_with_its_subresource() {
        let info = resource(Method::PUT, "/api/v1/namespaces/ns/pods/a/status");
        assert_eq!((info.verb, info.resource.as_str()), (Verb::Update, "pods"));
        assert_eq!(info.namespace.as_deref(), Some("ns"));
        assert_eq!(info.name.as_deref(), Some("a"));
        assert_eq!(info.subresource.as_deref(), Some("status"));
    }

    #[test]
    fn a_namespace_itself_is_cluster_scoped() {
        let info = resource(Method::PUT, "/api/v1/namespaces/ns/finalize");
        assert_eq!((info.resource.as_str(), info.namespace), ("namespaces", None));
        assert_eq!(info.subresource.as_deref(), Some("finalize"));
    }

    #[test]
    fn watch_is_a_verb_by_parameter_and_by_prefix() {
        assert_eq!(resource(Method::GET, "/apis/apps/v1/deployments?watch=1").verb, Verb::Watch);
        assert_eq!(resource(Method::GET, "/api/v1/watch/pods").verb, Verb::Watch);
        assert_eq!(resource(Method::GET, "/api/v1/pods?watch=false").verb, Verb::List);
    }

    #[test]
    fn proxy_paths_keep_what_follows() {
        let info = resource(Method::GET, "/api/v1/namespaces/a/services/web:80/proxy/x%20y/z/");
        assert_eq!(info.name.as_deref(), Some("web:80"));
        assert_eq!(info.rest.as_deref(), Some("/x%20y/z/"));
        let info = resource(Method::GET, "/api/v1/namespaces/a/services/web/proxy");
        assert_eq!(info.rest.as_deref(), Some("/"));
    }

    #[test]
    fn other_paths_are_not_resources() {
        for path in ["/healthz", "/api", "/api/v1", "/apis/apps", "/apis/apps/v1", "/"] {
            let route = parse(&Method::GET, path, &Query::default()).unwrap();
            assert_eq!(route, Route::Path(path.to_owned()));
        }
    }

    proptest::proptest! {
        #[test]
        fn any_path_is_parsed_or_refused(
            path in proptest::prop_oneof!["(/[a-z0-9%.:]{0,8}){0,9}/?", ".{0,64}"],
            watch in proptest::prelude::any::<bool>(),
        ) {
            let query = Query::parse(if watch { "watch=1" } else { "" });
            for method in [Method::GET, Method::POST, Method::PATCH, Method::OPTIONS] {
                match parse(&method, &path, &query) {
                    Ok(Route::Resource(info)) => {
                        proptest::prop_assert!(!info.resource.is_empty());
                        proptest::prop_assert!(info.name.is_none_or(|n| !n.is_empty()));
                    }
                    Ok(Route::Path(same)) => proptest::prop_assert_eq!(same, path.clone()),
                    Err(status) => {
                        proptest::prop_assert!(matches!(status.code.as_u16(), 400 | 405));
                    }
                }
            }
        }
    }
}
