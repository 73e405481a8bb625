//! What is done to objects, and refused, between their defaults and their validation, for whom the request is from.
//!
//! Upstream's admission plugins ServiceAccount and NodeRestriction, and the checks of its RBAC registries. Writes of the
//! server itself pass.

mod node_restriction;
mod service_account;

use portolan_api::Kind;
use portolan_api::kinds::Subresource;
use serde_json::Value;

use crate::UserInfo;
use crate::authz::{self, Action, Attributes};
use crate::registry::{Registry, Target};
use crate::status::Result;

pub(crate) use node_restriction::token as check_node_token;

/// The API group of roles and bindings.
const RBAC: &str = "rbac.authorization.k8s.io";

impl Registry {
    /// Completes and checks a new object.
    ///
    /// # Errors
    /// 403.
    pub(crate) async fn admit_create(
        &self,
        kind: &Kind,
        namespace: Option<&str>,
        object: &mut Value,
    ) -> Result<()> {
        if (kind.group, kind.kind) == ("", "Pod")
            && let Some(namespace) = namespace
        {
            service_account::admit(self, namespace, object).await?;
        }
        let Some(user) = UserInfo::of_request() else { return Ok(()) };
        if let Some(node) = user.as_node() {
            node_restriction::create(node, kind, namespace, object)?;
        }
        if kind.group == RBAC {
            authz::check_escalation(&self.access, &user, kind.kind, object, None)?;
        }
        Ok(())
    }

    /// Refuses to make an object by a request that was allowed to change it only.
    ///
    /// # Errors
    /// 403.
    pub(crate) fn check_creation(&self, target: &Target) -> Result<()> {
        let Some(user) = UserInfo::of_request() else { return Ok(()) };
        let action = Action::Resource(Attributes {
            verb: "create",
            group: target.kind.group,
            resource: target.kind.plural,
            namespace: target.namespace.as_deref().unwrap_or(""),
            name: &target.name,
            ..Attributes::default()
        });
        self.access.check(&user, action)
    }

    /// Checks a changed object.
    ///
    /// # Errors
    /// 403.
    pub(crate) fn admit_update(
        &self,
        target: &Target,
        part: Option<Subresource>,
        new: &Value,
        old: &Value,
    ) -> Result<()> {
        let Some(user) = UserInfo::of_request() else { return Ok(()) };
        if let Some(node) = user.as_node() {
            node_restriction::update(node, target, part, new, old)?;
        }
        if target.kind.group == RBAC && part.is_none() {
            authz::check_escalation(&self.access, &user, target.kind.kind, new, Some(old))?;
        }
        Ok(())
    }

    /// Checks a deletion.
    ///
    /// # Errors
    /// 403.
    pub(crate) fn admit_delete(&self, target: &Target, current: &Value) -> Result<()> {
        match UserInfo::of_request().as_ref().and_then(UserInfo::as_node) {
            Some(node) => node_restriction::delete(node, target, current),
            None => Ok(()),
        }
    }
}
