//! Choosing the values: which addresses and ports a write of a Service needs beyond those it has
//! (upstream: `allocateCreate` and `allocateUpdate`).
//!
//! The Service is not validated yet, so that validation sees the whole object; nothing in it may be relied on but what
//! `settle_families` has checked.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::Instant;

use portolan_api::alloc::{AllocError, Family, What};
use portolan_api::strategy::service as rules;
use portolan_api::{Cause, Reason};
use serde_json::{Value, json};

use super::SUBJECT;
use super::pool::{Holdings, Pool};
use crate::metrics::Scope;
use crate::query::DryRun;
use crate::random::random_below;
use crate::registry::meta;
use crate::status::{Result, Status};

/// Takes what `new` needs and writes it into it. What was taken until something failed is answered as well.
pub(super) fn fill(
    pool: &mut Pool,
    new: &mut Value,
    old: Option<&Value>,
    held: &Holdings,
    dry_run: DryRun,
) -> (Holdings, Result<()>) {
    let name = meta::name(new).to_owned();
    let counted = dry_run == DryRun::Off;
    let mut grant = Grant { pool, held, taken: Holdings::default(), counted };
    let outcome = grant
        .cluster_ips(new, old)
        .and_then(|()| grant.node_ports(new))
        .and_then(|()| grant.health_check_port(new, old));
    let outcome = outcome.map_err(|refusal| match refusal {
        Refusal::Invalid(cause) => Status::invalid(SUBJECT, &name, &[cause]),
        Refusal::Internal(why) => Status::internal(why),
    });
    (grant.taken, outcome)
}

/// One write's view of the pool: what the Service holds already is free to it.
struct Grant<'a> {
    pool: &'a mut Pool,
    held: &'a Holdings,
    taken: Holdings,
    /// Whether this shows in the metrics.
    counted: bool,
}

enum Refusal {
    /// A value of the client's cannot be had.
    Invalid(Cause),
    /// There is nothing left to choose from, which no field is to blame for.
    Internal(String),
}

fn invalid(field: String, value: &Value, why: &str) -> Refusal {
    let message = format!("Invalid value: {value}: {why}");
    Refusal::Invalid(Cause { reason: Reason::Invalid, field, message })
}

