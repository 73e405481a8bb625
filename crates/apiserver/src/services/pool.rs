//! The index: what is taken, with the gauges that show it.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use ipnet::IpNet;
use portolan_api::alloc::{Addresses, PortAllocator};
use portolan_api::strategy::service as rules;
use serde_json::Value;
use tokio::sync::Notify;

use crate::metrics::AllocationMetrics;
use crate::registry::meta;

/// Cluster IPs and ports of one Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Holdings {
    pub(crate) ips: Vec<IpAddr>,
    /// Node ports and the health check's; each once.
    pub(crate) ports: Vec<u16>,
}

impl Holdings {
    pub(super) fn is_empty(&self) -> bool {
        self.ips.is_empty() && self.ports.is_empty()
    }

    /// What is here and not there.
    pub(super) fn without(&self, other: &Holdings) -> Holdings {
        Holdings {
            ips: self.ips.iter().filter(|ip| !other.ips.contains(ip)).copied().collect(),
            ports: self.ports.iter().filter(|p| !other.ports.contains(p)).copied().collect(),
        }
    }
}

/// What a stored Service holds. Fields that mean nothing for its type hold nothing.
pub(crate) fn holdings(service: &Value) -> Holdings {
    let mut holdings = Holdings::default();
    let spec = &service["spec"];
    if rules::needs_cluster_ip(spec) {
        let ips = spec["clusterIPs"].as_array().into_iter().flatten();
        holdings.ips = ips.filter_map(|ip| ip.as_str()?.parse().ok()).collect();
    }
    let node_ports = spec["ports"].as_array().into_iter().flatten().map(|port| &port["nodePort"]);
    let node_ports = node_ports.filter(|_| rules::may_have_node_ports(spec));
    let health = &spec["healthCheckNodePort"];
    let health = rules::needs_health_check_node_port(spec).then_some(health);
    for port in node_ports.chain(health).filter_map(Value::as_u64) {
        if let Ok(port @ 1..) = u16::try_from(port)
            && !holdings.ports.contains(&port)
        {
            holdings.ports.push(port);
        }
    }
    holdings
}

pub(crate) struct Pool {
    pub(super) addresses: Addresses,
    pub(super) ports: PortAllocator,
    pub(super) metrics: AllocationMetrics,
    /// Told when an address is given back in a range that may not be allocated from: the range may wait for that.
    pub(super) leaving: Arc<Notify>,
}

impl Pool {
    pub(super) fn new(node_ports: RangeInclusive<u16>, metrics: AllocationMetrics) -> Pool {
        let (addresses, ports) = (Addresses::default(), PortAllocator::new(node_ports));
        let pool = Pool { addresses, ports, metrics, leaving: Arc::default() };
        pool.show_ports();
        pool
    }

    /// Takes an address, whatever the ranges; false when it was taken.
    pub(super) fn take(&mut self, ip: IpAddr) -> bool {
        let is_new = self.addresses.take(ip);
        self.show(ip);
        is_new
    }

    pub(super) fn release(&mut self, ip: IpAddr) {
        self.addresses.release(ip);
        self.show(ip);
        if self.addresses.is_leaving(ip) {
            self.leaving.notify_one();
        }
    }

    pub(super) fn take_port(&mut self, port: u16) -> bool {
        let taken = self.ports.allocate(port.into()).is_ok();
        self.show_ports();
        taken
    }

    pub(super) fn release_port(&mut self, port: u16) {
        self.ports.release(port);
        self.show_ports();
    }

    pub(super) fn take_all(&mut self, holdings: &Holdings) {
        for ip in &holdings.ips {
            self.take(*ip);
        }
        for port in &holdings.ports {
            self.take_port(*port);
        }
    }

    pub(super) fn release_all(&mut self, holdings: &Holdings) {
        for ip in &holdings.ips {
            self.release(*ip);
        }
        for port in &holdings.ports {
            self.release_port(*port);
        }
    }

    /// Follows a ServiceCIDR: its ranges, and whether they may be allocated from. Without a Ready condition they may,
    /// so that nothing waits for a controller (upstream: `isReady` of the MetaAllocator).
    pub(super) fn set_cidr(&mut self, name: &str, object: Option<&Value>) {
        let before: Vec<IpNet> = self.addresses.nets().collect();
        match object {
            None => self.addresses.remove_cidr(name),
            Some(object) => {
                let cidrs = object["spec"]["cidrs"].as_array().into_iter().flatten();
                let nets: Vec<IpNet> =
                    cidrs.filter_map(|cidr| cidr.as_str()?.parse().ok()).collect();
                let conditions = object["status"]["conditions"].as_array();
                let mut conditions = conditions.into_iter().flatten();
                let ready = conditions.find(|condition| condition["type"] == "Ready");
                let is_ready = ready.is_none_or(|condition| condition["status"] == "True");
                self.addresses.set_cidr(name, &nets, is_ready && !meta::is_deleting(object));
            }
        }
        for net in before {
            if self.addresses.occupancy(net).is_none() {
                self.metrics.forget_range(net);
            }
        }
        for net in self.addresses.nets() {
            if let Some(occupancy) = self.addresses.occupancy(net) {
                self.metrics.show_range(&occupancy);
            }
        }
    }

    /// After an address of the ranges was taken or given back.
    pub(super) fn show(&self, ip: IpAddr) {
        for occupancy in self.addresses.occupancy_of(ip) {
            self.metrics.show_range(&occupancy);
        }
    }

    pub(super) fn show_ports(&self) {
        self.metrics.show_ports(self.ports.allocated(), self.ports.free());
    }
}
