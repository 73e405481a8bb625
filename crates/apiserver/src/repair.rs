//! Loops that keep what belongs to Services true: IPAddress objects, node ports, ServiceCIDRs.
//!
//! They live in the server and not among the controllers, as upstream's repair loops do: they compare the objects with
//! the allocators' memory, which no client can see, and must do it under the allocators' lock. The ServiceCIDR
//! controller, which upstream runs apart, is here for the same reason: whether an address still depends on a range is
//! asked of the allocator itself, writes on their way included, so no grace period has to stand in for that.
//!
//! Each loop is a plan (pure, over what it is shown) and a runner here. Normal operation gives them nothing to do: a
//! Service and its addresses are one transaction. What they mend is the work of others: objects deleted or changed by
//! hand, and stores written before there were IPAddress objects.

mod addresses;
mod cidrs;
mod events;
mod ports;

use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use jiff::Timestamp;
use portolan_api::kinds::Subresource;
use portolan_store::{Event, ListOptions, Op, StoreError, Stored, Watch, WatchError};
use serde_json::{Value, json};
use tokio::time::MissedTickBehavior;

use self::addresses::{Fix, World};
use self::cidrs::Part;
use self::ports::Leaks;
use crate::Error;
use crate::query::DryRun;
use crate::registry::{DeleteOptions, Ownership, Registry, Target, meta};
use crate::server::Inner;
use crate::services::{
    address_object, ip_address_kind, parent_of, service_cidr_kind, service_kind,
};

/// How often everything is looked at (upstream: the repair interval).
const PERIOD: Duration = Duration::from_secs(180);
/// The ServiceCIDR of the server's own configuration.
const DEFAULT_CIDR: &str = "kubernetes";
/// Before a failed watch is started again.
const PAUSE: Duration = Duration::from_millis(100);

/// Makes the ServiceCIDR of the configuration, or adds the second family to it. One that says something else stays as
/// it is: addresses are in use, and only its owner can tell what is meant.
pub(crate) async fn default_cidr(inner: &Inner) -> Result<(), Error> {
    let registry = &inner.registry;
    let cidrs: Vec<String> = inner.config.service_cidrs.iter().map(ToString::to_string).collect();
    let kind = service_cidr_kind();
    let target = Target { kind, namespace: None, name: DEFAULT_CIDR.to_owned() };
    let refused = |status: crate::status::Status| Error::Store(status.message);
    match registry.store.get(&target.key()) {
        None => {
            let object = json!({
                "apiVersion": "networking.k8s.io/v1",
                "kind": "ServiceCIDR",
                "metadata": {"name": DEFAULT_CIDR},
                "spec": {"cidrs": cidrs},
            });
            registry
                .create(kind, None, object, &Ownership::Server, DryRun::Off)
                .await
                .map_err(refused)?;
        }
        Some(stored) => {
            let is = stored.value["spec"]["cidrs"].clone();
            if cidrs.len() == 2 && is == json!(cidrs[..1]) {
                let mut object = (*stored.value).clone();
                object["spec"]["cidrs"] = json!(cidrs);
                registry
                    .update(&target, None, object, &Ownership::Server, DryRun::Off)
                    .await
                    .map_err(refused)?;
            } else if is != json!(cidrs) {
                let why = format!(
                    "The default ServiceCIDR {is} does not match the flag configurations {}",
                    json!(cidrs)
                );
                let reason = "KubernetesDefaultServiceCIDRInconsistent";
                events::warn(registry, cidrs::COMPONENT, &stored.value, reason, &why).await;
            }
        }
    }
    // Protected and ready before the first request, without waiting for the loop: one step each.
    for _ in 0..2 {
        sync_cidrs(registry).await;
    }
    Ok(())
}

