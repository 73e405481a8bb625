//! What Services hold beside their own key: cluster IPs and node ports, taken before a write and kept or given back
//! with its outcome; and the IPAddress object of each cluster IP, written in the same transaction as the Service.
//!
//! ```text
//!   begin ──▶ Claim: taken in memory ──▶ validation ──▶ commit: Service and IPAddresses, one transaction
//!                │ dropped: given back                     │ failed: given back   │ stored: what the Service
//!                ▼                                         ▼                      ▼ no longer has is free
//! ```
//!
//! The store is the truth; the [`Pool`] is an index over it, rebuilt at start and kept by every write of the three
//! kinds, so that an allocation never lists anything. Invariant: what an IPAddress object or a Service has is taken,
//! and what is taken belongs to one of those or to a write on its way.
//!
//! Upstream: `pkg/registry/core/service/storage/alloc.go`, `ipallocator`, `portallocator`.

mod claim;
mod grant;
mod objects;
mod pool;

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use ipnet::IpNet;
use parking_lot::Mutex;
use portolan_api::alloc::Family;
use portolan_api::{Kind, kinds};
use portolan_store::{ListOptions, Store, StoreError, Stored};
use serde_json::Value;
use tokio::sync::Notify;

pub(crate) use self::claim::Claim;
pub(crate) use self::objects::{address_object, has_our_labels, is_ours, parent_of};
use self::pool::Pool;
pub(crate) use self::pool::holdings;
use crate::metrics::AllocationMetrics;
use crate::query::DryRun;
use crate::registry::meta;
use crate::status::{Result, Status, Subject};

const SUBJECT: Subject<'_> = Subject { group: "", resource: "services", kind: "Service" };

/// Hands out cluster IPs and node ports.
pub(crate) struct ServiceAllocator {
    store: Store,
    /// Of the configured ranges, the primary one first.
    families: Vec<Family>,
    pool: Arc<Mutex<Pool>>,
}

impl ServiceAllocator {
    /// An allocator for the families of `ranges`; [`rebuild`](Self::rebuild) fills it.
    pub(crate) fn new(
        store: Store,
        ranges: &[IpNet],
        node_ports: RangeInclusive<u16>,
        metrics: AllocationMetrics,
    ) -> ServiceAllocator {
        let families = ranges.iter().map(|range| Family::of_net(*range)).collect();
        let pool = Arc::new(Mutex::new(Pool::new(node_ports, metrics)));
        ServiceAllocator { store, families, pool }
    }

    /// Takes what the stored objects hold. Values that two Services claim are taken once; the repair loop tells.
    ///
    /// # Errors
    /// The store is closed.
    pub(crate) fn rebuild(&self) -> Result<(), StoreError> {
        let all = |kind: &Kind| -> Result<Vec<Stored>, StoreError> {
            Ok(self.store.list(&kind.prefix(None), ListOptions::default())?.items)
        };
        let (cidrs, addresses) = (all(service_cidr_kind())?, all(ip_address_kind())?);
        let services = all(service_kind())?;
        let mut pool = self.pool.lock();
        for cidr in cidrs {
            pool.set_cidr(meta::name(&cidr.value), Some(&cidr.value));
        }
        let named = addresses.iter().filter_map(|address| meta::name(&address.value).parse().ok());
        for ip in named {
            pool.take(ip);
        }
        for service in services {
            pool.take_all(&holdings(&service.value));
        }
        Ok(())
    }

    /// What a write of `new` takes; values that the server chooses are written into it. `old` is there on updates.
    ///
    /// # Errors
    /// 409 (an IPAddress that is in use), 422 (families, addresses or ports that cannot be had), 500 (none left).
    pub(crate) fn begin(
        &self,
        kind: &'static Kind,
        new: &mut Value,
        old: Option<&Value>,
        dry_run: DryRun,
    ) -> Result<Claim> {
        match (kind.group, kind.kind) {
            ("", "Service") => self.begin_service(new, old, dry_run),
            ("networking.k8s.io", "IPAddress") if old.is_none() && dry_run == DryRun::Off => {
                let name = meta::name(new);
                // A name that is no address is for validation to refuse.
                let Ok(ip) = name.parse() else { return Ok(Claim::nothing()) };
                if !self.pool.lock().take(ip) {
                    let subject = crate::registry::subject(kind);
                    return Err(Status::already_exists(subject, name));
                }
                Ok(Claim::address(&self.pool, ip))
            }
            _ => Ok(self.watch(kind, meta::name(new))),
        }
    }

