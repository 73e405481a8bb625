//! Requests on resources: the generic verbs for every kind of the table.

use std::sync::Arc;

use http::{HeaderMap, Request, Response, StatusCode};
use portolan_api::kinds::{self, Scope, Subresource};
use portolan_api::schema::{self, ContentType};
use portolan_api::{Cause, Kind, Reason, strategy};
use serde_json::json;

use crate::limits::Turn;
use crate::metrics::SharedCount;
use crate::negotiate::{self, Accepted, PatchType};
use crate::query::{Applies, ListOptions, Query, WriteOptions, resource_version};
use crate::registry::{
    self, ApplyBody, Change, DeleteOptions, Deleted, Outcome, Ownership, PatchBody, Target,
    WatchSpec, Writer, subject,
};
use crate::request::{RequestInfo, Verb};
use crate::server::{Body, Inner};
use crate::status::{Result, Status, Subject};
use crate::table::IncludeObject;
use crate::{UserInfo, body, respond};

/// A request on a kind, checked.
pub(super) struct Call {
    pub(super) user: UserInfo,
    pub(super) kind: &'static Kind,
    pub(super) info: RequestInfo,
    pub(super) query: Query,
    pub(super) request: Request<Body>,
}

impl Call {
    /// The object that the request names.
    pub(super) fn target(&self) -> Result<Target> {
        let name = self.info.name.clone().ok_or_else(Status::wrong_method)?;
        if self.kind.scope == Scope::Namespaced && self.info.namespace.is_none() {
            return Err(Status::unknown_path());
        }
        Ok(Target { kind: self.kind, namespace: self.info.namespace.clone(), name })
    }

    pub(super) fn headers(&self) -> &HeaderMap {
        self.request.headers()
    }

    /// The request's turn, for what goes on after the response has begun.
    fn turn(&self) -> Option<Turn> {
        self.request.extensions().get::<Turn>().cloned()
    }

    pub(super) fn unsupported(&self) -> Status {
        Status::method_not_supported(subject(self.kind), self.info.verb.as_str())
    }

    /// Splits off the body, read whole.
    pub(super) async fn read_body(&mut self) -> Result<bytes::Bytes> {
        let empty = respond::full(bytes::Bytes::new());
        body::read(std::mem::replace(self.request.body_mut(), empty)).await
    }

    /// Who writes what: the named manager, or what the client calls itself, or the user.
    pub(super) fn writer(&self, options: &WriteOptions, subresource: &'static str) -> Writer {
        let manager = match options.field_manager.as_str() {
            "" => match negotiate::client(self.headers()) {
                client if !client.is_empty() => client,
                _ => self.user.name.trim_start_matches("system:").to_owned(),
            },
            named => named.to_owned(),
        };
        Writer { manager, subresource }
    }

    /// Reads the body as a configuration to apply.
    pub(super) async fn read_configuration(&mut self, options: &WriteOptions) -> Result<ApplyBody> {
        let bytes = self.read_body().await?;
        let decoded = schema::decode(&bytes, ContentType::Yaml)
            .map_err(|e| Status::bad_request(format!("error decoding YAML: {e}")))?;
        if !decoded.value.is_object() {
            return Err(Status::bad_request(
                "error decoding YAML: the configuration is not an object",
            ));
        }
        Ok(ApplyBody {
            config: decoded.value,
            duplicates: decoded.duplicates,
            strictness: options.strictness,
            force: options.force,
        })
    }

    /// Reads the body as a patch.
    pub(super) async fn read_patch(&mut self, options: &WriteOptions) -> Result<PatchBody> {
        let patch_type = negotiate::patch(self.headers())?;
        let bytes = self.read_body().await?;
        let decoded = schema::decode(&bytes, ContentType::Json)
            .map_err(|e| Status::bad_request(format!("error decoding patch: {e}")))?;
        if patch_type != PatchType::Json && !decoded.value.is_object() {
            return Err(Status::bad_request("error decoding patch: the patch is not an object"));
        }
        let findings = registry::patch_findings(patch_type, &decoded);
        let (patch, strictness) = (decoded.value, options.strictness);
        Ok(PatchBody { patch_type, patch, findings, strictness })
    }
}

