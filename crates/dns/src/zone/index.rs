//! Events in, snapshots out.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::input::{Endpoint, EndpointSlice, Event, Key, Kind, Port, Service};
use super::service::{ServiceEntry, Slice};
use super::snapshot::{Address, Loaded, Pod, Snapshot, hash_of, hash_of_ip};

/// What names depend on beside the objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// Whether an endpoint without a hostname is called like its pod.
    pub endpoint_pod_names: bool,
}

/// The writer's side: the latest snapshot, and what is needed to find what an event replaces.
#[derive(Debug, Default)]
pub struct Index {
    options: Options,
    snapshot: Snapshot,
    /// The Service of each slice.
    slices: HashMap<Key, Arc<Key>>,
    /// The addresses of each pod.
    pods: HashMap<Arc<Key>, Box<[IpAddr]>>,
    names: Interner,
}

impl Index {
    /// An empty one.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self { options, ..Self::default() }
    }

    /// What can be looked up now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.snapshot.clone()
    }

    /// Says that everything that there is has been seen.
    pub fn set_loaded(&mut self) {
        self.snapshot.loaded = Loaded::Whole;
    }

    /// Takes an event over; `now` in seconds since 1970 becomes the zone's serial number.
    pub fn apply(&mut self, event: Event, now: u32) {
        self.snapshot.serial = now;
        match event {
            Event::Service(key, service) => self.service(&key, service),
            Event::EndpointSlice(key, slice) => self.slice(key, slice),
            Event::Pod(key, addresses) => self.pod(key, addresses.unwrap_or_default()),
            Event::Namespace(name) => {
                let name = self.names.intern(name);
                self.snapshot.namespaces.put(Arc::clone(&name), |known| *known == name);
            }
            Event::NamespaceGone(name) => {
                let hash = hash_of(&[name.as_bytes()]);
                self.snapshot.namespaces.remove(hash, |known| *known == name);
            }
        }
    }

    fn entry(&self, key: &Key) -> Option<Arc<ServiceEntry>> {
        let hash = hash_of(&[key.namespace.as_bytes(), key.name.as_bytes()]);
        self.snapshot.services.near(hash).iter().find(|entry| *entry.key == *key).cloned()
    }

    /// The key that is kept of a Service.
    fn key_of(&mut self, key: &Key, before: Option<&Arc<ServiceEntry>>) -> Arc<Key> {
        match before {
            Some(entry) => Arc::clone(&entry.key),
            None => Arc::new(Key {
                namespace: self.names.intern(Arc::clone(&key.namespace)),
                name: Arc::clone(&key.name),
            }),
        }
    }

    fn service(&mut self, key: &Key, service: Option<Service>) {
        let before = self.entry(key);
        let kept = self.key_of(key, before.as_ref());
        let service = service.map(|mut service| {
            self.intern_ports(&mut service.ports);
            Arc::new(service)
        });
        let slices = before.as_ref().map(|entry| entry.slices.clone()).unwrap_or_default();
        self.replace(before, ServiceEntry { key: kept, service, slices });
    }

    fn slice(&mut self, key: Key, slice: Option<EndpointSlice>) {
        let service = slice.as_ref().map(|slice| Key {
            namespace: Arc::clone(&key.namespace),
            name: Arc::clone(&slice.service),
        });
        let old = self.slices.get(&key).cloned();
        if let Some(old) = old.filter(|old| Some(&**old) != service.as_ref()) {
            self.slices.remove(&key);
            self.put_slice(&old, &key.name, None);
        }
        let (Some(service), Some(mut slice)) = (service, slice) else { return };
        self.intern_ports(&mut slice.ports);
        let by_pod = self.options.endpoint_pod_names;
        let name_of = |endpoint: &Endpoint| {
            let pod = endpoint.pod.as_ref().filter(|pod| by_pod && pod.len() < 64);
            endpoint.hostname.as_ref().filter(|name| !name.is_empty()).or(pod).cloned()
        };
        let name = match self.slices.get_key_value(&key) {
            Some((known, _)) => Arc::clone(&known.name),
            None => Arc::clone(&key.name),
        };
        let kept = self.put_slice(&service, &key.name, Some(Slice::new(name, slice, name_of)));
        if let Some(kept) = kept {
            let namespace = Arc::clone(&kept.namespace);
            self.slices.insert(Key { namespace, name: key.name }, kept);
        }
    }

    /// Puts a slice of a Service in the place of the one before; gives the Service's key if it stays.
    fn put_slice(&mut self, service: &Key, name: &str, slice: Option<Slice>) -> Option<Arc<Key>> {
        let before = self.entry(service);
        let kept = self.key_of(service, before.as_ref());
        let known = before.as_ref().map(|entry| &*entry.slices).unwrap_or_default();
        let mut slices: Vec<_> =
            known.iter().filter(|slice| *slice.name != *name).cloned().collect();
        if let Some(slice) = slice {
            let at = slices.partition_point(|known| known.name < slice.name);
            slices.insert(at, Arc::new(slice));
        }
        let service = before.as_ref().and_then(|entry| entry.service.clone());
        let next = ServiceEntry { key: Arc::clone(&kept), service, slices: slices.into() };
        self.replace(before, next).then_some(kept)
    }

    /// Puts an entry in the place of the one before, with its addresses. False when nothing is left.
    fn replace(&mut self, before: Option<Arc<ServiceEntry>>, next: ServiceEntry) -> bool {
        for ip in before.iter().flat_map(|entry| changed(entry, &next)) {
            if !has(&next, ip) {
                let is = |known: &Address| known.ip == ip && known.service == next.key;
                self.snapshot.addresses.remove(hash_of_ip(ip), is);
            }
        }
        let mut new: Vec<IpAddr> = match &before {
            Some(before) => changed(&next, before).filter(|ip| !has(before, *ip)).collect(),
            None => every(&next).collect(),
        };
        new.sort_unstable();
        new.dedup();
        for ip in new {
            let address = Address { ip, service: Arc::clone(&next.key) };
            let is = |known: &Address| known.ip == ip && known.service == next.key;
            self.snapshot.addresses.put(address, is);
        }
        let key = Arc::clone(&next.key);
        let is = |known: &Arc<ServiceEntry>| known.key == key;
        let is_something = next.service.is_some() || !next.slices.is_empty();
        if is_something {
            self.snapshot.services.put(Arc::new(next), is);
        } else {
            let hash = hash_of(&[key.namespace.as_bytes(), key.name.as_bytes()]);
            self.snapshot.services.remove(hash, is);
        }
        is_something
    }

    fn pod(&mut self, key: Key, addresses: Vec<IpAddr>) {
        let (key, before) = match self.pods.remove_entry(&key) {
            Some((key, before)) => (key, before),
            None => {
                let namespace = self.names.intern(key.namespace);
                (Arc::new(Key { namespace, name: key.name }), Box::default())
            }
        };
        for ip in before.iter().copied().filter(|ip| !addresses.contains(ip)) {
            let is = |known: &Pod| known.ip == ip && known.key == key;
            self.snapshot.pods.remove(hash_of_ip(ip), is);
        }
        for ip in addresses.iter().copied().filter(|ip| !before.contains(ip)) {
            let pod = Pod { ip, key: Arc::clone(&key) };
            self.snapshot.pods.put(pod, |known| known.ip == ip && known.key == key);
        }
        if !addresses.is_empty() {
            self.pods.insert(key, addresses.into());
        }
    }

    fn intern_ports(&mut self, ports: &mut Vec<Port>) {
        for port in &mut *ports {
            port.name = self.names.intern(Arc::clone(&port.name));
        }
        ports.shrink_to_fit();
    }
}