    /// What a write of anything else means for the pool, once it is stored.
    pub(crate) fn watch(&self, kind: &'static Kind, name: &str) -> Claim {
        match (kind.group, kind.kind) {
            ("networking.k8s.io", "ServiceCIDR") => {
                Claim::service_cidr(&self.pool, &self.store, name)
            }
            _ => Claim::nothing(),
        }
    }

    /// What the removal of an object gives back.
    pub(crate) fn end(&self, kind: &'static Kind, object: &Value) -> Claim {
        match (kind.group, kind.kind) {
            ("", "Service") => Claim::removal(&self.pool, object),
            ("networking.k8s.io", "IPAddress") => match meta::name(object).parse() {
                Ok(ip) => Claim::address_removal(&self.pool, ip),
                Err(_) => Claim::nothing(),
            },
            _ => self.watch(kind, meta::name(object)),
        }
    }

    fn begin_service(
        &self,
        new: &mut Value,
        old: Option<&Value>,
        dry_run: DryRun,
    ) -> Result<Claim> {
        let name = meta::name(new).to_owned();
        portolan_api::strategy::service::settle_families(new, old, &self.families)
            .map_err(|causes| Status::invalid(SUBJECT, &name, &causes))?;
        let held = old.map(holdings).unwrap_or_default();
        let mut pool = self.pool.lock();
        let (granted, outcome) = grant::fill(&mut pool, new, old, &held, dry_run);
        // Given back before anybody else can look: a dry run takes nothing.
        if outcome.is_err() || dry_run == DryRun::All {
            pool.release_all(&granted);
        }
        outcome?;
        drop(pool);
        Ok(match dry_run {
            DryRun::All => Claim::nothing(),
            DryRun::Off => Claim::service(&self.pool, held, granted),
        })
    }

    /// Brings the pool up to what the store says about a ServiceCIDR.
    pub(crate) fn sync_cidr(&self, name: &str) {
        claim::sync_cidr(&mut self.pool.lock(), &self.store, name);
    }

    /// An address in use that no ServiceCIDR but this one gives a home.
    pub(crate) fn depends_on(&self, cidr: &str) -> Option<IpAddr> {
        self.pool.lock().addresses.homeless_without(cidr)
    }

    /// Woken when a range that is going may have lost the last address that kept it.
    pub(crate) fn leaving(&self) -> Arc<Notify> {
        self.pool.lock().leaving.clone()
    }

    /// Whether any ServiceCIDR has this address.
    pub(crate) fn covers(&self, ip: IpAddr) -> bool {
        self.pool.lock().addresses.covers(ip)
    }

    /// Takes an address that an object was found to have; false when it was taken.
    pub(crate) fn take(&self, ip: IpAddr) -> bool {
        self.pool.lock().take(ip)
    }

    /// Gives an address back that was taken for an object that could not be stored.
    pub(crate) fn release(&self, ip: IpAddr) {
        self.pool.lock().release(ip);
    }

    /// The node ports that are taken, and their range as messages show it.
    pub(crate) fn node_ports(&self) -> (Vec<u16>, String) {
        let pool = self.pool.lock();
        (pool.ports.taken().collect(), pool.ports.range())
    }

    /// Takes a node port if `belongs` says so, asked while nothing can be taken or given back; whether it was missing.
    pub(crate) fn adopt_node_port(&self, port: u16, belongs: impl FnOnce() -> bool) -> bool {
        let mut pool = self.pool.lock();
        !pool.ports.has(port) && belongs() && pool.take_port(port)
    }

    /// Gives a node port back that nothing has.
    pub(crate) fn release_node_port(&self, port: u16) {
        self.pool.lock().release_port(port);
    }
}

pub(crate) fn service_kind() -> &'static Kind {
    kinds::by_kind("v1", "Service").expect("the table of kinds has Service")
}

pub(crate) fn ip_address_kind() -> &'static Kind {
    kinds::by_kind("networking.k8s.io/v1", "IPAddress").expect("the table of kinds has IPAddress")
}

pub(crate) fn service_cidr_kind() -> &'static Kind {
    kinds::by_kind("networking.k8s.io/v1", "ServiceCIDR")
        .expect("the table of kinds has ServiceCIDR")
}

#[cfg(test)]
mod tests;
