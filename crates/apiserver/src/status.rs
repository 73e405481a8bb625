//! The one error type of requests: a Kubernetes `Status`, with upstream's codes, reasons and messages.
//!
//! The constructors follow `k8s.io/apimachinery/pkg/api/errors`; clients compare reasons and show messages, so both are
//! kept literally. Failures of lower layers become Statuses by the `From` table at the end, and nowhere else.

use http::StatusCode;
use portolan_api::Cause;
use serde_json::{Value, json};

/// A failed request.
#[derive(Clone, Debug)]
pub(crate) struct Status {
    pub(crate) code: StatusCode,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    pub(crate) details: Option<Value>,
    /// `metadata.continue`: how to go on after a list that expired between two pages.
    continue_token: Option<String>,
}

pub(crate) type Result<T, E = Status> = std::result::Result<T, E>;

/// What a Status is about: `services` or `deployments.apps`, and the kind's name for validation errors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject<'a> {
    pub(crate) group: &'a str,
    pub(crate) resource: &'a str,
    pub(crate) kind: &'a str,
}

impl Subject<'_> {
    fn qualified(&self, word: &str) -> String {
        if self.group.is_empty() { word.to_owned() } else { format!("{word}.{}", self.group) }
    }

    fn details(&self, name: &str) -> Value {
        let mut details = json!({});
        if !self.resource.is_empty() {
            details["kind"] = self.resource.into();
        }
        if !name.is_empty() {
            details["name"] = name.into();
        }
        if !self.group.is_empty() {
            details["group"] = self.group.into();
        }
        details
    }
}

impl Status {
    fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Status {
        Status { code, reason, message: message.into(), details: None, continue_token: None }
    }

    pub(crate) fn with_continue(mut self, token: String) -> Status {
        self.continue_token = Some(token);
        self
    }

    fn with(mut self, details: Value) -> Status {
        self.details = Some(details);
        self
    }

    pub(crate) fn not_found(subject: Subject<'_>, name: &str) -> Status {
        let resource = subject.qualified(subject.resource);
        Status::new(StatusCode::NOT_FOUND, "NotFound", format!("{resource} {name:?} not found"))
            .with(subject.details(name))
    }

    /// Something that is no object (a container, a log) is not there.
    pub(crate) fn not_found_text(message: impl Into<String>) -> Status {
        Status::new(StatusCode::NOT_FOUND, "NotFound", message)
    }

    pub(crate) fn already_exists(subject: Subject<'_>, name: &str) -> Status {
        let resource = subject.qualified(subject.resource);
        Status::new(
            StatusCode::CONFLICT,
            "AlreadyExists",
            format!("{resource} {name:?} already exists"),
        )
        .with(subject.details(name))
    }

    pub(crate) fn conflict(subject: Subject<'_>, name: &str, why: &str) -> Status {
        let resource = subject.qualified(subject.resource);
        Status::new(
            StatusCode::CONFLICT,
            "Conflict",
            format!("Operation cannot be fulfilled on {resource} {name:?}: {why}"),
        )
        .with(subject.details(name))
    }

    /// Somebody else wrote first.
    pub(crate) fn modified(subject: Subject<'_>, name: &str) -> Status {
        Status::conflict(
            subject,
            name,
            "the object has been modified; please apply your changes to the latest version and \
             try again",
        )
    }

    /// Fields that an apply wants and other managers own: their descriptions, each with its paths.
    pub(crate) fn apply_conflict(conflicts: Vec<(String, Vec<String>)>) -> Status {
        let causes: Vec<Value> = conflicts
            .iter()
            .flat_map(|(manager, paths)| paths.iter().map(move |path| (manager, path)))
            .map(|(manager, path)| {
                json!({
                    "reason": "FieldManagerConflict",
                    "message": format!("conflict with {manager}"),
                    "field": path,
                })
            })
            .collect();
        let message = match conflicts.as_slice() {
            [(manager, paths)] if paths.len() == 1 => {
                format!("Apply failed with 1 conflict: conflict with {manager}: {}", paths[0])
            }
            _ => {
                let mut parts: Vec<String> = conflicts
                    .iter()
                    .map(|(manager, paths)| {
                        format!("conflicts with {manager}:\n- {}", paths.join("\n- "))
                    })
                    .collect();
                parts.sort();
                format!("Apply failed with {} conflicts: {}", causes.len(), parts.join("\n"))
            }
        };
        Status::new(StatusCode::CONFLICT, "Conflict", message).with(json!({"causes": causes}))
    }

    /// A configuration that does not fit its type: upstream gives no reason and the code of its own faults.
    pub(crate) fn untyped(message: String) -> Status {
        Status::new(StatusCode::INTERNAL_SERVER_ERROR, "", message)
    }

    pub(crate) fn forbidden(subject: Subject<'_>, name: &str, why: &str) -> Status {
        let resource = subject.qualified(subject.resource);
        let message = if name.is_empty() {
            format!("{resource} is forbidden: {why}")
        } else {
            format!("{resource} {name:?} is forbidden: {why}")
        };
        Status::new(StatusCode::FORBIDDEN, "Forbidden", message).with(subject.details(name))
    }

