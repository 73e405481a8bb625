//! Service addresses: cluster IPs and node ports, reserved before a write and kept or given back with its outcome.
//!
//! Follows upstream's `pkg/registry/core/service/storage` (`alloc.go`, `patchAllocatedValues`, `normalizeClusterIPs`)
//! and `strategy.go dropTypeDependentFields`. The allocators are memory only: the Services in the store are the truth,
//! and [`ServiceAllocator::rebuild`] reads them at start. This server is single-stack IPv4; types leave room for two.

use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::{IpNet, Ipv4Net};
use parking_lot::Mutex;
use portolan_api::alloc::{AllocError, IpAllocator, PortAllocator};
use portolan_api::{Cause, Reason};
use serde_json::{Map, Value, json};

use crate::random::random_below;
use crate::registry::meta;
use crate::status::{Result, Status, Subject};

const SUBJECT: Subject<'_> = Subject { group: "", resource: "services", kind: "Service" };

/// Hands out cluster IPs and node ports.
pub(crate) struct ServiceAllocator {
    cidr: Ipv4Net,
    ports_range: RangeInclusive<u16>,
    pool: Mutex<Pool>,
}

struct Pool {
    ips: IpAllocator,
    ports: PortAllocator,
}

/// What one write has taken and, when it succeeds, will give up. Dropped without [`keep`](Self::keep) it is undone.
#[must_use]
pub(crate) struct Reservation<'a> {
    pool: &'a Mutex<Pool>,
    taken: Holdings,
    given_up: Holdings,
}

#[derive(Default, Debug, PartialEq, Eq)]
struct Holdings {
    ips: Vec<IpAddr>,
    ports: Vec<u16>,
}

impl Reservation<'_> {
    /// The write is stored: what it took stays taken, what it gave up is free.
    pub(crate) fn keep(mut self) {
        self.taken = Holdings::default();
        self.pool.lock().release(&std::mem::take(&mut self.given_up));
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.pool.lock().release(&self.taken);
    }
}

impl Pool {
    fn release(&mut self, holdings: &Holdings) {
        for ip in &holdings.ips {
            self.ips.release(*ip);
        }
        for port in &holdings.ports {
            self.ports.release(*port);
        }
    }
}

impl ServiceAllocator {
    pub(crate) fn new(cidr: Ipv4Net, ports_range: RangeInclusive<u16>) -> ServiceAllocator {
        let pool = Pool {
            ips: IpAllocator::new(IpNet::V4(cidr)),
            ports: PortAllocator::new(ports_range.clone()),
        };
        ServiceAllocator { cidr, ports_range, pool: Mutex::new(pool) }
    }

    /// Takes what a stored Service holds. Two Services with one address is damage that only the log can tell.
    pub(crate) fn rebuild(&self, service: &Value) {
        let mut pool = self.pool.lock();
        let holdings = holdings(service);
        for ip in holdings.ips {
            if let Err(error) = pool.ips.allocate(ip) {
                tracing::warn!(service = meta::name(service), %ip, %error, "cluster IP");
            }
        }
        for port in holdings.ports {
            if let Err(error) = pool.ports.allocate(port) {
                tracing::warn!(service = meta::name(service), port, %error, "node port");
            }
        }
    }

    /// Gives back everything that a deleted Service held.
    pub(crate) fn release(&self, service: &Value) {
        self.pool.lock().release(&holdings(service));
    }

    /// Families and cluster IPs in the form that validation expects.
    pub(crate) fn prepare_for_create(&self, service: &mut Value) -> Result<()> {
        normalize_cluster_ips(service, None);
        set_families(service)
    }

    /// Fills in what the client left out but the server gave (PUT of a manifest), drops what the old type needed.
    pub(crate) fn prepare_for_update(&self, new: &mut Value, old: &Value) -> Result<()> {
        normalize_cluster_ips(new, Some(old));
        patch_allocated_values(new, old);
        drop_type_dependent_fields(new, old);
        set_families(new)
    }