impl Grant<'_> {
    fn cluster_ips(&mut self, new: &mut Value, old: Option<&Value>) -> Result<(), Refusal> {
        let spec = &new["spec"];
        let texts = |spec: &Value, field: &str| -> Vec<String> {
            let items = spec[field].as_array().into_iter().flatten();
            items.map(|item| item.as_str().unwrap_or("").to_owned()).collect()
        };
        let families = texts(spec, "ipFamilies");
        let mut ips = texts(spec, "clusterIPs");
        if !rules::needs_cluster_ip(spec) || ips.first().is_some_and(|ip| ip == "None") {
            return Ok(());
        }
        let first = match old.map(|old| &old["spec"]) {
            None => 0,
            Some(old) if !rules::needs_cluster_ip(old) => 0,
            // Anything else keeps what it has, but for the second address of a new second family.
            Some(old) => {
                let had_one = old["ipFamilies"].as_array().is_some_and(|list| list.len() == 1);
                if rules::is_headless(old) || !had_one || families.len() != 2 {
                    return Ok(());
                }
                1
            }
        };
        // An address that is yet to be chosen shows as an empty one in messages.
        ips.resize(families.len().max(ips.len()), String::new());
        let shown = json!(ips);
        for (ip, family) in ips.iter_mut().zip(&families).skip(first) {
            let Some(family) = Family::parse(family) else { continue };
            if ip.is_empty() {
                let found = self.next_address(family).map_err(|error| {
                    Refusal::Internal(format!("failed to allocate a serviceIP: {error}"))
                })?;
                *ip = found.to_string();
            } else if let Ok(asked) = ip.parse() {
                self.address(asked).map_err(|error| {
                    let why = format!("failed to allocate IP {ip}: {error}");
                    invalid("spec.clusterIPs".into(), &shown, &why)
                })?;
            }
        }
        if let Some(first) = ips.first() {
            new["spec"]["clusterIP"] = first.as_str().into();
            new["spec"]["clusterIPs"] = ips.into();
        }
        Ok(())
    }

    fn address(&mut self, ip: IpAddr) -> Result<(), AllocError> {
        if self.held.ips.contains(&ip) {
            return Ok(());
        }
        let outcome = self.pool.addresses.allocate(ip);
        self.pool.show(ip);
        match &outcome {
            Ok(net) => {
                self.taken.ips.push(ip);
                self.count(|metrics| metrics.ip_allocated(*net, Scope::Static, None));
            }
            Err(AllocError::Allocated(_)) => {
                let net = self.pool.addresses.occupancy_of(ip).next().map(|range| range.net);
                if let Some(net) = net {
                    self.count(|metrics| metrics.ip_failed(net, Scope::Static));
                }
            }
            Err(_) => {}
        }
        outcome.map(|_| ())
    }

    fn next_address(&mut self, family: Family) -> Result<IpAddr, AllocError> {
        let start = Instant::now();
        match self.pool.addresses.allocate_next(family, &mut random_below) {
            Ok((ip, net)) => {
                self.pool.show(ip);
                self.taken.ips.push(ip);
                let took = start.elapsed();
                self.count(|metrics| metrics.ip_allocated(net, Scope::Dynamic, Some(took)));
                Ok(ip)
            }
            Err(error) => {
                let nets = self.pool.addresses.nets();
                for net in nets.filter(|net| Family::of_net(*net) == family).collect::<Vec<_>>() {
                    self.count(|metrics| metrics.ip_failed(net, Scope::Dynamic));
                }
                Err(error)
            }
        }
    }

    /// A port number served over several protocols gets one node port for all of them.
    fn node_ports(&mut self, new: &mut Value) -> Result<(), Refusal> {
        let spec = &mut new["spec"];
        if !rules::may_have_node_ports(spec) {
            return Ok(());
        }
        let allocates = rules::allocates_node_ports(spec);
        let ports = spec.get_mut("ports").and_then(Value::as_array_mut);
        let Some(ports) = ports else { return Ok(()) };
        let node_port = |port: &Value| port["nodePort"].as_i64().filter(|port| *port != 0);
        let mut by_port: HashMap<i64, i64> = HashMap::new();
        for port in ports.iter() {
            if let (Some(number), Some(node_port)) = (port["port"].as_i64(), node_port(port)) {
                by_port.entry(number).or_insert(node_port);
            }
        }
        let mut seen: HashSet<(String, i64)> = HashSet::new();
        for (index, port) in ports.iter_mut().enumerate() {
            let number = port["port"].as_i64().unwrap_or(0);
            let shared = by_port.get(&number).copied().filter(|_| allocates);
            let asked = node_port(port);
            let granted = match asked.or(shared) {
                Some(wanted) => {
                    let protocol = port["protocol"].as_str().unwrap_or("").to_owned();
                    // What is shared twice is a port given twice, which validation tells.
                    let outcome = if !seen.insert((protocol, wanted)) && asked.is_some() {
                        Err(AllocError::Allocated(What::Port))
                    } else {
                        self.port(wanted)
                    };
                    outcome.map_err(|error| {
                        let field = format!("spec.ports[{index}].nodePort");
                        invalid(field, &wanted.into(), &error.to_string())
                    })?;
                    wanted
                }
                None if allocates => {
                    let found = self.next_port().map_err(|error| {
                        Refusal::Internal(format!("failed to allocate a nodePort: {error}"))
                    })?;
                    by_port.insert(number, found.into());
                    found.into()
                }
                None => continue,
            };
            port["nodePort"] = granted.into();
        }
        Ok(())
    }

    fn health_check_port(&mut self, new: &mut Value, old: Option<&Value>) -> Result<(), Refusal> {
        let spec = &new["spec"];
        let had = old.is_some_and(|old| rules::needs_health_check_node_port(&old["spec"]));
        if !rules::needs_health_check_node_port(spec) || had {
            return Ok(());
        }
        let asked = spec["healthCheckNodePort"].as_i64().unwrap_or(0);
        if asked == 0 {
            let found = self.next_port().map_err(|error| {
                Refusal::Internal(format!("failed to allocate a HealthCheck NodePort 0: {error}"))
            })?;
            new["spec"]["healthCheckNodePort"] = found.into();
            return Ok(());
        }
        self.fresh_port(asked).map_err(|error| {
            let what = "failed to allocate requested HealthCheck NodePort";
            Refusal::Internal(format!("{what} {asked}: {error}"))
        })
    }

    /// A node port that the Service may have already, now or by another of its ports.
    fn port(&mut self, port: i64) -> Result<(), AllocError> {
        let own = u16::try_from(port)
            .is_ok_and(|port| self.held.ports.contains(&port) || self.taken.ports.contains(&port));
        if own { Ok(()) } else { self.fresh_port(port) }
    }

    fn fresh_port(&mut self, port: i64) -> Result<(), AllocError> {
        let outcome = self.pool.ports.allocate(port);
        self.note_port(&outcome, Scope::Static);
        outcome.map(|_| ())
    }

    fn next_port(&mut self) -> Result<u16, AllocError> {
        let outcome = self.pool.ports.allocate_next(&mut random_below);
        self.note_port(&outcome, Scope::Dynamic);
        outcome
    }

    fn note_port(&mut self, outcome: &Result<u16, AllocError>, scope: Scope) {
        if let Ok(port) = outcome {
            self.taken.ports.push(*port);
            self.pool.show_ports();
        }
        let succeeded = outcome.is_ok();
        self.count(|metrics| metrics.port(scope, succeeded));
    }

    fn count(&self, what: impl FnOnce(&crate::metrics::AllocationMetrics)) {
        if self.counted {
            what(&self.pool.metrics);
        }
    }
}
