//! What every namespace comes with: the ServiceAccount `default` and the ConfigMap
//! `kube-root-ca.crt` with the cluster's CA. Both come back when deleted, the latter also when
//! changed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;

use crate::Result;
use crate::kind::is_already_exists;
use crate::kinds::{DEFAULT_ACCOUNT, Kinds, ROOT_CA};
use crate::object::{Key, Meta};
use crate::queue::WorkQueue;
use crate::reconcile::Reconcile;

const DATA: &str = "ca.crt";

/// The controller of both.
pub(crate) struct NamespaceContents {
    kinds: Arc<Kinds>,
    queue: Arc<WorkQueue<Key>>,
    root_ca: String,
}

impl NamespaceContents {
    pub(crate) fn new(kinds: &Arc<Kinds>, root_ca: &str) -> Arc<Self> {
        let queue = Arc::new(WorkQueue::new());
        let added = Arc::clone(&queue);
        kinds.namespaces.cache.subscribe(move |change| {
            added.add(Key::cluster(change.latest().name()));
        });
        let added = Arc::clone(&queue);
        kinds.service_accounts.cache.subscribe(move |change| {
            added.add(Key::cluster(change.latest().namespace()));
        });
        let added = Arc::clone(&queue);
        kinds.root_cas.cache.subscribe(move |change| {
            added.add(Key::cluster(change.latest().namespace()));
        });
        Arc::new(Self { kinds: Arc::clone(kinds), queue, root_ca: root_ca.to_owned() })
    }
}

impl Reconcile for NamespaceContents {
    type Key = Key;
    const NAME: &'static str = "serviceaccount";

    fn queue(&self) -> &Arc<WorkQueue<Key>> {
        &self.queue
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let kinds = &self.kinds;
        let live = kinds.namespaces.cache.find(key).is_some_and(|n| !n.is_terminating());
        if !live {
            return Ok(None);
        }
        let meta = |name: &str| ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(key.name.clone()),
            ..ObjectMeta::default()
        };
        let account = Key::new(&key.name, DEFAULT_ACCOUNT);
        if kinds.service_accounts.cache.find(&account).is_none() {
            let account =
                ServiceAccount { metadata: meta(DEFAULT_ACCOUNT), ..ServiceAccount::default() };
            tolerate_existing(kinds.service_accounts.create(&account).await)?;
        }
        let data = BTreeMap::from([(DATA.to_owned(), self.root_ca.clone())]);
        let root_ca = Key::new(&key.name, ROOT_CA);
        match kinds.root_cas.cache.find(&root_ca) {
            None => {
                let map =
                    ConfigMap { metadata: meta(ROOT_CA), data: Some(data), ..ConfigMap::default() };
                tolerate_existing(kinds.root_cas.create(&map).await)?;
            }
            Some(map) if map.data.as_ref() != Some(&data) => {
                let mut patch = json!({ "data": { DATA: self.root_ca } });
                for other in map.data.iter().flat_map(BTreeMap::keys).filter(|k| *k != DATA) {
                    patch["data"][other] = serde_json::Value::Null;
                }
                kinds.root_cas.merge(&root_ca, map.uid(), &patch).await?;
            }
            Some(_) => {}
        }
        Ok(None)
    }
}

/// Another made it first; its watch event is on the way.
fn tolerate_existing<K>(answer: Result<K>) -> Result<()> {
    match answer {
        Ok(_) => Ok(()),
        Err(crate::Error::Api(error)) if is_already_exists(&error) => Ok(()),
        Err(error) => Err(error),
    }
}