    /// Takes addresses and ports for a new Service and writes them into it.
    pub(crate) fn reserve_for_create(&self, service: &mut Value) -> Result<Reservation<'_>> {
        self.reserve(service, &Holdings::default())
    }

    /// Takes what the new form of a Service needs beyond the old one.
    pub(crate) fn reserve_for_update(
        &self,
        new: &mut Value,
        old: &Value,
    ) -> Result<Reservation<'_>> {
        self.reserve(new, &holdings(old))
    }

    fn reserve(&self, service: &mut Value, held: &Holdings) -> Result<Reservation<'_>> {
        let mut reservation = Reservation {
            pool: &self.pool,
            taken: Holdings::default(),
            given_up: Holdings::default(),
        };
        let name = meta::name(service).to_owned();
        let outcome = {
            let mut pool = self.pool.lock();
            let mut grant = Grant { pool: &mut pool, held, taken: &mut reservation.taken };
            self.grant_cluster_ip(service, &mut grant)
                .and_then(|()| self.grant_node_ports(service, &mut grant))
                .and_then(|()| self.grant_health_check_port(service, &mut grant))
        };
        outcome.map_err(|cause| Status::invalid(SUBJECT, &name, &[cause]))?;
        let now = holdings(service);
        reservation.given_up = Holdings {
            ips: held.ips.iter().filter(|ip| !now.ips.contains(ip)).copied().collect(),
            ports: held.ports.iter().filter(|p| !now.ports.contains(p)).copied().collect(),
        };
        Ok(reservation)
    }

    fn grant_cluster_ip(&self, service: &mut Value, grant: &mut Grant<'_>) -> Result<(), Cause> {
        let spec = spec(service);
        if !needs_cluster_ip(spec) || is_headless(spec) {
            return Ok(());
        }
        let invalid = |ips: &Value, why: String| Cause {
            reason: Reason::Invalid,
            field: "spec.clusterIPs".into(),
            message: format!("Invalid value: {ips}: {why}"),
        };
        let asked = text(spec, "clusterIP").to_owned();
        let ip =
            if asked.is_empty() {
                grant.pool.ips.allocate_next(&mut random_below).map_err(|e| {
                    invalid(&json!([]), format!("failed to allocate a serviceIP: {e}"))
                })?
            } else {
                let ips = json!([asked]);
                let ip: IpAddr = asked.parse().map_err(|_| {
                    invalid(&ips, format!("failed to allocate IP {asked}: not an IP address"))
                })?;
                if grant.held.ips.contains(&ip) {
                    return Ok(());
                }
                grant.pool.ips.allocate(ip).map_err(|e| {
                let why = match e {
                    AllocError::NotInRange(..) => format!(
                        "the provided IP ({ip}) is not in the valid range. The range of valid IPs \
                         is {}",
                        self.cidr
                    ),
                    AllocError::Allocated(..) => "provided IP is already allocated".to_owned(),
                    other => other.to_string(),
                };
                invalid(&ips, format!("failed to allocate IP {ip}: {why}"))
            })?;
                ip
            };
        grant.taken.ips.push(ip);
        spec.insert("clusterIP".into(), ip.to_string().into());
        spec.insert("clusterIPs".into(), json!([ip.to_string()]));
        Ok(())
    }

    /// A port number served over several protocols gets one node port for all of them.
    fn grant_node_ports(&self, service: &mut Value, grant: &mut Grant<'_>) -> Result<(), Cause> {
        let spec = spec(service);
        let allocates = match text(spec, "type") {
            "NodePort" => true,
            "LoadBalancer" => {
                spec.get("allocateLoadBalancerNodePorts") != Some(&Value::Bool(false))
            }
            _ => return Ok(()),
        };
        let Some(ports) = spec.get_mut("ports").and_then(Value::as_array_mut) else {
            return Ok(());
        };
        let mut by_port: HashMap<i64, u16> = HashMap::new();
        for port in ports.iter() {
            if let (Some(number), Some(node_port)) = (port["port"].as_i64(), node_port(port)) {
                by_port.entry(number).or_insert(node_port);
            }
        }
        for (index, port) in ports.iter_mut().enumerate() {
            let number = port["port"].as_i64().unwrap_or(0);
            let asked = node_port(port);
            let wanted = asked.or_else(|| by_port.get(&number).copied().filter(|_| allocates));
            let granted = match wanted {
                Some(wanted) => grant.port(wanted).map(|()| wanted),
                None if allocates => grant.next_port(),
                None => continue,
            };
            let granted = granted.map_err(|e| Cause {
                reason: Reason::Invalid,
                field: format!("spec.ports[{index}].nodePort"),
                message: format!("Invalid value: {}: {}", wanted.unwrap_or(0), self.port_error(&e)),
            })?;
            by_port.entry(number).or_insert(granted);
            port["nodePort"] = granted.into();
        }
        Ok(())
    }

    fn grant_health_check_port(
        &self,
        service: &mut Value,
        grant: &mut Grant<'_>,
    ) -> Result<(), Cause> {
        let spec = spec(service);
        if !needs_health_check(spec) {
            return Ok(());
        }
        let wanted = u16_of(spec.get("healthCheckNodePort")).filter(|p| *p != 0);
        let granted = match wanted {
            Some(wanted) => grant.port(wanted).map(|()| wanted),
            None => grant.next_port(),
        };
        let granted = granted.map_err(|e| Cause {
            reason: Reason::Invalid,
            field: "spec.healthCheckNodePort".into(),
            message: format!("Invalid value: {}: {}", wanted.unwrap_or(0), self.port_error(&e)),
        })?;
        spec.insert("healthCheckNodePort".into(), granted.into());
        Ok(())
    }

    fn port_error(&self, error: &AllocError) -> String {
        match error {
            AllocError::Allocated(..) => "provided port is already allocated".into(),
            AllocError::NotInRange(..) => format!(
                "provided port is not in the valid range. The range of valid ports is {}-{}",
                self.ports_range.start(),
                self.ports_range.end()
            ),
            other => other.to_string(),
        }
    }
}