impl Inner {
    pub(super) async fn resource(
        self: &Arc<Self>,
        user: &UserInfo,
        info: RequestInfo,
        query: Query,
        request: Request<Body>,
    ) -> Result<Response<Body>> {
        if matches!(info.group.as_str(), "authorization.k8s.io" | "authentication.k8s.io") {
            return super::reviews::respond(self, user, &info, request).await;
        }
        let kind = kinds::by_resource(&info.group, &info.version, &info.resource)
            .ok_or_else(Status::unknown_path)?;
        if kind.scope == Scope::Cluster && info.namespace.is_some() {
            return Err(Status::unknown_path());
        }
        let subresource = match &info.subresource {
            None => None,
            Some(name) => Some(served_subresource(kind, name).ok_or_else(Status::unknown_path)?),
        };
        let call = Call { user: user.clone(), kind, info, query, request };
        let mut response = match subresource {
            None => self.object(call).await,
            Some(
                part @ (Subresource::Status
                | Subresource::EphemeralContainers
                | Subresource::Finalize
                | Subresource::Approval),
            ) => self.part(call, part).await,
            Some(Subresource::Scale) => self.scale(call).await,
            Some(Subresource::Token) if call.info.verb == Verb::Create => {
                self.token(user, call).await
            }
            Some(other) => self.connect(call, other).await,
        }?;
        if kind.kind == "Endpoints" {
            let text =
                "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice";
            respond::warn(&mut response, &[text.to_owned()]);
        }
        Ok(response)
    }

    async fn object(self: &Arc<Self>, call: Call) -> Result<Response<Body>> {
        let verb = call.info.verb.as_str();
        if !call.kind.verbs.contains(&verb) {
            return Err(call.unsupported());
        }
        match (call.info.verb, call.info.name.is_some()) {
            (Verb::Get, _) => self.get(&call),
            (Verb::List, _) => self.list(&call),
            (Verb::Watch, _) => self.watch(call),
            (Verb::Create, false) => self.create(call).await,
            (Verb::Update, true) => self.update(call, None).await,
            (Verb::Patch, true) => self.patch(call, None).await,
            (Verb::Delete, _) => self.delete(call).await,
            (Verb::DeleteCollection, _) => self.delete_collection(call).await,
            _ => Err(Status::wrong_method()),
        }
    }

    /// A part that is an aspect of the whole object: `status`, `finalize`.
    async fn part(self: &Arc<Self>, call: Call, part: Subresource) -> Result<Response<Body>> {
        match call.info.verb {
            Verb::Get => self.get(&call),
            Verb::Update => self.update(call, Some(part)).await,
            Verb::Patch => self.patch(call, Some(part)).await,
            _ => Err(call.unsupported()),
        }
    }

    fn get(&self, call: &Call) -> Result<Response<Body>> {
        let accepted = negotiate::object(call.headers())?;
        let include = IncludeObject::parse(call.query.first("includeObject"))?;
        let target = call.target()?;
        let version = resource_version(call.query.first("resourceVersion"))
            .map_err(|status| invalid_version(&target, &status))?;
        let stored = self.registry.get(&target, version)?;
        Ok(respond::object(accepted, include, call.kind, &stored, StatusCode::OK))
    }

    fn list(&self, call: &Call) -> Result<Response<Body>> {
        let accepted = negotiate::object(call.headers())?;
        let include = IncludeObject::parse(call.query.first("includeObject"))?;
        let options = ListOptions::parse(&call.query, false)?;
        let page = self.registry.list(call.kind, call.info.namespace.as_deref(), &options)?;
        Ok(respond::list(accepted, include, call.kind, page, call.turn()))
    }

    fn watch(&self, mut call: Call) -> Result<Response<Body>> {
        let accepted = negotiate::object(call.headers())?;
        let include = IncludeObject::parse(call.query.first("includeObject"))?;
        let mut options = ListOptions::parse(&call.query, true)?;
        if let Some(name) = &call.info.name {
            options.fields = options.fields.and_name(name);
        }
        let lines = self.registry.watch(WatchSpec {
            kind: call.kind,
            namespace: call.info.namespace,
            options,
            transform: accepted.transform,
            include,
            stopping: self.stopping.clone(),
            counters: self.metrics.watch(call.kind),
            _counted: call.request.extensions_mut().remove::<SharedCount>(),
        })?;
        Ok(respond::watch(lines))
    }

