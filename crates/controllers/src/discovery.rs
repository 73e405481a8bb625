//! Which kinds the API server serves, for controllers that work on all of them.

use std::collections::HashSet;
use std::sync::Arc;

use kube::core::Resource;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind, Request};

use crate::Result;
use crate::object::Key;

/// A served kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ApiKind {
    pub(crate) resource: ApiResource,
    pub(crate) namespaced: bool,
    verbs: Vec<String>,
}

impl ApiKind {
    /// The kind of a typed object.
    pub(crate) fn of<K: Resource<DynamicType = ()>>(namespaced: bool) -> Self {
        Self { resource: ApiResource::erase::<K>(&()), namespaced, verbs: Vec::new() }
    }

    pub(crate) fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }

    /// Group and plural: what a kind is whatever its version.
    pub(crate) fn identity(&self) -> (&str, &str) {
        (&self.resource.group, &self.resource.plural)
    }

    /// Requests on this kind in the key's namespace.
    pub(crate) fn request(&self, key: &Key) -> Request {
        let namespace = (self.namespaced && !key.namespace.is_empty()).then_some(&*key.namespace);
        Request::new(DynamicObject::url_path(&self.resource, namespace))
    }
}

/// Every served kind once, in its group's preferred version, and the groups that did not answer.
pub(crate) async fn served(client: &kube::Client) -> Result<(Vec<Arc<ApiKind>>, Vec<String>)> {
    let mut lists = Vec::new();
    let mut failed = Vec::new();
    for version in client.list_core_api_versions().await?.versions {
        lists.push(client.list_core_api_resources(&version).await?);
    }
    for group in client.list_api_groups().await?.groups {
        let preferred = group.preferred_version.or_else(|| group.versions.first().cloned());
        let Some(version) = preferred else { continue };
        match client.list_api_group_resources(&version.group_version).await {
            Ok(list) => lists.push(list),
            Err(error) => {
                tracing::debug!(group = version.group_version, %error, "discovery failed");
                failed.push(version.group_version);
            }
        }
    }
    let mut seen = HashSet::new();
    let mut kinds = Vec::new();
    for list in lists {
        let (group, version) =
            list.group_version.split_once('/').unwrap_or(("", &list.group_version));
        for resource in list.resources {
            if resource.name.contains('/')
                || !seen.insert((group.to_owned(), resource.name.clone()))
            {
                continue;
            }
            let gvk = GroupVersionKind::gvk(group, version, &resource.kind);
            kinds.push(Arc::new(ApiKind {
                resource: ApiResource::from_gvk_with_plural(&gvk, &resource.name),
                namespaced: resource.namespaced,
                verbs: resource.verbs,
            }));
        }
    }
    Ok((kinds, failed))
}
