//! Questions about identities and what they may do: `kubectl auth can-i` and `whoami`, and what servers ask that leave
//! both to the cluster.
//!
//! Reviews are created, answered and never stored (upstream `pkg/registry/authorization`, `pkg/registry/authentication`).

use std::collections::BTreeMap;

use http::{Request, Response, StatusCode};
use jiff::Timestamp;
use portolan_api::schema::{self, Strictness};
use portolan_api::{Cause, Reason};
use serde_json::{Value, json};

use crate::authz::{Action, Attributes, Authorizer, Decision};
use crate::negotiate;
use crate::registry::meta;
use crate::request::{RequestInfo, Verb};
use crate::server::{Body, Inner};
use crate::status::{Result, Status, Subject};
use crate::token;
use crate::{UserInfo, body, respond};

/// The kinds of reviews, by resource.
const KINDS: [(&str, &str, &str); 6] = [
    ("authentication.k8s.io", "selfsubjectreviews", "SelfSubjectReview"),
    ("authentication.k8s.io", "tokenreviews", "TokenReview"),
    ("authorization.k8s.io", "localsubjectaccessreviews", "LocalSubjectAccessReview"),
    ("authorization.k8s.io", "selfsubjectaccessreviews", "SelfSubjectAccessReview"),
    ("authorization.k8s.io", "selfsubjectrulesreviews", "SelfSubjectRulesReview"),
    ("authorization.k8s.io", "subjectaccessreviews", "SubjectAccessReview"),
];

pub(super) async fn respond(
    inner: &Inner,
    user: &UserInfo,
    info: &RequestInfo,
    request: Request<Body>,
) -> Result<Response<Body>> {
    let found = KINDS.iter().find(|(group, resource, _)| {
        *group == info.group && *resource == info.resource && info.version == "v1"
    });
    let Some((group, _, kind)) = found else { return Err(Status::unknown_path()) };
    let local = *kind == "LocalSubjectAccessReview";
    if info.subresource.is_some() || local != info.namespace.is_some() {
        return Err(Status::unknown_path());
    }
    if info.verb != Verb::Create || info.name.is_some() {
        return Err(Status::wrong_method());
    }
    let accepted = negotiate::object(request.headers())?;
    let (head, body) = request.into_parts();
    let bytes = body::read(body).await?;
    let package = group.trim_end_matches(".k8s.io");
    let component = format!("io.k8s.api.{package}.v1.{kind}");
    let mut review = body::decode(&component, &head.headers, &bytes)?.value;
    schema::check_component(&component, &mut review, &[], Strictness::Ignore)
        .map_err(|e| Status::bad_request(e.0))?;
    let spec = &review["spec"];
    let access = &inner.registry.access;
    let status = match *kind {
        "SelfSubjectReview" => json!({"userInfo": user.to_value()}),
        "TokenReview" => about_token(inner, spec)?,
        "SelfSubjectRulesReview" => rules(access, user, spec)?,
        "SelfSubjectAccessReview" => {
            refuse(group, kind, attributes_causes(spec))?;
            access_of(access, user, spec)
        }
        _ => {
            let mut causes = attributes_causes(spec);
            if local {
                causes.extend(local_causes(spec, info.namespace.as_deref().unwrap_or("")));
            }
            let subject = subject_of(spec);
            if subject.name.is_empty() && subject.groups.is_empty() {
                let why = "at least one of user or group must be specified";
                causes.push(required("spec.user", why));
            }
            refuse(group, kind, causes)?;
            access_of(access, &subject, spec)
        }
    };
    review["status"] = status;
    review["kind"] = (*kind).into();
    review["apiVersion"] = format!("{group}/v1").into();
    let metadata = meta::metadata(&mut review);
    if *kind == "SelfSubjectReview" {
        metadata.insert("creationTimestamp".into(), meta::time(Timestamp::now()));
    }
    Ok(respond::value(accepted.encoding, StatusCode::CREATED, &review))
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or("")
}

fn texts(value: &Value) -> Vec<String> {
    let all = value.as_array().into_iter().flatten();
    all.filter_map(Value::as_str).map(str::to_owned).collect()
}

/// The user that a SubjectAccessReview is about, exactly as it says.
fn subject_of(spec: &Value) -> UserInfo {
    let extra: BTreeMap<String, Vec<String>> = spec["extra"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, values)| (key.to_lowercase(), texts(values)))
        .collect();
    UserInfo {
        name: text(spec, "user").to_owned(),
        groups: texts(&spec["groups"]),
        uid: text(spec, "uid").to_owned(),
        extra,
    }
}