/// One write's view of the pool: what the Service holds already is free to it.
struct Grant<'a> {
    pool: &'a mut Pool,
    held: &'a Holdings,
    taken: &'a mut Holdings,
}

impl Grant<'_> {
    fn port(&mut self, port: u16) -> Result<(), AllocError> {
        if self.held.ports.contains(&port) || self.taken.ports.contains(&port) {
            return Ok(());
        }
        self.pool.ports.allocate(port)?;
        self.taken.ports.push(port);
        Ok(())
    }

    fn next_port(&mut self) -> Result<u16, AllocError> {
        let port = self.pool.ports.allocate_next(&mut random_below)?;
        self.taken.ports.push(port);
        Ok(port)
    }
}

fn holdings(service: &Value) -> Holdings {
    let mut holdings = Holdings::default();
    let spec = &service["spec"];
    for ip in spec["clusterIPs"].as_array().into_iter().flatten() {
        if let Some(ip) = ip.as_str().and_then(|ip| ip.parse().ok()) {
            holdings.ips.push(ip);
        }
    }
    let ports = spec["ports"].as_array().into_iter().flatten().filter_map(node_port);
    let health = u16_of(spec.get("healthCheckNodePort")).filter(|p| *p != 0);
    for port in ports.chain(health) {
        if !holdings.ports.contains(&port) {
            holdings.ports.push(port);
        }
    }
    holdings
}

fn node_port(port: &Value) -> Option<u16> {
    u16_of(port.get("nodePort")).filter(|p| *p != 0)
}

fn u16_of(value: Option<&Value>) -> Option<u16> {
    value.and_then(Value::as_u64).and_then(|v| u16::try_from(v).ok())
}

fn spec(service: &mut Value) -> &mut Map<String, Value> {
    if !service["spec"].is_object() {
        service["spec"] = json!({});
    }
    service["spec"].as_object_mut().expect("made an object above")
}

fn text<'a>(spec: &'a Map<String, Value>, field: &str) -> &'a str {
    spec.get(field).and_then(Value::as_str).unwrap_or("")
}

