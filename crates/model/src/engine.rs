//! The model: takes events, keeps the forwarding table, and says what changed.
//!
//! An event only marks the Services that it touches; [`Model::flush`] works each of them out anew and
//! compares with what it contributed before. So events coalesce, and the work of a flush is in
//! proportion to the endpoints of the Services touched.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

use crate::claims::{Claims, SetIds, SetKey};
use crate::delta::{Change, note};
use crate::endpoints::Selected;
use crate::few::Few;
use crate::input::{EndpointSlice, LocalhostNodePorts, Service, SessionAffinity};
use crate::service::{Contribution, Owner, Surroundings, contribute};
use crate::table::{EndpointSet, FrontKey, HealthCheck, Settings};
use crate::{Config, Delta, Event, Family, ForwardingTable, Front, NamespacedName, Node, NodePort};

/// Services, EndpointSlices and a Node as one forwarding table of one family.
#[derive(Debug, Clone)]
pub struct Model {
    config: Config,
    node: Node,
    services: BTreeMap<NamespacedName, State>,
    /// The Service of each EndpointSlice: a deletion names only the slice, and the label can change.
    slices: HashMap<NamespacedName, NamespacedName>,
    touched: BTreeSet<NamespacedName>,
    settings: Settings,
    fronts: Claims<FrontKey, Owner, Front>,
    cluster_ips: Claims<IpAddr, NamespacedName, ()>,
    hairpins: Claims<IpAddr, NamespacedName, ()>,
    health_checks: Claims<NodePort, NamespacedName, HealthCheck>,
    source_prefixes: Claims<u8, NamespacedName, ()>,
    set_ids: SetIds,
    table: ForwardingTable,
}

/// What is known of one Service, and what it has in the table.
#[derive(Debug, Clone, Default)]
struct State {
    service: Option<Service>,
    slices: Few<NamespacedName, EndpointSlice>,
    fronts: Few<(FrontKey, Owner)>,
    sets: Few<SetKey>,
    cluster_ips: Few<IpAddr>,
    hairpins: Few<IpAddr>,
    health_check: Option<NodePort>,
    source_prefixes: Few<u8>,
}

impl Model {
    /// A model that knows no object yet.
    pub fn new(family: Family, config: Config) -> Self {
        let settings = Settings {
            local_detector: config.local_detector.for_family(family),
            localhost_node_ports: match family {
                Family::Ipv4 => config.localhost_node_ports,
                Family::Ipv6 => LocalhostNodePorts::Off,
            },
            ..Settings::default()
        };
        Self {
            config,
            node: Node::default(),
            services: BTreeMap::new(),
            slices: HashMap::new(),
            touched: BTreeSet::new(),
            fronts: Claims::default(),
            cluster_ips: Claims::default(),
            hairpins: Claims::default(),
            health_checks: Claims::default(),
            source_prefixes: Claims::default(),
            set_ids: SetIds::default(),
            table: ForwardingTable::new(family, settings.clone()),
            settings,
        }
    }

    /// The table as of the last flush.
    pub fn table(&self) -> &ForwardingTable {
        &self.table
    }

    /// The fronts that a Service claims, whether it has them or another one does. Costs as much as
    /// there are.
    pub fn fronts_of(&self, service: &NamespacedName) -> impl Iterator<Item = FrontKey> {
        let claims = self.services.get(service).into_iter().flat_map(|state| state.fronts.keys());
        claims.map(|(key, _)| *key)
    }

    /// Takes note of an event; the table changes at the next flush.
    pub fn apply(&mut self, event: Event) {
        let family = self.table.family;
        match event {
            // One without an address of this family contributes nothing.
            Event::Service(service)
                if !service.cluster_ips.iter().any(|ip| Family::of(*ip) == family) =>
            {
                self.drop_service(service.name);
            }
            Event::Service(service) => {
                let state = self.services.entry(service.name.clone()).or_default();
                if state.service.as_ref() != Some(&service) {
                    self.touched.insert(service.name.clone());
                    state.service = Some(service);
                }
            }
            Event::ServiceDeleted(name) => self.drop_service(name),
            Event::EndpointSlice(slice) => self.put_slice(slice),
            Event::EndpointSliceDeleted(name) => self.drop_slice(&name),
            Event::Node(node) => self.put_node(node),
            Event::NodePortAddresses(addresses) => {
                self.settings.node_port_addresses = addresses.for_family(family);
            }
            Event::ServiceCidrs(ranges) => {
                self.settings.service_cidrs = ranges
                    .into_iter()
                    .filter(|range| Family::of(range.addr()) == family)
                    .map(|range| range.trunc())
                    .collect();
            }
        }
    }

    /// Brings the table up to date and says what changed in it since the last flush.
    pub fn flush(&mut self) -> Delta {
        let mut delta = Delta::default();
        for name in std::mem::take(&mut self.touched) {
            self.rework(name, &mut delta);
        }
        if self.settings != self.table.settings {
            let before = Some(self.table.settings.clone());
            delta.settings = Some(Change { before, after: Some(self.settings.clone()) });
        }
        self.table.apply(&delta);
        delta
    }

    fn drop_service(&mut self, name: NamespacedName) {
        if let Some(state) = self.services.get_mut(&name) {
            state.service = None;
            self.touched.insert(name);
        }
    }

