//! From a request to a response: authorise, route, dispatch, count.

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
use tokio::time::Instant;

use crate::authz::{Action, Selected};
use crate::metrics::RequestLabels;
use crate::negotiate;
use crate::query::Query;
use crate::request::{self, RequestInfo, Route, Verb};
use crate::server::{Body, Inner};
use crate::status::{Result, Status};
use crate::{UserInfo, authn, discovery, health, openapi, respond};

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
        let (user, route) = match self.requester(user, &request) {
            Ok(user) => (user, request::parse(request.method(), &path, &query)),
            Err(status) => (UserInfo::anonymous(), Err(status)),
        };
        let mut labels = RequestLabels::new(request.method(), route.as_ref().ok());
        let outcome = match route {
            Err(status) => Err(status),
            Ok(Route::Path(path)) => {
                let action = Action::Path { verb: path_verb(request.method()), path: &path };
                let allowed = self.registry.access.check(&user, action);
                allowed.and_then(|()| self.document(&path, &query, &request))
            }
            Ok(Route::Resource(info)) => {
                user.scope(self.authorized(&user, info, query, request)).await
            }
        };
        let response = respond::finish(encoding, outcome);
        labels.code = response.status().as_u16();
        self.metrics.observe(&labels, started.elapsed());
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

    async fn authorized(
        self: &Arc<Self>,
        user: &UserInfo,
        info: RequestInfo,
        query: Query,
        request: Request<Body>,
    ) -> Result<Response<Body>> {
        let selected = Selected::of(&info, &query);
        self.registry.access.check(user, Action::of(&info, &selected))?;
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
            [".well-known", "openid-configuration"] => {
                Ok(published("application/json", &self.issuer.configuration()))
            }
            ["openid", "v1", "jwks"] => {
                Ok(published("application/jwk-set+json", &self.issuer.keys()))
            }
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
