//! From a request's path to what answers it.

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;
use portolan_stream::upgrade::Refused;

use super::query::{BadQuery, Query};
use super::tls::Client;
use super::{Body, Context, exec, logs, portforward};
use crate::PodKey;
use crate::runtime::RuntimeError;

/// An answer other than success: a code, and why, in plain text.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) message: String,
}

impl From<BadQuery> for Refusal {
    fn from(BadQuery(message): BadQuery) -> Self {
        Refusal { status: StatusCode::BAD_REQUEST, message }
    }
}

impl From<RuntimeError> for Refusal {
    fn from(error: RuntimeError) -> Self {
        let status = match &error {
            RuntimeError::NoPod(_) | RuntimeError::NoContainer { .. } => StatusCode::NOT_FOUND,
            RuntimeError::NotRunning(_)
            | RuntimeError::NotStarted { .. }
            | RuntimeError::NoPrevious { .. } => StatusCode::BAD_REQUEST,
            RuntimeError::CannotStart { .. } | RuntimeError::Io { .. } => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        Refusal { status, message: error.to_string() }
    }
}

/// What a request is about; one path segment each, decoded.
struct Path(Vec<String>);

impl Path {
    fn parse(path: &str) -> Path {
        let segments = path.split('/').filter(|segment| !segment.is_empty());
        Path(segments.map(|s| percent_decode_str(s).decode_utf8_lossy().into_owned()).collect())
    }
}

fn key(namespace: &str, name: &str) -> PodKey {
    PodKey { namespace: namespace.to_owned(), name: name.to_owned() }
}

/// Answers a request. Sessions and logs go on after it has returned.
pub(super) fn answer(
    context: Context,
    client: Client,
    request: Request<Incoming>,
) -> Response<Body> {
    if let Client::Other(name) = client {
        let message =
            format!("Forbidden (user={name}, verb=get, resource=nodes, subresource=proxy)");
        return refuse(Refusal { status: StatusCode::FORBIDDEN, message });
    }
    let path = Path::parse(request.uri().path());
    let segments: Vec<&str> = path.0.iter().map(String::as_str).collect();
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let outcome = match segments[..] {
        ["healthz"] => Ok(text("ok")),
        ["pods"] => pods(&context),
        ["containerLogs", namespace, pod, container] => {
            logs::answer(&context, &key(namespace, pod), container, &query)
        }
        ["exec", namespace, pod, container] => {
            let command = query.all("command").map(str::to_owned).collect();
            let what = exec::What::Exec(command);
            exec::answer(context, key(namespace, pod), container, what, &query, request)
        }
        ["attach", namespace, pod, container] => exec::answer(
            context,
            key(namespace, pod),
            container,
            exec::What::Attach,
            &query,
            request,
        ),
        ["portForward", namespace, pod] => {
            portforward::answer(context, key(namespace, pod), &query, request)
        }
        _ => Err(Refusal { status: StatusCode::NOT_FOUND, message: "404 page not found".into() }),
    };
    outcome.unwrap_or_else(refuse)
}

fn pods(context: &Context) -> Result<Response<Body>, Refusal> {
    let list = serde_json::json!({
        "kind": "PodList",
        "apiVersion": "v1",
        "metadata": {},
        "items": (context.pods)(),
    });
    let mut response = text(list.to_string());
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    Ok(response)
}

pub(super) fn text(text: impl Into<Bytes>) -> Response<Body> {
    let body = Full::new(text.into()).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}

fn refuse(refusal: Refusal) -> Response<Body> {
    let mut response = text(refusal.message);
    *response.status_mut() = refusal.status;
    response
}

/// An upgrade that was not to be, worded by the stream crate.
pub(super) fn refuse_upgrade(refused: Refused) -> Response<Body> {
    refused.into_response::<String>().map(|message| {
        Full::new(Bytes::from(message)).map_err(|never| match never {}).boxed_unsync()
    })
}

/// The head of an upgrade's answer as a whole answer.
pub(super) fn switching(response: Response<()>) -> Response<Body> {
    response.map(|()| Full::default().map_err(|never| match never {}).boxed_unsync())
}
