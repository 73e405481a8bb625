//! From a request to a response: authorise, route, dispatch, count.

mod pods;
mod resource;
mod reviews;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use tokio::time::Instant;

use crate::authz::{self, Action};
use crate::metrics::RequestLabels;
use crate::negotiate;
use crate::query::Query;
use crate::request::{self, RequestInfo, Route, Verb};
use crate::server::{Body, Inner};
use crate::status::{Result, Status};
use crate::{UserInfo, discovery, health, openapi, respond};

/// What short requests may take (upstream `--request-timeout`).
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

impl Inner {
    /// Answers one request of an authenticated user, or of nobody.
    pub(crate) fn handle(
        self: Arc<Self>,
        user: Option<UserInfo>,
        request: Request<Body>,
    ) -> BoxFuture<'static, Response<Body>> {
        let encoding = negotiate::plain(request.headers());
        let answer = AssertUnwindSafe(self.answer(user, request)).catch_unwind();
        Box::pin(answer.map(move |answer| {
            // A bug in one request must not take the connection and its other streams along.
            let bug = Status::internal("the request handler failed, see the log");
            answer.unwrap_or_else(|_| respond::status(encoding, &bug))
        }))
    }

    async fn answer(
        self: Arc<Self>,
        user: Option<UserInfo>,
        request: Request<Body>,
    ) -> Response<Body> {
        let started = Instant::now();
        let encoding = negotiate::plain(request.headers());
        let query = Query::parse(request.uri().query().unwrap_or(""));
        let path = request.uri().path().to_owned();
        let route = match user {
            None if !authz::is_public(&path) => Err(Status::unauthorized()),
            _ => request::parse(request.method(), &path, &query),
        };
        let user = user.unwrap_or_else(UserInfo::anonymous);
        let (user, route) = match impersonated(user.clone(), request.headers()) {
            Ok(user) => (user, route),
            Err(status) => (user, Err(status)),
        };
        let mut labels = RequestLabels::new(request.method(), route.as_ref().ok());
        let outcome = match route {
            Err(status) => Err(status),
            Ok(Route::Path(path)) => {
                let verb = request.method().as_str().to_ascii_lowercase();
                let action = Action::Path { verb: &verb, path: &path };
                if authz::allows(&user, action) {
                    self.document(&path, &query, &request)
                } else {
                    Err(action.refusal(&user))
                }
            }
            Ok(Route::Resource(info)) => self.authorized(&user, info, query, request).await,
        };
        let response = respond::finish(encoding, outcome);
        labels.code = response.status().as_u16();
        self.metrics.observe(&labels, started.elapsed());
        response
    }

    async fn authorized(
        self: &Arc<Self>,
        user: &UserInfo,
        info: RequestInfo,
        query: Query,
        request: Request<Body>,
    ) -> Result<Response<Body>> {
        let action = Action::of(&info);
        if !authz::allows(user, action) {
            return Err(action.refusal(user));
        }
        let long = info.verb == Verb::Watch
            || matches!(
                info.subresource.as_deref(),
                Some("log" | "exec" | "attach" | "portforward" | "proxy")
            );
        let answer = self.resource(user, info, query, request);
        if long {
            return answer.await;
        }
        tokio::time::timeout(REQUEST_TIMEOUT, answer).await.unwrap_or_else(|_| {
            Err(Status::timeout("request did not complete within the allotted timeout"))
        })
    }

    /// Everything that is not a resource.
    fn document(
        &self,
        path: &str,
        query: &Query,
        request: &Request<Body>,
    ) -> Result<Response<Body>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return Err(Status::wrong_method());
        }
        let headers = request.headers();
        let trimmed = path.trim_end_matches('/');
        let segments: Vec<&str> = trimmed.split('/').skip(1).collect();
        match segments.as_slice() {
            ["healthz" | "livez" | "readyz", ..] => health::respond(self, trimmed, query),
            ["version"] => {
                let encoding = negotiate::plain(headers);
                Ok(respond::value(encoding, StatusCode::OK, &health::version()))
            }
            ["metrics"] => self.metrics.respond(),
            ["openapi", ..] => openapi::respond(self, trimmed, headers),
            [] => {
                let encoding = negotiate::plain(headers);
                Ok(respond::value(encoding, StatusCode::OK, &discovery::paths()))
            }
            ["api" | "apis", ..] => discovery::respond(self, &segments, headers),
            _ => Err(Status::unknown_path()),
        }
    }
}

/// `kubectl --as`: administrators may act as anybody (upstream `endpoints/filters/impersonation`).
fn impersonated(user: UserInfo, headers: &HeaderMap) -> Result<UserInfo> {
    let text = |value: &HeaderValue| value.to_str().map(str::to_owned).unwrap_or_default();
    let Some(name) = headers.get("impersonate-user").map(text) else {
        return match headers.contains_key("impersonate-group") {
            true => Err(Status::bad_request("requested groups without impersonating a user name")),
            false => Ok(user),
        };
    };
    let action = Action::Resource {
        verb: "impersonate",
        group: "",
        resource: "users",
        subresource: "",
        namespace: "",
        name: &name,
    };
    if !authz::allows(&user, action) {
        return Err(action.refusal(&user));
    }
    Ok(UserInfo::new(name, headers.get_all("impersonate-group").iter().map(text)))
}
