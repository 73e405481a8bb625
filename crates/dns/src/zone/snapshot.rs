//! What can be looked up, as it was at one moment.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use super::input::Key;
use super::service::{ServiceEntry, Slice};
use super::trie::{Entry, Trie};

/// Whether everything that there is has been seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Loaded {
    /// The first lists are not in: what is missing may yet come.
    #[default]
    Partly,
    /// What is missing is not there.
    Whole,
}

/// The names of a cluster at one moment. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    pub(super) services: Trie<Arc<ServiceEntry>>,
    pub(super) namespaces: Trie<Arc<str>>,
    /// Which Services have an address, as a cluster IP or as an endpoint's.
    pub(super) addresses: Trie<Address>,
    pub(super) pods: Trie<Pod>,
    pub(super) serial: u32,
    pub(super) loaded: Loaded,
}

/// An address of a Service.
#[derive(Debug, Clone)]
pub(super) struct Address {
    pub(super) ip: IpAddr,
    pub(super) service: Arc<Key>,
}

/// An address of a pod.
#[derive(Debug, Clone)]
pub(super) struct Pod {
    pub(super) ip: IpAddr,
    pub(super) key: Arc<Key>,
}

impl Snapshot {
    /// Whether everything that there is has been seen.
    #[must_use]
    pub fn loaded(&self) -> Loaded {
        self.loaded
    }

    /// When the last change was, in seconds since 1970: the serial number of the zone.
    #[must_use]
    pub fn serial(&self) -> u32 {
        self.serial
    }

    /// How many Services, with those that have slices only.
    #[must_use]
    pub fn service_count(&self) -> usize {
        self.services.len()
    }

    /// Whether a namespace is there. Its name is in lower case.
    #[must_use]
    pub fn has_namespace(&self, name: &[u8]) -> bool {
        self.namespaces.near(hash_of(&[name])).iter().any(|known| known.as_bytes() == name)
    }

    /// The namespace's name as it is kept.
    #[must_use]
    pub fn service(&self, namespace: &[u8], name: &[u8]) -> Option<&ServiceEntry> {
        let near = self.services.near(hash_of(&[namespace, name]));
        let is = |known: &&Arc<ServiceEntry>| {
            known.key.name.as_bytes() == name && known.key.namespace.as_bytes() == namespace
        };
        near.iter().find(is).map(AsRef::as_ref)
    }

    /// The Services that have an address.
    pub fn services_at(&self, ip: IpAddr) -> impl Iterator<Item = &ServiceEntry> {
        let near = self.addresses.near(hash_of_ip(ip)).iter().filter(move |known| known.ip == ip);
        near.filter_map(|known| {
            self.service(known.service.namespace.as_bytes(), known.service.name.as_bytes())
        })
    }

    /// Whether a pod of this namespace has this address.
    #[must_use]
    pub fn has_pod(&self, namespace: &[u8], ip: IpAddr) -> bool {
        let mut near = self.pods.near(hash_of_ip(ip)).iter();
        near.any(|pod| pod.ip == ip && pod.key.namespace.as_bytes() == namespace)
    }
}

impl ServiceEntry {
    /// Whether any slice has an endpoint that is ready.
    #[must_use]
    pub fn has_endpoints(&self) -> bool {
        self.slices.iter().any(|slice| !slice.is_empty())
    }

    /// The slices.
    pub fn slices(&self) -> impl Iterator<Item = &Slice> {
        self.slices.iter().map(AsRef::as_ref)
    }
}

impl Entry for Arc<ServiceEntry> {
    fn hash(&self) -> u64 {
        hash_of(&[self.key.namespace.as_bytes(), self.key.name.as_bytes()])
    }
}

impl Entry for Arc<str> {
    fn hash(&self) -> u64 {
        hash_of(&[self.as_bytes()])
    }
}

impl Entry for Address {
    fn hash(&self) -> u64 {
        hash_of_ip(self.ip)
    }
}

impl Entry for Pod {
    fn hash(&self) -> u64 {
        hash_of_ip(self.ip)
    }
}

/// Keyed by chance once a process: who chooses names must not choose collisions.
fn hasher() -> &'static RandomState {
    static STATE: OnceLock<RandomState> = OnceLock::new();
    STATE.get_or_init(RandomState::new)
}

pub(super) fn hash_of(parts: &[&[u8]]) -> u64 {
    let mut hasher = hasher().build_hasher();
    for part in parts {
        hasher.write(part);
        hasher.write_u8(0xFF);
    }
    hasher.finish()
}

pub(super) fn hash_of_ip(ip: IpAddr) -> u64 {
    match ip {
        IpAddr::V4(ip) => hash_of(&[&ip.octets()]),
        IpAddr::V6(ip) => hash_of(&[&ip.octets()]),
    }
}