    fn put_slice(&mut self, slice: EndpointSlice) {
        // One without an endpoint of this family is as good as none.
        if !slice.endpoints.iter().any(|end| Family::of(end.address) == self.table.family) {
            return self.drop_slice(&slice.name);
        }
        let service =
            NamespacedName { namespace: slice.name.namespace.clone(), name: slice.service.clone() };
        if self.slices.get(&slice.name).is_some_and(|before| *before != service) {
            self.drop_slice(&slice.name);
        }
        self.slices.insert(slice.name.clone(), service.clone());
        let state = self.services.entry(service.clone()).or_default();
        if state.slices.get(&slice.name) != Some(&slice) {
            state.slices.insert(slice.name.clone(), slice);
            self.touched.insert(service);
        }
    }

    fn drop_slice(&mut self, name: &NamespacedName) {
        if let Some(service) = self.slices.remove(name)
            && let Some(state) = self.services.get_mut(&service)
        {
            state.slices.remove(name);
            self.touched.insert(service);
        }
    }

    /// A node's zone and addresses matter to every Service; heartbeats, which change neither, to none.
    fn put_node(&mut self, mut node: Node) {
        node.addresses.retain(|address| Family::of(*address) == self.table.family);
        if node != self.node {
            self.settings.node_addresses.clone_from(&node.addresses);
            self.node = node;
            self.touched.extend(self.services.keys().cloned());
        }
    }

    /// Works a Service out anew and puts the result in the place of what it contributed before.
    fn rework(&mut self, name: NamespacedName, delta: &mut Delta) {
        let Some(mut state) = self.services.remove(&name) else { return };
        let around = Surroundings {
            family: self.table.family,
            config: &self.config,
            node: &self.node,
            detector: &self.settings.local_detector,
        };
        let new = match &state.service {
            Some(service) => contribute(service, state.slices.values(), around, &mut self.set_ids),
            None => Contribution::default(),
        };
        let affinity = state.service.as_ref().map(|s| s.session_affinity).unwrap_or_default();
        self.settle_sets(&mut state, new.sets, affinity, delta);
        self.settle_fronts(&mut state, new.fronts, delta);
        let State { cluster_ips, hairpins, source_prefixes, .. } = &mut state;
        let mut prefixes = BTreeMap::new();
        let claims = &mut self.source_prefixes;
        settle(claims, &name, source_prefixes, new.source_prefixes, &mut prefixes);
        for (prefix, change) in prefixes {
            match change.after {
                Some(()) => self.settings.source_prefixes.insert(prefix),
                None => self.settings.source_prefixes.remove(&prefix),
            };
        }
        settle(&mut self.cluster_ips, &name, cluster_ips, new.cluster_ips, &mut delta.cluster_ips);
        settle(&mut self.hairpins, &name, hairpins, new.hairpins, &mut delta.hairpins);
        self.settle_health_check(&mut state, &name, new.health_check, delta);
        if state.service.is_some() || !state.slices.is_empty() {
            self.services.insert(name, state);
        }
    }

    fn settle_sets(
        &mut self,
        state: &mut State,
        new: BTreeMap<SetKey, Selected>,
        affinity: SessionAffinity,
        delta: &mut Delta,
    ) {
        let old = std::mem::replace(&mut state.sets, new.keys().cloned().collect());
        for key in old.missing_in(&state.sets) {
            let id = self.set_ids.allocate(key);
            note(&mut delta.sets, id, self.table.sets.get(&id).cloned(), None);
            self.set_ids.release(key);
        }
        for (SetKey { port, scope }, selected) in new {
            let id = self.set_ids.allocate(&SetKey { port: port.clone(), scope });
            let before = self.table.sets.get(&id);
            let slots = before.map(|set| set.targets.clone()).unwrap_or_default();
            let after = EndpointSet {
                port,
                scope,
                affinity,
                selection: selected.selection,
                topology: selected.topology,
                targets: slots.with(&selected.targets),
            };
            note(&mut delta.sets, id, before.cloned(), Some(Arc::new(after)));
        }
    }

    fn settle_health_check(
        &mut self,
        state: &mut State,
        name: &NamespacedName,
        new: Option<(NodePort, HealthCheck)>,
        delta: &mut Delta,
    ) {
        let port = new.as_ref().map(|(port, _)| *port);
        let gone = state.health_check.filter(|old| Some(*old) != port).map(|old| (old, None));
        let here = new.map(|(port, check)| (port, Some(check)));
        state.health_check = port;
        for (port, check) in gone.into_iter().chain(here) {
            let (before, after) = self.health_checks.set(&port, name.clone(), check);
            note(&mut delta.health_checks, port, before, after);
        }
    }

    fn settle_fronts(
        &mut self,
        state: &mut State,
        new: BTreeMap<(FrontKey, Owner), Front>,
        delta: &mut Delta,
    ) {
        let old = std::mem::replace(&mut state.fronts, new.keys().cloned().collect());
        let gone = old.missing_in(&state.fronts).cloned().map(|claim| (claim, None));
        let here = new.into_iter().map(|(claim, front)| (claim, Some(front)));
        for ((key, owner), front) in gone.chain(here) {
            let (before, after) = self.fronts.set(&key, owner, front);
            note(&mut delta.fronts, key, before, after);
        }
    }
}

/// Brings the claims of one owner from the old to the new elements.
fn settle<K: Ord + Clone + Hash>(
    claims: &mut Claims<K, NamespacedName, ()>,
    owner: &NamespacedName,
    old: &mut Few<K>,
    new: BTreeSet<K>,
    changes: &mut BTreeMap<K, Change<()>>,
) {
    let new: Few<K> = new.into_iter().collect();
    let gone = old.missing_in(&new).map(|key| (key, None));
    let come = new.missing_in(old).map(|key| (key, Some(())));
    for (key, claim) in gone.chain(come) {
        let (before, after) = claims.set(key, owner.clone(), claim);
        note(changes, key.clone(), before, after);
    }
    *old = new;
}