/// The addresses of an entry.
fn every(entry: &ServiceEntry) -> impl Iterator<Item = IpAddr> {
    cluster_ips(entry).iter().copied().chain(entry.slices().flat_map(Slice::addresses))
}

/// The addresses of an entry, but those of slices that another entry shares.
fn changed<'a>(
    entry: &'a ServiceEntry,
    other: &'a ServiceEntry,
) -> impl Iterator<Item = IpAddr> + 'a {
    let differs = |slice: &&Arc<Slice>| !other.slices.iter().any(|known| Arc::ptr_eq(known, slice));
    let slices = entry.slices.iter().filter(differs);
    cluster_ips(entry).iter().copied().chain(slices.flat_map(|slice| slice.addresses()))
}

fn has(entry: &ServiceEntry, ip: IpAddr) -> bool {
    cluster_ips(entry).contains(&ip) || entry.slices().any(|slice| slice.contains(ip))
}

fn cluster_ips(entry: &ServiceEntry) -> &[IpAddr] {
    match entry.service.as_deref() {
        Some(Service { kind: Kind::ClusterIp(ips), .. }) => ips,
        _ => &[],
    }
}

/// One copy of each name that many objects have: namespaces, names of ports.
#[derive(Debug, Default)]
struct Interner {
    names: HashSet<Arc<str>>,
    /// At how many names those that nobody uses any more are dropped.
    sweep_at: usize,
}

impl Interner {
    fn intern(&mut self, name: Arc<str>) -> Arc<str> {
        if let Some(known) = self.names.get(&name) {
            return Arc::clone(known);
        }
        if self.names.len() >= self.sweep_at {
            self.names.retain(|name| Arc::strong_count(name) > 1);
            self.sweep_at = (self.names.len() * 2).max(64);
        }
        self.names.insert(Arc::clone(&name));
        name
    }
}

#[cfg(test)]
mod tests;
