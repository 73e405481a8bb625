//! From a request to a response: route, wait for a turn, authorise, dispatch, count.

mod pods;
mod resource;
mod reviews;
mod tokens;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use http::header::{CACHE_CONTROL, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use tokio::time::Instant;

use crate::authz::{Action, Selected};
use crate::limits::Turn;
use crate::metrics::{RequestKind, RequestLabels};
use crate::query::{self, Query};
use crate::request::{self, Route, Verb};
use crate::server::{Body, Inner};
use crate::status::{Result, Status};
use crate::{UserInfo, authn, compress, discovery, health, negotiate, openapi, respond};

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
        let (user, route) = match self.requester(user, &request) {
            Ok(user) => (user, request::parse(request.method(), &path, &query)),
            Err(status) => (UserInfo::anonymous(), Err(status)),
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

    /// Whose request this is: of the certificate or token, or of whom they act as. Nobody may ask what everybody may.
    fn requester(&self, user: Option<UserInfo>, request: &Request<Body>) -> Result<UserInfo> {
        let access = &self.registry.access;
        let user = match user {
            Some(user) => Some(user),
            None => authn::bearer(self, request.headers())?,
        };
        let user = match user {
            Some(user) => user,
            None => {
                let (user, path) = (UserInfo::anonymous(), request.uri().path());
                let action = Action::Path { verb: path_verb(request.method()), path };
                if !access.allows(&user, action) {
                    return Err(Status::unauthorized());
                }
                user
            }
        };
        authn::impersonated(access, user, request.headers())
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
        let exempt = user.is_control_plane() || matches!(&route, Route::Path(p) if is_probe(p));
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
                let action = Action::Path { verb: path_verb(request.method()), path: &path };
                self.registry.access.check(user, action)?;
                let (head, _) = request.into_parts();
                self.document(&path, &query, &head).await
            }
            Route::Resource(info) => {
                let selected = Selected::of(&info, &query);
                self.registry.access.check(user, Action::of(&info, &selected))?;
                user.scope(self.resource(user, info, query, request)).await
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
            [".well-known", "openid-configuration"] => {
                Ok(published("application/json", &self.issuer.configuration()))
            }
            ["openid", "v1", "jwks"] => {
                Ok(published("application/jwk-set+json", &self.issuer.keys()))
            }
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

/// Probes and the version wait for nobody.
fn is_probe(path: &str) -> bool {
    let first = path.trim_start_matches('/').split('/').next();
    matches!(first, Some("healthz" | "livez" | "readyz" | "version"))
}

/// The verb of a request that is not on a resource. Whoever may read may also ask how long it would be.
fn path_verb(method: &Method) -> &'static str {
    match *method {
        Method::GET | Method::HEAD => "get",
        Method::POST => "post",
        Method::PUT => "put",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        Method::OPTIONS => "options",
        _ => "other",
    }
}

/// What the issuer of tokens publishes about itself; it changes only with its key.
fn published(content_type: &'static str, value: &serde_json::Value) -> Response<Body> {
    let mut response = respond::document(content_type, crate::encode::to_json(value));
    let age = HeaderValue::from_static("public, max-age=3600");
    response.headers_mut().insert(CACHE_CONTROL, age);
    response
}