fn access_of(access: &Authorizer, user: &UserInfo, spec: &Value) -> Value {
    let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    let action = if resource.is_object() {
        Action::Resource(Attributes {
            verb: text(resource, "verb"),
            group: text(resource, "group"),
            resource: text(resource, "resource"),
            subresource: text(resource, "subresource"),
            namespace: text(resource, "namespace"),
            name: text(resource, "name"),
            on_node: on_node(&resource["fieldSelector"]),
        })
    } else {
        Action::Path { verb: text(path, "verb"), path: text(path, "path") }
    };
    let (allowed, reason) = match access.decide(user, action) {
        Decision::Allowed(reason) => (true, reason),
        Decision::Refused(reason) => (false, reason),
    };
    let mut status = json!({"allowed": allowed});
    if !reason.is_empty() {
        status["reason"] = reason.into();
    }
    status
}

/// The node that the selector of a question limits pods to.
fn on_node(selector: &Value) -> &str {
    let requirements = selector["requirements"].as_array().into_iter().flatten();
    let mut node = requirements.filter(|r| r["key"] == "spec.nodeName" && r["operator"] == "In");
    match node.next().map(|r| &r["values"]) {
        Some(values) if values.as_array().is_some_and(|v| v.len() == 1) => {
            values[0].as_str().unwrap_or("")
        }
        _ => "",
    }
}

fn required(field: &str, why: &str) -> Cause {
    let message = format!("Required value: {why}");
    Cause { reason: Reason::Required, field: field.into(), message }
}

fn attributes_causes(spec: &Value) -> Vec<Cause> {
    let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    match (resource.is_object(), path.is_object()) {
        (true, true) => vec![Cause {
            reason: Reason::Invalid,
            field: "spec.nonResourceAttributes".into(),
            message: format!(
                "Invalid value: {path}: cannot be specified in combination with resourceAttributes"
            ),
        }],
        (false, false) => vec![required(
            "spec.resourceAttributes",
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        )],
        _ => Vec::new(),
    }
}

/// A local question is about the namespace that it is asked in.
fn local_causes(spec: &Value, namespace: &str) -> Option<Cause> {
    let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    let (field, value, why) = if path.is_object() {
        ("spec.nonResourceAttributes", path, "disallowed on this kind of request")
    } else if resource.is_object() && text(resource, "namespace") != namespace {
        let why = "must match metadata.namespace";
        ("spec.resourceAttributes.namespace", &resource["namespace"], why)
    } else {
        return None;
    };
    let message = format!("Invalid value: {value}: {why}");
    Some(Cause { reason: Reason::Invalid, field: field.into(), message })
}

fn refuse(group: &str, kind: &str, causes: Vec<Cause>) -> Result<()> {
    match causes.is_empty() {
        true => Ok(()),
        false => Err(Status::invalid(Subject { group, resource: "", kind }, "", &causes)),
    }
}

fn rules(access: &Authorizer, user: &UserInfo, spec: &Value) -> Result<Value> {
    let namespace = text(spec, "namespace");
    if namespace.is_empty() {
        return Err(Status::bad_request("no namespace on request"));
    }
    let list = access.rules(user, namespace);
    let (resources, paths): (Vec<_>, Vec<_>) =
        list.rules.iter().partition(|rule| rule.non_resource_urls.is_empty());
    let mut status = json!({
        "resourceRules": resources,
        "nonResourceRules": paths,
        "incomplete": list.missing.is_some(),
    });
    if let Some(why) = list.missing {
        status["evaluationError"] = why.into();
    }
    Ok(status)
}

fn about_token(inner: &Inner, spec: &Value) -> Result<Value> {
    let token = text(spec, "token");
    if token.is_empty() {
        let why = "token is required for TokenReview in authentication";
        return Err(Status::bad_request(why));
    }
    let mut audiences = texts(&spec["audiences"]);
    if audiences.is_empty() {
        audiences.push(token::ISSUER.to_owned());
    }
    let store = &inner.registry.store;
    Ok(match inner.issuer.authenticate(store, token, &audiences, Timestamp::now()) {
        Ok((user, audiences)) => {
            json!({"authenticated": true, "user": user.to_value(), "audiences": audiences})
        }
        Err(why) => json!({"user": {}, "error": why.to_string()}),
    })
}