    pub(crate) fn forbidden_path(why: &str) -> Status {
        Status::new(StatusCode::FORBIDDEN, "Forbidden", format!("forbidden: {why}")).with(json!({}))
    }

    pub(crate) fn unauthorized() -> Status {
        Status::new(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized")
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Status {
        Status::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    pub(crate) fn invalid(subject: Subject<'_>, name: &str, causes: &[Cause]) -> Status {
        let one = |c: &Cause| {
            if c.field.is_empty() {
                c.message.clone()
            } else {
                format!("{}: {}", c.field, c.message)
            }
        };
        let why = match causes {
            [only] => one(only),
            many => format!("[{}]", many.iter().map(one).collect::<Vec<_>>().join(", ")),
        };
        let kind = subject.qualified(subject.kind);
        let mut details = subject.details(name);
        if !subject.kind.is_empty() {
            details["kind"] = subject.kind.into();
        }
        details["causes"] = causes
            .iter()
            .map(|c| json!({"reason": c.reason.as_str(), "message": c.message, "field": c.field}))
            .collect();
        Status::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "Invalid",
            format!("{kind} {name:?} is invalid: {why}"),
        )
        .with(details)
    }

    /// A JSON patch whose operations do not apply.
    pub(crate) fn unprocessable() -> Status {
        Status::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "Invalid",
            "the server rejected our request due to an error in our request",
        )
        .with(json!({}))
    }

    pub(crate) fn method_not_supported(subject: Subject<'_>, verb: &str) -> Status {
        let resource = subject.qualified(subject.resource);
        Status::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "MethodNotAllowed",
            format!("{verb} is not supported on resources of kind {resource:?}"),
        )
        .with(subject.details(""))
    }

    /// No such path.
    pub(crate) fn unknown_path() -> Status {
        Status::new(
            StatusCode::NOT_FOUND,
            "NotFound",
            "the server could not find the requested resource",
        )
        .with(json!({}))
    }

    /// The path exists, the method does not.
    pub(crate) fn wrong_method() -> Status {
        Status::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        )
        .with(json!({}))
    }

    pub(crate) fn too_large(why: impl std::fmt::Display) -> Status {
        Status::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "RequestEntityTooLarge",
            format!("Request entity too large: {why}"),
        )
    }

    pub(crate) fn unsupported_media_type(accepted: &str) -> Status {
        Status::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "UnsupportedMediaType",
            format!(
                "the body of the request was in an unknown format - accepted media types include: \
                 {accepted}"
            ),
        )
    }

    pub(crate) fn not_acceptable(accepted: &str) -> Status {
        Status::new(
            StatusCode::NOT_ACCEPTABLE,
            "NotAcceptable",
            format!("only the following media types are accepted: {accepted}"),
        )
    }

    /// Too many requests are under way.
    pub(crate) fn too_many_requests() -> Status {
        Status::new(
            StatusCode::TOO_MANY_REQUESTS,
            "TooManyRequests",
            "Too many requests, please try again later.",
        )
        .with(json!({"retryAfterSeconds": 1}))
    }

    /// The history that the client asked for is compacted away: it must list anew.
    pub(crate) fn expired(message: impl Into<String>) -> Status {
        Status::new(StatusCode::GONE, "Expired", message)
    }

    pub(crate) fn timeout(why: &str) -> Status {
        Status::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", format!("Timeout: {why}"))
            .with(json!({}))
    }

    pub(crate) fn future_version(asked: u64, current: u64) -> Status {
        Status::timeout(&format!("Too large resource version: {asked}, current: {current}")).with(
            json!({
                "causes": [{
                    "reason": "ResourceVersionTooLarge",
                    "message": "Too large resource version",
                }],
                "retryAfterSeconds": 1,
            }),
        )
    }

    pub(crate) fn unavailable(why: impl Into<String>) -> Status {
        Status::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", why)
    }

    pub(crate) fn internal(why: impl std::fmt::Display) -> Status {
        let why = why.to_string();
        let message = format!("Internal error occurred: {why}");
        Status::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", message)
            .with(json!({"causes": [{"message": why}]}))
    }

    /// The Status as an API object.
    pub(crate) fn to_value(&self) -> Value {
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code.as_u16(),
        });
        if self.reason.is_empty() {
            status.as_object_mut().map(|status| status.remove("reason"));
        }
        if let Some(details) = &self.details {
            status["details"] = details.clone();
        }
        if let Some(token) = &self.continue_token {
            status["metadata"]["continue"] = token.as_str().into();
        }
        status
    }

    /// What a delete that removed the object answers.
    pub(crate) fn deleted(subject: Subject<'_>, name: &str, uid: &Value) -> Value {
        let mut details = subject.details(name);
        details["uid"] = uid.clone();
        json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Success",
            "details": details,
        })
    }
}
