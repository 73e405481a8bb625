//! IPAddress objects against Services: each cluster IP has one that names its Service, and each that is ours names a
//! Service that has it (upstream: `ipallocator/controller/repairip.go`).
//!
//! ```text
//!   Service_X [ip] ◀──▶ IPAddress [Service_X]   fine
//!   Service_Y [ip] ───▶ IPAddress [Gateway_A]   wrong reference: made anew
//!   Service_Z [ip] ───▶ nothing                 missing: made
//!   Service_B [ip] ───▶ IPAddress [Service_A]   two Services, one address: only the owner can mend it
//!                       IPAddress [Service_C]   leaked: deleted
//! ```

use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use portolan_api::alloc::Family;
use portolan_store::Stored;
use serde_json::Value;

use crate::registry::meta;
use crate::services::{has_our_labels, is_ours, parent_of};

pub(super) const COMPONENT: &str = "ipallocator-repair-controller";
/// An address may be there before its Service, if something else makes both.
const GRACE: SignedDuration = SignedDuration::from_secs(60);

/// What the plan looks at.
pub(super) trait World {
    fn address(&self, ip: IpAddr) -> Option<Stored>;
    fn service(&self, namespace: &str, name: &str) -> Option<Stored>;
    /// Whether any ServiceCIDR has the address.
    fn covers(&self, ip: IpAddr) -> bool;
}

/// One finding: what to tell, and what to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Fix {
    /// Reason and message.
    pub(super) event: Option<(&'static str, String)>,
    pub(super) delete: Option<IpAddr>,
    /// For the Service that was checked.
    pub(super) create: Option<IpAddr>,
}

fn event(reason: &'static str, message: String) -> Fix {
    Fix { event: Some((reason, message)), ..Fix::default() }
}

/// Checks each address of a Service.
pub(super) fn check_service(world: &impl World, service: &Value) -> Vec<Fix> {
    let ips = service["spec"]["clusterIPs"].as_array().into_iter().flatten();
    let has_ip = service["spec"]["type"] != "ExternalName";
    let ips = ips.filter_map(Value::as_str).filter(|ip| has_ip && !matches!(*ip, "" | "None"));
    ips.filter_map(|text| match text.parse() {
        Ok(ip) => check_cluster_ip(world, service, ip),
        Err(_) => {
            let message = format!("Cluster IP {text} is not a valid IP; please recreate Service");
            Some(event("ClusterIPNotValid", message))
        }
    })
    .collect()
}

fn check_cluster_ip(world: &impl World, service: &Value, ip: IpAddr) -> Option<Fix> {
    let (namespace, name) = (meta::text(service, "namespace"), meta::name(service));
    let family = Family::of(ip).as_str();
    if !world.covers(ip) {
        let message = format!(
            "Cluster IP [{family}]: {ip} is not within any configured Service CIDR; please recreate service"
        );
        return Some(event("ClusterIPOutOfRange", message));
    }
    let Some(address) = world.address(ip) else {
        let message = format!("Cluster IP [{family}]: {ip} is not allocated; repairing");
        return Some(Fix { create: Some(ip), ..event("ClusterIPNotAllocated", message) });
    };
    let anew = Fix { delete: Some(ip), create: Some(ip), event: None };
    let wrong = || {
        let message = format!(
            "the ClusterIP [{family}]: {ip} for Service {namespace}/{name} has a wrong reference; repairing"
        );
        Some(Fix { event: Some(("ClusterIPNotAllocated", message)), ..anew.clone() })
    };
    match parent_of(&address.value) {
        None => return wrong(),
        Some(parent) if parent == (namespace, name) => {}
        Some((namespace, name)) => match world.service(namespace, name) {
            Some(other) if has_ip(&other.value, ip) => {
                let message = format!(
                    "Cluster IP [{family}]:{ip} was assigned to multiple services; please recreate service"
                );
                return Some(event("ClusterIPAlreadyAllocated", message));
            }
            _ => return wrong(),
        },
    }
    (!has_our_labels(&address.value)).then_some(anew)
}

/// Checks that an address that is ours belongs to a Service that has it.
pub(super) fn check_address(world: &impl World, address: &Value, now: Timestamp) -> Option<Fix> {
    // Others may keep addresses here that are theirs.
    if !is_ours(address) || meta::is_deleting(address) {
        return None;
    }
    let name = meta::name(address);
    let ip: IpAddr = name.parse().ok()?;
    let delete = |reason, message| Some(Fix { delete: Some(ip), ..event(reason, message) });
    let Some((namespace, service)) = parent_of(address) else {
        let parent = &address["spec"]["parentRef"];
        return delete(
            "IPAddressNotAllocated",
            format!(
                "IPAddress {name} appears to have been modified, not referencing a Service {parent}: cleaning up"
            ),
        );
    };
    let Some(found) = world.service(namespace, service) else {
        let made: Option<Timestamp> = meta::text(address, "creationTimestamp").parse().ok();
        if made.is_some_and(|made| now.duration_since(made) <= GRACE) {
            return None;
        }
        return delete(
            "IPAddressNotAllocated",
            format!(
                "IPAddress: {name} for Service {namespace}/{service} appears to have leaked: cleaning up"
            ),
        );
    };
    if has_ip(&found.value, ip) {
        return None;
    }
    delete(
        "IPAddressWrongReference",
        format!(
            "IPAddress: {name} for Service {namespace}/{service} has a wrong reference; cleaning up"
        ),
    )
}

fn has_ip(service: &Value, ip: IpAddr) -> bool {
    let ips = service["spec"]["clusterIPs"].as_array().into_iter().flatten();
    ips.filter_map(Value::as_str).any(|text| text.parse() == Ok(ip))
}

#[cfg(test)]
mod tests;