/// Runs the loops until the server is gone.
pub(crate) async fn run(inner: Weak<Inner>) {
    let mut leaks = Leaks::default();
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let Some(strong) = inner.upgrade() else { return };
        let Some(mut watches) = Watches::start(&strong.registry) else { return };
        let leaving = strong.registry.services.leaving();
        drop(strong);
        loop {
            let happened = tokio::select! {
                _ = ticks.tick() => Ok(Happened::Tick),
                () = leaving.notified() => Ok(Happened::Leaving),
                event = watches.services.next() => event.map(Happened::Service),
                event = watches.networking.next() => event.map(Happened::Networking),
            };
            let Some(strong) = inner.upgrade() else { return };
            let registry = &strong.registry;
            match happened {
                Ok(Happened::Tick) => full_pass(registry, &mut leaks).await,
                Ok(Happened::Leaving) => sync_cidrs(registry).await,
                Ok(Happened::Service(event)) => service_changed(registry, event).await,
                Ok(Happened::Networking(event)) => networking_changed(registry, event).await,
                Err(WatchError::Closed) => return,
                // What was missed, the full pass sees.
                Err(_) => {
                    full_pass(registry, &mut leaks).await;
                    break;
                }
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

enum Happened {
    Tick,
    /// An address was given back in a range that is going. Its object's deletion is seen earlier than that.
    Leaving,
    Service(Event),
    Networking(Event),
}

struct Watches {
    services: Watch,
    /// IPAddresses, ServiceCIDRs, and what else the group has.
    networking: Watch,
}

impl Watches {
    fn start(registry: &Registry) -> Option<Watches> {
        let from = registry.store.revision();
        let watch = |prefix: &str| registry.store.watch(prefix, from).ok();
        let cidrs = service_cidr_kind().prefix(None);
        let group = &cidrs[..cidrs.trim_end_matches('/').rfind('/')? + 1];
        Some(Watches { services: watch(&service_kind().prefix(None))?, networking: watch(group)? })
    }
}

async fn service_changed(registry: &Arc<Registry>, event: Event) {
    let Event::Put { stored, previous } = event else { return };
    let ips = |stored: &Stored| stored.value["spec"]["clusterIPs"].clone();
    if previous.is_none_or(|previous| ips(&previous) != ips(&stored)) {
        check_service(registry, &stored.value).await;
    }
}

async fn networking_changed(registry: &Arc<Registry>, event: Event) {
    let is_of = |kind: &portolan_api::Kind| event.key().starts_with(&kind.prefix(None));
    if is_of(service_cidr_kind()) {
        sync_cidrs(registry).await;
    }
    if !is_of(ip_address_kind()) {
        return;
    }
    match event {
        Event::Put { stored, .. } => {
            check_address(registry, &stored.value).await;
            check_parent(registry, &stored.value).await;
        }
        Event::Delete { stored, .. } => check_parent(registry, &stored.value).await,
    }
}

async fn check_parent(registry: &Arc<Registry>, address: &Value) {
    let parent = parent_of(address).and_then(|(namespace, name)| registry.service(namespace, name));
    if let Some(service) = parent {
        check_service(registry, &service.value).await;
    }
}

async fn check_service(registry: &Arc<Registry>, service: &Value) {
    for fix in addresses::check_service(&**registry, service) {
        apply(registry, service, fix).await;
    }
}

async fn check_address(registry: &Arc<Registry>, address: &Value) {
    if let Some(fix) = addresses::check_address(&**registry, address, Timestamp::now()) {
        apply(registry, address, fix).await;
    }
}

async fn full_pass(registry: &Arc<Registry>, leaks: &mut Leaks) {
    sync_cidrs(registry).await;
    let all = |kind: &portolan_api::Kind| {
        let page = registry.store.list(&kind.prefix(None), ListOptions::default());
        page.map(|page| page.items).unwrap_or_default()
    };
    let services = all(service_kind());
    for service in &services {
        check_service(registry, &service.value).await;
    }
    for address in all(ip_address_kind()) {
        check_address(registry, &address.value).await;
    }
    let (taken, range) = registry.services.node_ports();
    let plan = ports::plan(&taken, &range, services.iter().map(|s| &*s.value), leaks);
    for missing in plan.missing {
        let service = &services[missing.service];
        let still_has = || {
            let now = registry.store.get(&service.key);
            now.is_some_and(|now| ports::of(&now.value).contains(&missing.port))
        };
        if registry.services.adopt_node_port(missing.port, still_has) {
            let why = format!("Port {} is not allocated; repairing", missing.port);
            let reason = "PortNotAllocated";
            events::warn(registry, ports::COMPONENT, &service.value, reason, &why).await;
        }
    }
    for finding in plan.findings {
        let about = &services[finding.service].value;
        events::warn(registry, ports::COMPONENT, about, finding.reason, &finding.message).await;
    }
    for port in plan.leaked {
        tracing::warn!(port, "the node port appears to have leaked: cleaning up");
        registry.services.release_node_port(port);
    }
}

async fn apply(registry: &Arc<Registry>, about: &Value, fix: Fix) {
    if let Some((reason, message)) = &fix.event {
        events::warn(registry, addresses::COMPONENT, about, reason, message).await;
    }
    let (delete, create) = (fix.delete, fix.create);
    if let Some(ip) = delete {
        let name = ip.to_string();
        let target = Target { kind: ip_address_kind(), namespace: None, name };
        let options = DeleteOptions::from_value(&Value::Null);
        if let Err(status) = registry.delete(&target, &options).await
            && status.reason != "NotFound"
        {
            tracing::warn!(%ip, error = %status.message, "an IPAddress stays wrong for now");
            return;
        }
    }
    if let Some(ip) = create {
        create_address(registry, about, ip).await;
    }
}

/// Writes the object of an address that a Service has. The pool knows the address or is told.
async fn create_address(registry: &Arc<Registry>, service: &Value, ip: IpAddr) {
    let was_free = registry.services.take(ip);
    let value = address_object(ip, meta::text(service, "namespace"), meta::name(service));
    let key = ip_address_kind().key(None, &ip.to_string());
    match registry.store.commit(vec![Op::Create { key, value }]).await {
        Ok(_) | Err(StoreError::Exists { .. }) => {}
        Err(error) => {
            tracing::warn!(%ip, %error, "an IPAddress is still missing");
            if was_free {
                registry.services.release(ip);
            }
        }
    }
}

impl World for Registry {
    fn address(&self, ip: IpAddr) -> Option<Stored> {
        self.store.get(&ip_address_kind().key(None, &ip.to_string()))
    }

    fn service(&self, namespace: &str, name: &str) -> Option<Stored> {
        self.store.get(&service_kind().key(Some(namespace), name))
    }

    fn covers(&self, ip: IpAddr) -> bool {
        self.services.covers(ip)
    }
}

/// Brings every ServiceCIDR one step forward; what is written comes back as an event.
async fn sync_cidrs(registry: &Arc<Registry>) {
    let kind = service_cidr_kind();
    let page = registry.store.list(&kind.prefix(None), ListOptions::default());
    for stored in page.map(|page| page.items).unwrap_or_default() {
        let name = meta::name(&stored.value).to_owned();
        // The pool must know that a range is going before it is asked who depends on it.
        registry.services.sync_cidr(&name);
        let depends = || registry.services.depends_on(&name);
        let plan = cidrs::plan(&stored.value, depends, Timestamp::now());
        let Some((part, mut object)) = plan else { continue };
        // Another writer's change is an event, and this is then planned anew.
        object["metadata"]["resourceVersion"] = stored.revision.to_string().into();
        let part = (part == Part::Status).then_some(Subresource::Status);
        let target = Target { kind, namespace: None, name };
        if let Err(status) =
            registry.update(&target, part, object, &Ownership::Server, DryRun::Off).await
            && !matches!(status.reason, "Conflict" | "NotFound")
        {
            tracing::warn!(cidr = target.name, error = %status.message, "service CIDR");
            let (reason, why) =
                ("KubernetesServiceCIDRError", "The ServiceCIDR can not be updated");
            events::warn(registry, cidrs::COMPONENT, &stored.value, reason, why).await;
        }
    }
}
