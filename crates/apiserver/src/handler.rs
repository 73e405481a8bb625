//! From a request to a response: route, wait for a turn, authorise, dispatch, count.

mod pods;
mod resource;
mod reviews;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use tokio::time::Instant;

use crate::authz::{self, Action};
use crate::limits::Turn;
use crate::metrics::{RequestKind, RequestLabels};
use crate::query::{self, Query};
use crate::request::{self, Route, Verb};
use crate::server::{Body, Inner};
use crate::status::{Result, Status};
use crate::{UserInfo, compress, discovery, health, negotiate, openapi, respond};

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
        let gzip = compress::accepts_gzip(request.headers());
        let answer = AssertUnwindSafe(self.answer(user, request)).catch_unwind();
        Box::pin(answer.map(move |answer| {
            // A bug in one request must not take the connection and its other streams along.
            let bug = Status::internal("the request handler failed, see the log");
            let response = answer.unwrap_or_else(|_| respond::status(encoding, &bug));
            if gzip { compress::gzip(response) } else { response }
        }))
    }

    async fn answer(
        self: Arc<Self>,
        user: Option<UserInfo>,
        mut request: Request<Body>,
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
        let labels =
            RequestLabels::new(request.method(), request.headers(), &query, route.as_ref().ok());
        let lasts = matches!(&route, Ok(Route::Resource(info)) if info.is_long_running());
        let watches = matches!(&route, Ok(Route::Resource(info)) if info.verb == Verb::Watch);
        let outcome = match route {
            Err(status) => Err(status),
            Ok(route) if lasts => {
                let counted = Arc::new(self.metrics.long_running(labels));
                // What outlives the response, as an upgraded connection does, takes it from there.
                request.extensions_mut().insert(counted.clone());
                let answer = self.routed(&user, route, query, request);
                // A watch may be over before its client lets go of the response.
                answer.await.map(|r| if watches { r } else { holding(r, counted) })
            }
            Ok(route) => self.limited(labels, &user, route, query, request).await,
        };
        let response = respond::finish(encoding, outcome);
        let took = (!lasts).then(|| started.elapsed());
        self.metrics.observe(labels, response.status().as_u16(), took);
        response
    }

    /// A request that is to be over soon: it waits for its turn and has a deadline.
    async fn limited(
        self: &Arc<Self>,
        labels: RequestLabels,
        user: &UserInfo,
        route: Route,
        query: Query,
        mut request: Request<Body>,
    ) -> Result<Response<Body>> {
        let limit = query::timeout(&query, REQUEST_TIMEOUT)?;
        let kind = match &route {
            Route::Resource(info) if info.verb.changes_something() => RequestKind::Mutating,
            _ => RequestKind::ReadOnly,
        };
        let exempt = user.is_in(UserInfo::MASTERS)
            || matches!(&route, Route::Path(p) if authz::is_public(p));
        let permit = if exempt {
            None
        } else {
            let permit = self.limits.enter(kind).await;
            Some(permit.inspect_err(|status| {
                self.metrics.terminated(labels, status.code.as_u16());
            })?)
        };
        request.extensions_mut().insert(Turn::new(permit, self.metrics.in_flight(kind)));
        let answer = self.routed(user, route, query, request);
        tokio::time::timeout(limit, answer).await.unwrap_or_else(|_| {
            let status = Status::timeout("request did not complete within the allotted timeout");
            self.metrics.terminated(labels, status.code.as_u16());
            Err(status)
        })
    }

    async fn routed(
        self: &Arc<Self>,
        user: &UserInfo,
        route: Route,
        query: Query,
        request: Request<Body>,
    ) -> Result<Response<Body>> {
        match route {
            Route::Path(path) => {
                let verb = request.method().as_str().to_ascii_lowercase();
                let action = Action::Path { verb: &verb, path: &path };
                if !authz::allows(user, action) {
                    return Err(action.refusal(user));
                }
                let (head, _) = request.into_parts();
                self.document(&path, &query, &head).await
            }
            Route::Resource(info) => {
                let action = Action::of(&info);
                if !authz::allows(user, action) {
                    return Err(action.refusal(user));
                }
                self.resource(user, info, query, request).await
            }
        }
    }

    /// Everything that is not a resource.
    async fn document(
        &self,
        path: &str,
        query: &Query,
        request: &http::request::Parts,
    ) -> Result<Response<Body>> {
        if !matches!(request.method, Method::GET | Method::HEAD) {
            return Err(Status::wrong_method());
        }
        let headers = &request.headers;
        let trimmed = path.trim_end_matches('/');
        let segments: Vec<&str> = trimmed.split('/').skip(1).collect();
        match segments.as_slice() {
            ["healthz" | "livez" | "readyz", ..] => health::respond(self, trimmed, query).await,
            ["version"] => {
                let encoding = negotiate::plain(headers);
                Ok(respond::value(encoding, StatusCode::OK, &health::version()))
            }
            ["metrics"] => self.metrics.respond(&self.registry.store),
            ["openapi", ..] => openapi::respond(self, trimmed, query, headers),
            [] => {
                let encoding = negotiate::plain(headers);
                Ok(respond::value(encoding, StatusCode::OK, &discovery::paths()))
            }
            ["api" | "apis", ..] => discovery::respond(self, &segments, headers),
            _ => Err(Status::unknown_path()),
        }
    }
}

/// Keeps `what` for as long as the response's body lives.
fn holding(response: Response<Body>, what: impl Send + 'static) -> Response<Body> {
    response.map(|body| {
        body.map_frame(move |frame| {
            let _held = &what;
            frame
        })
        .boxed_unsync()
    })
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