    async fn create(&self, mut call: Call) -> Result<Response<Body>> {
        let accepted = negotiate::object(call.headers())?;
        let options = WriteOptions::parse(&call.query, "CreateOptions")?;
        if call.kind.scope == Scope::Namespaced && call.info.namespace.is_none() {
            return Err(Status::wrong_method());
        }
        let bytes = call.read_body().await?;
        let (mut value, mut warnings) =
            body::object(call.kind, call.headers(), &bytes, options.strictness)?;
        strategy::set_requester(call.kind, &mut value, &call.user.name, &call.user.groups);
        let ownership = Ownership::Update(call.writer(&options, ""));
        let mut outcome = self
            .registry
            .create(call.kind, call.info.namespace.as_deref(), value, &ownership, options.dry_run)
            .await?;
        warnings.append(&mut outcome.warnings);
        Ok(written(&call, accepted, &outcome, &warnings))
    }

    async fn update(&self, mut call: Call, part: Option<Subresource>) -> Result<Response<Body>> {
        let accepted = negotiate::object(call.headers())?;
        let options = WriteOptions::parse(&call.query, "UpdateOptions")?;
        let target = call.target()?;
        let bytes = call.read_body().await?;
        let (value, mut warnings) =
            body::object(call.kind, call.headers(), &bytes, options.strictness)?;
        let ownership = Ownership::Update(call.writer(&options, name_of(part)));
        let mut outcome =
            self.registry.update(&target, part, value, &ownership, options.dry_run).await?;
        warnings.append(&mut outcome.warnings);
        Ok(written(&call, accepted, &outcome, &warnings))
    }

    async fn patch(&self, mut call: Call, part: Option<Subresource>) -> Result<Response<Body>> {
        let accepted = negotiate::object(call.headers())?;
        let options = patch_options(&call)?;
        let target = call.target()?;
        let writer = call.writer(&options, name_of(part));
        let outcome = if negotiate::is_apply(call.headers()) {
            let configuration = call.read_configuration(&options).await?;
            let dry_run = options.dry_run;
            self.registry.apply(&target, part, &configuration, &writer, dry_run).await?
        } else {
            let patch = call.read_patch(&options).await?;
            let ownership = Ownership::Update(writer);
            self.registry.patch(&target, part, &patch, &ownership, options.dry_run).await?
        };
        Ok(written(&call, accepted, &outcome, &outcome.warnings))
    }

    async fn delete(&self, mut call: Call) -> Result<Response<Body>> {
        let accepted = negotiate::object(call.headers())?;
        let target = call.target()?;
        let options = delete_options(&mut call).await?;
        Ok(match self.registry.delete(&target, &options).await? {
            Deleted::Gone(stored) if answers_with_object(target.kind) => respond::object(
                accepted,
                IncludeObject::Metadata,
                call.kind,
                &stored,
                StatusCode::OK,
            ),
            Deleted::Gone(stored) => {
                let uid = &stored.value["metadata"]["uid"];
                let status = Status::deleted(target.subject(), &target.name, uid);
                respond::value(accepted.encoding, StatusCode::OK, &status)
            }
            Deleted::Pending(stored) => respond::object(
                accepted,
                IncludeObject::Metadata,
                call.kind,
                &stored,
                StatusCode::OK,
            ),
        })
    }

    async fn delete_collection(&self, mut call: Call) -> Result<Response<Body>> {
        let accepted = negotiate::object(call.headers())?;
        let list = ListOptions::parse(&call.query, false)?;
        let options = delete_options(&mut call).await?;
        let namespace = call.info.namespace.as_deref();
        let page = self.registry.delete_collection(call.kind, namespace, &list, &options).await?;
        Ok(respond::list(accepted, IncludeObject::Metadata, call.kind, page, call.turn()))
    }

