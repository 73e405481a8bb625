//! Subresources that act: `binding` and `eviction`, and those that lead to a node or a pod.

use std::sync::Arc;

use http::{Response, StatusCode};
use portolan_api::kinds::Subresource;
use portolan_api::schema::Strictness;

use super::resource::{Call, success};
use crate::negotiate;
use crate::query::WriteOptions;
use crate::registry::{DeleteOptions, meta};
use crate::request::Verb;
use crate::server::{Body, Inner};
use crate::status::{Result, Status};
use crate::{body, nodes};

impl Inner {
    pub(super) async fn connect(
        self: &Arc<Self>,
        call: Call,
        subresource: Subresource,
    ) -> Result<Response<Body>> {
        match (subresource, call.info.verb) {
            (Subresource::Binding, Verb::Create) => self.bind(call).await,
            (Subresource::Eviction, Verb::Create) => self.evict(call).await,
            (Subresource::Log, Verb::Get) => {
                let pod = self.registry.get(&call.target()?, None)?;
                nodes::log(self, &pod, &call.query).await
            }
            (
                Subresource::Exec | Subresource::Attach | Subresource::PortForward,
                Verb::Get | Verb::Create,
            ) => {
                let pod = self.registry.get(&call.target()?, None)?;
                nodes::upgrade(self, &pod, subresource, &call.query, call.request).await
            }
            (Subresource::Proxy, _) => {
                let rest = call.info.rest.clone().unwrap_or_else(|| "/".into());
                nodes::proxy(self, &call.target()?, &rest, call.request).await
            }
            _ => Err(call.unsupported()),
        }
    }

    /// The scheduler's write: the pod gets its node, once.
    async fn bind(&self, mut call: Call) -> Result<Response<Body>> {
        let accepted = negotiate::object(call.headers())?;
        let options = WriteOptions::parse(&call.query, "CreateOptions")?;
        let target = call.target()?;
        let bytes = call.read_body().await?;
        let (binding, _) = body::component(
            "io.k8s.api.core.v1.Binding",
            "v1",
            "Binding",
            call.headers(),
            &bytes,
            options.strictness,
        )?;
        let name = meta::name(&binding);
        if !name.is_empty() && name != target.name {
            return Err(Status::bad_request(format!(
                "name in URL does not match name in Binding object: {} vs {name}",
                target.name
            )));
        }
        self.registry.bind(&target, &binding, options.dry_run).await?;
        Ok(success(StatusCode::CREATED, accepted))
    }

    /// Without disruption budgets an eviction is a graceful delete.
    async fn evict(&self, mut call: Call) -> Result<Response<Body>> {
        let accepted = negotiate::object(call.headers())?;
        let options = WriteOptions::parse(&call.query, "CreateOptions")?;
        let target = call.target()?;
        let bytes = call.read_body().await?;
        let (eviction, _) = body::component(
            "io.k8s.api.policy.v1.Eviction",
            "policy/v1",
            "Eviction",
            call.headers(),
            &bytes,
            Strictness::Ignore,
        )?;
        let name = meta::name(&eviction);
        if !name.is_empty() && name != target.name {
            return Err(Status::bad_request(format!(
                "name in URL does not match name in Eviction object: {} vs {name}",
                target.name
            )));
        }
        let mut delete = DeleteOptions::from_value(&eviction["deleteOptions"]);
        if options.dry_run == crate::query::DryRun::All {
            delete.dry_run = options.dry_run;
        }
        self.registry.delete(&target, &delete).await?;
        Ok(success(StatusCode::CREATED, accepted))
    }
}
