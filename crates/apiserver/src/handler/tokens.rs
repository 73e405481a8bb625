//! `serviceaccounts/token`: tokens for those who may act for an account (upstream
//! `pkg/registry/core/serviceaccount/storage/token.go`).

use http::{Response, StatusCode};
use jiff::Timestamp;
use portolan_api::{Cause, Kind, Reason, kinds};
use portolan_store::Stored;
use serde_json::{Value, json};

use super::resource::Call;
use crate::admission::check_node_token;
use crate::query::{DryRun, WriteOptions};
use crate::registry::{Target, meta};
use crate::server::{Body, Inner};
use crate::status::{Result, Status, Subject};
use crate::token::{self, Claims, Kubernetes, Reference};
use crate::{UserInfo, body, negotiate, respond};

const API_VERSION: &str = "authentication.k8s.io/v1";
const COMPONENT: &str = "io.k8s.api.authentication.v1.TokenRequest";
const SUBJECT: Subject<'_> =
    Subject { group: "authentication.k8s.io", resource: "", kind: "TokenRequest" };
const DEFAULT_SECONDS: i64 = 60 * 60;
const SHORTEST: i64 = 10 * 60;
const LONGEST: i64 = 1 << 32;

impl Inner {
    pub(super) async fn token(&self, user: &UserInfo, mut call: Call) -> Result<Response<Body>> {
        let accepted = negotiate::object(call.headers())?;
        let options = WriteOptions::parse(&call.query, "CreateOptions")?;
        let target = call.target()?;
        let bytes = call.read_body().await?;
        let (mut request, warnings) = body::component(
            COMPONENT,
            API_VERSION,
            "TokenRequest",
            call.headers(),
            &bytes,
            options.strictness,
        )?;
        self.answer_token_request(user, &target, &mut request, options.dry_run)?;
        let mut response = respond::value(accepted.encoding, StatusCode::CREATED, &request);
        respond::warn(&mut response, &warnings);
        Ok(response)
    }

    fn answer_token_request(
        &self,
        user: &UserInfo,
        target: &Target,
        request: &mut Value,
        dry_run: DryRun,
    ) -> Result<()> {
        let sent = |field: &str| meta::text(request, field).to_owned();
        let (name, namespace) = (sent("name"), sent("namespace"));
        let own_namespace = target.namespace.clone().unwrap_or_default();
        for (field, sent, own, what) in [
            ("metadata.name", &name, &target.name, "name"),
            ("metadata.namespace", &namespace, &own_namespace, "namespace"),
        ] {
            if !sent.is_empty() && sent != own {
                let value: Value = sent.as_str().into();
                let message = format!(
                    "Invalid value: {value}: must match the service account {what} if specified"
                );
                let cause = Cause { reason: Reason::Invalid, field: field.into(), message };
                return Err(Status::invalid(SUBJECT, &target.name, &[cause]));
            }
        }
        let account = self.registry.get(target, None)?;
        let spec = complete(&request["spec"]);
        if let Some(node) = user.as_node() {
            check_node_token(&self.registry.store, node, target, &spec)?;
        }
        let seconds = lifetime(&spec)?;
        let now = Timestamp::now();
        let end = now.as_second().saturating_add(seconds);
        let bound = self.bound(target, &spec["boundObjectRef"])?;
        let audiences = spec["audiences"].as_array().into_iter().flatten();
        let claims = Claims {
            aud: audiences.filter_map(Value::as_str).map(str::to_owned).collect(),
            exp: end,
            iat: now.as_second(),
            iss: token::ISSUER.to_owned(),
            jti: uuid::Uuid::new_v4().to_string(),
            kubernetes: Kubernetes {
                namespace: own_namespace,
                serviceaccount: reference(&account),
                ..bound
            },
            nbf: now.as_second(),
            sub: UserInfo::service_account(
                target.namespace.as_deref().unwrap_or(""),
                &target.name,
                "",
            )
            .name,
        };
        let metadata = meta::metadata(request);
        metadata.insert("name".into(), target.name.as_str().into());
        metadata.insert("namespace".into(), claims.kubernetes.namespace.as_str().into());
        metadata.insert("creationTimestamp".into(), meta::time(now));
        request["spec"] = spec;
        let end = Timestamp::from_second(end).map_err(Status::internal)?;
        // A token that a dry run would hand out would be a real one.
        let token = match dry_run {
            DryRun::Off => self.issuer.sign(&claims).map_err(Status::internal)?,
            DryRun::All => String::new(),
        };
        request["status"] = json!({"token": token, "expirationTimestamp": meta::time(end)});
        Ok(())
    }