    async fn scale(&self, mut call: Call) -> Result<Response<Body>> {
        let accepted = negotiate::object(call.headers())?;
        let target = call.target()?;
        let (stored, mut warnings) = match call.info.verb {
            Verb::Get => (self.registry.get(&target, None)?, Vec::new()),
            Verb::Update => {
                let options = WriteOptions::parse(&call.query, "UpdateOptions")?;
                let bytes = call.read_body().await?;
                let (scale, warnings) = body::component(
                    registry::SCALE,
                    "autoscaling/v1",
                    "Scale",
                    call.headers(),
                    &bytes,
                    options.strictness,
                )?;
                let ownership = Ownership::Update(call.writer(&options, "scale"));
                let dry_run = options.dry_run;
                let outcome =
                    self.registry.update_scale(&target, scale, &ownership, dry_run).await?;
                (outcome.stored, warnings)
            }
            Verb::Patch => {
                let options = patch_options(&call)?;
                let writer = call.writer(&options, "scale");
                let dry_run = options.dry_run;
                let outcome = if negotiate::is_apply(call.headers()) {
                    let configuration = call.read_configuration(&options).await?;
                    self.registry.apply_scale(&target, &configuration, &writer, dry_run).await?
                } else {
                    let patch = call.read_patch(&options).await?;
                    let ownership = Ownership::Update(writer);
                    self.registry.patch_scale(&target, &patch, &ownership, dry_run).await?
                };
                (outcome.stored, outcome.warnings)
            }
            _ => return Err(call.unsupported()),
        };
        let scale = registry::scale_of(&stored);
        let mut response = respond::value(accepted.encoding, StatusCode::OK, &scale);
        respond::warn(&mut response, &std::mem::take(&mut warnings));
        Ok(response)
    }
}

/// The kinds whose storage answers a deletion with the object itself (`ReturnDeletedObject`).
fn answers_with_object(kind: &Kind) -> bool {
    matches!(
        kind.kind,
        "PersistentVolume"
            | "PersistentVolumeClaim"
            | "Pod"
            | "PodTemplate"
            | "ResourceQuota"
            | "ServiceAccount"
    )
}

fn patch_options(call: &Call) -> Result<WriteOptions> {
    let applies = match negotiate::is_apply(call.headers()) {
        true => Applies::Yes,
        false => Applies::No,
    };
    WriteOptions::parse_for(&call.query, "PatchOptions", applies)
}

/// As managers are told apart by: empty for the object itself.
fn name_of(part: Option<Subresource>) -> &'static str {
    part.map_or("", Subresource::as_str)
}

async fn delete_options(call: &mut Call) -> Result<DeleteOptions> {
    let bytes = call.read_body().await?;
    DeleteOptions::parse(&bytes, call.headers(), &call.query)
}

fn written(
    call: &Call,
    accepted: Accepted,
    outcome: &Outcome,
    warnings: &[String],
) -> Response<Body> {
    let code = match outcome.change {
        Change::Created => StatusCode::CREATED,
        Change::Updated => StatusCode::OK,
    };
    let include = IncludeObject::Metadata;
    let mut response = respond::object(accepted, include, call.kind, &outcome.stored, code);
    respond::warn(&mut response, warnings);
    response
}

/// What upstream's storage says of a version that is no number.
fn invalid_version(target: &Target, status: &Status) -> Status {
    let (field, message) = status.message.split_once(": ").unwrap_or(("", &status.message));
    let cause = Cause { reason: Reason::Invalid, field: field.into(), message: message.to_owned() };
    let subject = subject(target.kind);
    Status::invalid(Subject { kind: subject.resource, ..subject }, &target.name, &[cause])
}

fn served_subresource(kind: &Kind, name: &str) -> Option<Subresource> {
    kind.subresources.iter().copied().find(|s| s.as_str() == name)
}

/// The `Status` of a request that created something which is not an object.
pub(super) fn success(code: StatusCode, accepted: Accepted) -> Response<Body> {
    let status = json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "code": code.as_u16(),
    });
    respond::value(accepted.encoding, code, &status)
}
