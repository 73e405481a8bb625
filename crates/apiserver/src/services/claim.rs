//! A claim: what a write has taken, and what happens with it when the outcome is known.

use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use portolan_store::{Op, Store, StoreError};
use serde_json::Value;

use super::objects::{self, Release, address_object};
use super::pool::{Holdings, Pool, holdings};
use super::{ip_address_kind, service_cidr_kind};
use crate::registry::meta;
use crate::status::{Result, Status};

/// What one write has taken and, when it succeeds, gives up. Dropped before that, it is undone.
#[must_use]
pub(crate) struct Claim {
    pool: Option<Arc<Mutex<Pool>>>,
    taken: Holdings,
    given_up: Holdings,
    then: Then,
}

/// What the write is, beside taking and giving up.
enum Then {
    /// Nothing more.
    Nothing,
    /// A Service that held this before.
    Service { held: Holdings },
    /// The end of a Service.
    Removal,
    /// A ServiceCIDR whose new state the pool must follow.
    Cidr { store: Store, name: String },
}

impl Claim {
    fn new(pool: &Arc<Mutex<Pool>>, taken: Holdings, given_up: Holdings, then: Then) -> Claim {
        Claim { pool: Some(pool.clone()), taken, given_up, then }
    }

    pub(super) fn nothing() -> Claim {
        let (taken, given_up) = (Holdings::default(), Holdings::default());
        Claim { pool: None, taken, given_up, then: Then::Nothing }
    }

    pub(super) fn service(pool: &Arc<Mutex<Pool>>, held: Holdings, taken: Holdings) -> Claim {
        Claim::new(pool, taken, Holdings::default(), Then::Service { held })
    }

    pub(super) fn removal(pool: &Arc<Mutex<Pool>>, service: &Value) -> Claim {
        Claim::new(pool, Holdings::default(), holdings(service), Then::Removal)
    }

    pub(super) fn address(pool: &Arc<Mutex<Pool>>, ip: IpAddr) -> Claim {
        let taken = Holdings { ips: vec![ip], ports: Vec::new() };
        Claim::new(pool, taken, Holdings::default(), Then::Nothing)
    }

    pub(super) fn address_removal(pool: &Arc<Mutex<Pool>>, ip: IpAddr) -> Claim {
        let given_up = Holdings { ips: vec![ip], ports: Vec::new() };
        Claim::new(pool, Holdings::default(), given_up, Then::Nothing)
    }

    pub(super) fn service_cidr(pool: &Arc<Mutex<Pool>>, store: &Store, name: &str) -> Claim {
        let then = Then::Cidr { store: store.clone(), name: name.to_owned() };
        Claim::new(pool, Holdings::default(), Holdings::default(), then)
    }

    /// Whether the outcome of the write means nothing to the pool.
    pub(crate) fn is_nothing(&self) -> bool {
        self.pool.is_none()
    }

    /// The operations that belong into the transaction that writes (or removes) `object`.
    ///
    /// # Errors
    /// 500 for an object that has what it was not given: our mistake, and not to be stored.
    pub(crate) fn operations(&mut self, store: &Store, object: &Value) -> Result<Vec<Op>> {
        let (namespace, name) = (meta::text(object, "namespace"), meta::name(object));
        match &self.then {
            Then::Nothing | Then::Cidr { .. } => return Ok(Vec::new()),
            Then::Removal => {}
            Then::Service { held } => {
                let now = holdings(object);
                let unfounded = now.without(held).without(&self.taken);
                if !unfounded.is_empty() {
                    let what = format!("{namespace}/{name} has values nobody gave it");
                    return Err(Status::internal(format!("{what}: {unfounded:?}")));
                }
                self.given_up = held.without(&now);
            }
        }
        let kind = ip_address_kind();
        let mut operations: Vec<Op> = self
            .taken
            .ips
            .iter()
            .map(|ip| Op::Create {
                key: kind.key(None, &ip.to_string()),
                value: address_object(*ip, namespace, name),
            })
            .collect();
        self.given_up.ips.retain(|ip| match objects::release(store, *ip, namespace, name) {
            Release::Free => true,
            Release::Kept => false,
            Release::Write(operation) => {
                operations.push(operation);
                true
            }
            Release::Marked(operation) => {
                operations.push(operation);
                false
            }
        });
        Ok(operations)
    }

    /// The outcome of the transaction: stored, what was taken stays taken and what was given up is free; else the
    /// other way round.
    pub(crate) fn finish<T>(mut self, outcome: &Result<T, StoreError>) {
        let Some(pool) = self.pool.clone() else { return };
        match outcome {
            Ok(_) => {
                self.taken = Holdings::default();
                let mut pool = pool.lock();
                pool.release_all(&self.given_up);
                if let Then::Cidr { store, name } = &self.then {
                    sync_cidr(&mut pool, store, name);
                }
            }
            // The object of an address exists that the pool took for free: from now on it knows better.
            Err(StoreError::Exists { key }) => {
                let kind = ip_address_kind();
                self.taken.ips.retain(|ip| kind.key(None, &ip.to_string()) != *key);
            }
            Err(_) => {}
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(pool) = &self.pool
            && !self.taken.is_empty()
        {
            pool.lock().release_all(&self.taken);
        }
    }
}

/// Reads the store with the pool locked, so that of two writes the later one has the last word.
pub(super) fn sync_cidr(pool: &mut Pool, store: &Store, name: &str) {
    let stored = store.get(&service_cidr_kind().key(None, name));
    pool.set_cidr(name, stored.as_ref().map(|stored| &*stored.value));
}
