//! ConfigMaps and Secrets that pods refer to, each watched once, for as long as a pod needs it.
//!
//! A pod starts with what its references are when it starts, waits for those that are missing,
//! and hears of every change at once. (Upstream: kubelet's watch-based ConfigMap manager.)

use std::collections::{BTreeSet, HashMap};
use std::fmt::Debug;
use std::sync::{Arc, Weak};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Container, PodSpec, Secret};
use kube::{Api, Resource};
use parking_lot::Mutex;
use portolan_client::informer::{Change, Config, Informer};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::pod::env::References;
use crate::pod::record;

/// What is known of an object: nothing yet, that it is missing, or what it is.
type Known<K> = Option<Option<K>>;

struct Watched<K> {
    known: watch::Sender<Known<K>>,
    task: JoinHandle<()>,
}

impl<K> Drop for Watched<K> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Table<K> = Mutex<HashMap<(String, String), Weak<Watched<K>>>>;

/// All objects that are being watched.
pub(crate) struct Objects {
    client: kube::Client,
    config_maps: Table<ConfigMap>,
    secrets: Table<Secret>,
}

impl Objects {
    pub(crate) fn new(client: kube::Client) -> Objects {
        Objects { client, config_maps: Table::default(), secrets: Table::default() }
    }

    /// Starts to follow everything that a pod refers to.
    pub(crate) fn follow(&self, namespace: &str, spec: &PodSpec) -> Followed {
        let names = names(spec);
        Followed {
            config_maps: follow(&self.client, &self.config_maps, namespace, names.config_maps),
            secrets: follow(&self.client, &self.secrets, namespace, names.secrets),
        }
    }
}

fn follow<K>(
    client: &kube::Client,
    table: &Table<K>,
    namespace: &str,
    names: BTreeSet<String>,
) -> Vec<One<K>>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    K: Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let mut table = table.lock();
    table.retain(|_, watched| watched.strong_count() > 0);
    let each = names.into_iter().map(|name| {
        let key = (namespace.to_owned(), name.clone());
        let watched = table.get(&key).and_then(Weak::upgrade).unwrap_or_else(|| {
            let watched = Arc::new(start(Api::namespaced(client.clone(), namespace), &name));
            table.insert(key, Arc::downgrade(&watched));
            watched
        });
        One { name, receiver: watched.known.subscribe(), _watched: watched }
    });
    each.collect()
}

fn start<K>(api: Api<K>, name: &str) -> Watched<K>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let (known, _) = watch::channel(None);
    let sender = known.clone();
    let informer = Informer::start(api, Config::fields(format!("metadata.name={name}")));
    let task = tokio::spawn(async move {
        loop {
            let changes = informer.changes().await;
            let mut latest = None;
            for (_, change) in changes.objects {
                latest = Some(match change {
                    Change::Put(object) => Some(*object),
                    Change::Delete => None,
                });
            }
            match latest {
                Some(object) => {
                    sender.send_replace(Some(object));
                }
                None if changes.is_listed => {
                    sender.send_if_modified(|known| {
                        known.is_none() && {
                            *known = Some(None);
                            true
                        }
                    });
                }
                None => {}
            }
        }
    });
    Watched { known, task }
}

struct One<K> {
    name: String,
    receiver: watch::Receiver<Known<K>>,
    _watched: Arc<Watched<K>>,
}

/// What one pod refers to.
pub(crate) struct Followed {
    config_maps: Vec<One<ConfigMap>>,
    secrets: Vec<One<Secret>>,
}

impl Followed {
    /// The objects as they are; None while some are not known yet. Marks them as seen.
    pub(crate) fn references(&mut self) -> Option<References> {
        Some(References {
            config_maps: seen(&mut self.config_maps)?,
            secrets: seen(&mut self.secrets)?,
            ..References::default()
        })
    }

    /// Waits until some object is another than when last seen. Cancel safe.
    pub(crate) async fn changed(&mut self) {
        let maps = self.config_maps.iter_mut().map(|one| changed(&mut one.receiver));
        let all: Vec<_> =
            maps.chain(self.secrets.iter_mut().map(|one| changed(&mut one.receiver))).collect();
        if all.is_empty() {
            return std::future::pending().await;
        }
        futures::future::select_all(all).await;
    }
}

fn changed<K: Send + Sync>(receiver: &mut watch::Receiver<Known<K>>) -> BoxFuture<'_, ()> {
    // The sender lives as long as the subscription, so an error cannot be.
    receiver.changed().map(|_| ()).boxed()
}

fn seen<K: Clone>(all: &mut [One<K>]) -> Option<std::collections::BTreeMap<String, Option<K>>> {
    let each = all.iter_mut().map(|one| {
        let known = one.receiver.borrow_and_update().clone();
        known.map(|object| (one.name.clone(), object))
    });
    each.collect()
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Names {
    config_maps: BTreeSet<String>,
    secrets: BTreeSet<String>,
}

fn names(spec: &PodSpec) -> Names {
    let mut names = Names::default();
    for volume in spec.volumes.iter().flatten() {
        names.config_maps.extend(volume.config_map.iter().map(|source| source.name.clone()));
        names.secrets.extend(volume.secret.iter().filter_map(|source| source.secret_name.clone()));
        let sources = volume.projected.iter().flat_map(|one| one.sources.iter().flatten());
        for source in sources {
            names.config_maps.extend(source.config_map.iter().map(|one| one.name.clone()));
            names.secrets.extend(source.secret.iter().map(|one| one.name.clone()));
        }
    }
    for (container, _) in record::containers(spec) {
        environment(container, &mut names);
    }
    names.config_maps.remove("");
    names.secrets.remove("");
    names
}

fn environment(container: &Container, names: &mut Names) {
    for source in container.env_from.iter().flatten() {
        names.config_maps.extend(source.config_map_ref.iter().map(|one| one.name.clone()));
        names.secrets.extend(source.secret_ref.iter().map(|one| one.name.clone()));
    }
    for source in container.env.iter().flatten().filter_map(|one| one.value_from.as_ref()) {
        names.config_maps.extend(source.config_map_key_ref.iter().map(|one| one.name.clone()));
        names.secrets.extend(source.secret_key_ref.iter().map(|one| one.name.clone()));
    }
}