    /// What the token depends on beside its account.
    fn bound(&self, account: &Target, asked: &Value) -> Result<Kubernetes> {
        let mut bound = Kubernetes::default();
        if !asked.is_object() {
            return Ok(bound);
        }
        let text = |field: &str| asked[field].as_str().unwrap_or("");
        let (api_version, kind, name) = (text("apiVersion"), text("kind"), text("name"));
        let known = matches!(kind, "Pod" | "Secret" | "Node").then(|| kinds::by_kind("v1", kind));
        let Some(found) = known.flatten().filter(|_| matches!(api_version, "" | "v1")) else {
            let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
            return Err(Status::bad_request(format!(
                "cannot bind token to object of type {group}/{version}, Kind={kind}"
            )));
        };
        let object = self.registry.get(&target_of(found, account, name), None)?;
        let wanted = text("uid");
        if !wanted.is_empty() && wanted != meta::uid(&object.value) {
            let subject = Subject { group: "", resource: kind, kind };
            let why = format!(
                "the UID in the bound object reference ({wanted}) does not match the UID in \
                 record. The object might have been deleted and then recreated"
            );
            return Err(Status::conflict(subject, name, &why));
        }
        match kind {
            "Pod" => {
                let runs_as = object.value["spec"]["serviceAccountName"].as_str().unwrap_or("");
                if runs_as != account.name {
                    return Err(Status::bad_request(format!(
                        "cannot bind token for serviceaccount {:?} to pod running with different \
                         serviceaccount name.",
                        account.name
                    )));
                }
                bound.node = self.node_of(&object);
                bound.pod = Some(reference(&object));
            }
            "Secret" => bound.secret = Some(reference(&object)),
            _ => bound.node = Some(reference(&object)),
        }
        Ok(bound)
    }

    /// The node of a pod, for those who want to know where a token is used.
    fn node_of(&self, pod: &Stored) -> Option<Reference> {
        let name = pod.value["spec"]["nodeName"].as_str().filter(|name| !name.is_empty())?;
        let kind = kinds::by_kind("v1", "Node")?;
        let node = self.registry.store.get(&kind.key(None, name));
        let uid = node.map(|node| meta::uid(&node.value).to_owned()).unwrap_or_default();
        Some(Reference { name: name.to_owned(), uid })
    }
}

fn target_of(kind: &'static Kind, account: &Target, name: &str) -> Target {
    let namespace = match kind.scope {
        kinds::Scope::Namespaced => account.namespace.clone(),
        kinds::Scope::Cluster => None,
    };
    Target { kind, namespace, name: name.to_owned() }
}

fn reference(object: &Stored) -> Reference {
    let value = &object.value;
    Reference { name: meta::name(value).to_owned(), uid: meta::uid(value).to_owned() }
}

/// The spec with its defaults.
fn complete(spec: &Value) -> Value {
    let mut spec = if spec.is_object() { spec.clone() } else { json!({}) };
    if spec["audiences"].as_array().is_none_or(Vec::is_empty) {
        spec["audiences"] = json!([token::ISSUER]);
    }
    if !spec["expirationSeconds"].is_number() {
        spec["expirationSeconds"] = DEFAULT_SECONDS.into();
    }
    spec
}

fn lifetime(spec: &Value) -> Result<i64> {
    let seconds = spec["expirationSeconds"].as_i64().unwrap_or(DEFAULT_SECONDS);
    let why = if seconds < SHORTEST {
        "may not specify a duration less than 10 minutes"
    } else if seconds > LONGEST {
        "may not specify a duration larger than 2^32 seconds"
    } else {
        return Ok(seconds);
    };
    let cause = Cause {
        reason: Reason::Invalid,
        field: "spec.expirationSeconds".into(),
        message: format!("Invalid value: {seconds}: {why}"),
    };
    Err(Status::invalid(SUBJECT, "", &[cause]))
}