fn needs_cluster_ip(spec: &Map<String, Value>) -> bool {
    matches!(text(spec, "type"), "" | "ClusterIP" | "NodePort" | "LoadBalancer")
}

fn needs_node_port(spec: &Map<String, Value>) -> bool {
    text(spec, "type") == "NodePort"
        || (text(spec, "type") == "LoadBalancer"
            && spec.get("allocateLoadBalancerNodePorts") != Some(&Value::Bool(false)))
}

fn needs_health_check(spec: &Map<String, Value>) -> bool {
    text(spec, "type") == "LoadBalancer" && text(spec, "externalTrafficPolicy") == "Local"
}

fn is_headless(spec: &Map<String, Value>) -> bool {
    text(spec, "clusterIP") == "None"
}

fn is_empty_list(spec: &Map<String, Value>, field: &str) -> bool {
    spec.get(field).and_then(Value::as_array).is_none_or(Vec::is_empty)
}

/// Keeps `clusterIP` and `clusterIPs` in step for clients that know only the first.
fn normalize_cluster_ips(service: &mut Value, old: Option<&Value>) {
    let spec = spec(service);
    let ip = text(spec, "clusterIP").to_owned();
    let Some(old) = old else {
        if !ip.is_empty() && is_empty_list(spec, "clusterIPs") {
            spec.insert("clusterIPs".into(), json!([ip]));
        }
        return;
    };
    let old = &old["spec"];
    let unchanged = spec.get("clusterIPs").unwrap_or(&Value::Null) == &old["clusterIPs"];
    if ip == old["clusterIP"].as_str().unwrap_or("") || !unchanged {
        if !ip.is_empty() && is_empty_list(spec, "clusterIPs") && ip != old["clusterIP"] {
            spec.insert("clusterIPs".into(), json!([ip]));
        }
        return;
    }
    if ip.is_empty() {
        spec.remove("clusterIPs");
    } else {
        spec.insert("clusterIPs".into(), json!([ip]));
    }
}

fn patch_allocated_values(service: &mut Value, old: &Value) {
    let new = spec(service);
    let Some(old) = old["spec"].as_object() else { return };
    if needs_cluster_ip(old) && needs_cluster_ip(new) {
        if text(new, "clusterIP").is_empty() {
            copy(new, old, "clusterIP");
        }
        if is_empty_list(new, "clusterIPs") && text(new, "clusterIP") == text(old, "clusterIP") {
            copy(new, old, "clusterIPs");
        }
    }
    if needs_node_port(old) && needs_node_port(new) {
        patch_node_ports(new, old);
    }
    if needs_health_check(old)
        && needs_health_check(new)
        && u16_of(new.get("healthCheckNodePort")).unwrap_or(0) == 0
    {
        copy(new, old, "healthCheckNodePort");
    }
}

/// Ports keep their node port by name, unless another port has claimed it.
fn patch_node_ports(new: &mut Map<String, Value>, old: &Map<String, Value>) {
    let ports = |spec: &Map<String, Value>| -> Vec<Value> {
        spec.get("ports").and_then(Value::as_array).cloned().unwrap_or_default()
    };
    let old_ports = ports(old);
    let old_used: Vec<u16> = old_ports.iter().filter_map(node_port).collect();
    let mut used: Vec<u16> =
        ports(new).iter().filter_map(node_port).filter(|p| old_used.contains(p)).collect();
    let Some(new_ports) = new.get_mut("ports").and_then(Value::as_array_mut) else { return };
    for port in new_ports.iter_mut().filter(|p| node_port(p).is_none()) {
        let name = port["name"].as_str().unwrap_or("");
        let before = old_ports
            .iter()
            .rfind(|p| p["name"].as_str().unwrap_or("") == name)
            .and_then(node_port)
            .filter(|p| !used.contains(p));
        if let Some(before) = before {
            port["nodePort"] = before.into();
            used.push(before);
        }
    }
}

