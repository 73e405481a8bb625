//! Questions about oneself: `kubectl auth can-i` and `kubectl auth whoami`.
//!
//! SelfSubjectAccessReview, SelfSubjectRulesReview and SelfSubjectReview are created, answered and never stored
//! (upstream `pkg/registry/authorization`, `pkg/registry/authentication`).

use http::{Request, Response, StatusCode};
use portolan_api::schema::{self, Strictness};
use serde_json::{Value, json};

use crate::authz::{self, Action};
use crate::negotiate;
use crate::request::{RequestInfo, Verb};
use crate::server::Body;
use crate::status::{Result, Status};
use crate::{UserInfo, body, respond};

pub(super) async fn respond(
    user: &UserInfo,
    info: &RequestInfo,
    request: Request<Body>,
) -> Result<Response<Body>> {
    let answer: fn(&UserInfo, &Value) -> Value =
        match (info.group.as_str(), info.version.as_str(), info.resource.as_str()) {
            ("authorization.k8s.io", "v1", "selfsubjectaccessreviews") => access,
            ("authorization.k8s.io", "v1", "selfsubjectrulesreviews") => rules,
            ("authentication.k8s.io", "v1", "selfsubjectreviews") => identity,
            _ => return Err(Status::unknown_path()),
        };
    if info.verb != Verb::Create || info.name.is_some() {
        return Err(Status::wrong_method());
    }
    let accepted = negotiate::object(request.headers())?;
    let (head, body) = request.into_parts();
    let bytes = body::read(body).await?;
    let component = match info.resource.as_str() {
        "selfsubjectaccessreviews" => "io.k8s.api.authorization.v1.SelfSubjectAccessReview",
        "selfsubjectrulesreviews" => "io.k8s.api.authorization.v1.SelfSubjectRulesReview",
        _ => "io.k8s.api.authentication.v1.SelfSubjectReview",
    };
    let mut review = body::decode(component, &head.headers, &bytes)?.value;
    schema::check_component(component, &mut review, &[], Strictness::Ignore)
        .map_err(|e| Status::bad_request(e.0))?;
    review["status"] = answer(user, &review["spec"]);
    review["apiVersion"] = format!("{}/{}", info.group, info.version).into();
    Ok(respond::value(accepted.encoding, StatusCode::CREATED, &review))
}

fn access(user: &UserInfo, spec: &Value) -> Value {
    let resource = &spec["resourceAttributes"];
    let path = &spec["nonResourceAttributes"];
    let text = |attributes: &Value, field: &str| -> String {
        attributes[field].as_str().unwrap_or("").to_owned()
    };
    let allowed = if resource.is_object() {
        authz::allows(
            user,
            Action::Resource {
                verb: &text(resource, "verb"),
                group: &text(resource, "group"),
                resource: &text(resource, "resource"),
                subresource: &text(resource, "subresource"),
                namespace: &text(resource, "namespace"),
                name: &text(resource, "name"),
            },
        )
    } else {
        authz::allows(user, Action::Path { verb: &text(path, "verb"), path: &text(path, "path") })
    };
    json!({"allowed": allowed})
}

fn rules(user: &UserInfo, _: &Value) -> Value {
    json!({
        "resourceRules": authz::resource_rules(user),
        "nonResourceRules": authz::path_rules(user),
        "incomplete": false,
    })
}

fn identity(user: &UserInfo, _: &Value) -> Value {
    json!({"userInfo": {"username": user.name, "groups": user.groups}})
}