fn copy(new: &mut Map<String, Value>, old: &Map<String, Value>, field: &str) {
    if let Some(value) = old.get(field) {
        new.insert(field.to_owned(), value.clone());
    }
}

/// Fields that only the old type needed go, if the client did not touch them.
fn drop_type_dependent_fields(service: &mut Value, old: &Value) {
    let Some(old) = old["spec"].as_object() else { return };
    let new = spec(service);
    let same = |new: &Map<String, Value>, field: &str| new.get(field) == old.get(field);
    let drop_all = |new: &mut Map<String, Value>, fields: &[&str]| {
        for field in fields {
            if same(new, field) {
                new.remove(*field);
            }
        }
    };
    if needs_cluster_ip(old)
        && !needs_cluster_ip(new)
        && same(new, "clusterIP")
        && same(new, "clusterIPs")
    {
        drop_all(new, &["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"]);
    }
    if needs_node_port(old) && !needs_node_port(new) {
        let numbers = |spec: &Map<String, Value>| -> Vec<Option<u16>> {
            spec.get("ports")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .map(node_port)
                .collect()
        };
        if numbers(new) == numbers(old)
            && let Some(ports) = new.get_mut("ports").and_then(Value::as_array_mut)
        {
            for port in ports.iter_mut().filter_map(Value::as_object_mut) {
                port.remove("nodePort");
            }
        }
    }
    if needs_health_check(old) && !needs_health_check(new) {
        drop_all(new, &["healthCheckNodePort"]);
    }
    let load_balancer = |spec: &Map<String, Value>| text(spec, "type") == "LoadBalancer";
    let external = |spec: &Map<String, Value>| {
        matches!(text(spec, "type"), "NodePort" | "LoadBalancer")
            || !is_empty_list(spec, "externalIPs")
    };
    let was_balanced = load_balancer(old) && !load_balancer(new);
    if was_balanced {
        drop_all(new, &["allocateLoadBalancerNodePorts", "loadBalancerClass"]);
    }
    if external(old) && !external(new) {
        drop_all(new, &["externalTrafficPolicy"]);
    }
    if was_balanced && service["status"].is_object() {
        service["status"]["loadBalancer"] = json!({});
    }
}

/// `defaultOnCreate` of upstream's allocator for a cluster with one family.
fn set_families(service: &mut Value) -> Result<()> {
    let name = meta::name(service).to_owned();
    let spec = spec(service);
    if !needs_cluster_ip(spec) {
        return Ok(());
    }
    let selectorless = spec.get("selector").and_then(Value::as_object).is_none_or(Map::is_empty);
    let headless = is_headless(spec);
    let mut causes = Vec::new();
    let mut invalid = |field: &str, value: &str, why: &str| {
        causes.push(Cause {
            reason: Reason::Invalid,
            field: field.to_owned(),
            message: format!("Invalid value: {value:?}: {why}"),
        });
    };
    if headless && selectorless {
        // Its endpoints are somebody else's and may be of any family.
        spec.entry("ipFamilyPolicy").or_insert_with(|| "RequireDualStack".into());
        if is_empty_list(spec, "ipFamilies") {
            spec.insert("ipFamilies".into(), json!(["IPv4", "IPv6"]));
        }
        return Ok(());
    }
    if text(spec, "ipFamilyPolicy") == "RequireDualStack" {
        invalid(
            "spec.ipFamilyPolicy",
            "RequireDualStack",
            "this cluster is not configured for dual-stack services",
        );
    }
    for (index, family) in
        spec.get("ipFamilies").and_then(Value::as_array).into_iter().flatten().enumerate()
    {
        if family == "IPv6" {
            invalid(&format!("spec.ipFamilies[{index}]"), "IPv6", "not configured on this cluster");
        }
    }
    if !causes.is_empty() {
        return Err(Status::invalid(SUBJECT, &name, &causes));
    }
    spec.entry("ipFamilyPolicy").or_insert_with(|| "SingleStack".into());
    if is_empty_list(spec, "ipFamilies") {
        spec.insert("ipFamilies".into(), json!(["IPv4"]));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
