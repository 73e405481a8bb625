//! Making plans without a kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use portolan_model::{
    Action, Change, Delta, Family, ForwardingTable, Front, FrontKey, SetId, Settings,
};
use portolan_netlink::ipvs::Destination;
use portolan_netlink::nft::{self, Table};

use crate::content::{Content, Touched, View};
use crate::diff;
use crate::layout::Layout;
use crate::options::Options;
use crate::plan::{Changes, Plan};
use crate::rules::{self, ChainRules};
use crate::termination::Terminating;

/// Makes plans for one family.
#[derive(Debug, Clone)]
pub struct Planner {
    pub(crate) options: Options,
    pub(crate) layout: Layout,
    /// The node's addresses on other links, as far as they were looked for.
    pub(crate) own: BTreeSet<IpAddr>,
    pub(crate) terminating: Terminating,
    /// The fronts that use a set; nothing when it is not known what the kernel holds.
    users: Option<Users>,
}

type Users = BTreeMap<SetId, BTreeSet<FrontKey>>;

impl Planner {
    /// A planner that does not know what the kernel holds: plans for deltas are right all the same,
    /// but look at all of the table.
    pub fn new(family: Family, options: Options) -> Self {
        let layout = Layout::new(family, options.masquerade_mark);
        let (own, terminating) = (BTreeSet::new(), Terminating::default());
        Self { options, layout, own, terminating, users: None }
    }

    /// What makes an empty kernel hold this table.
    pub fn full(&self, table: &ForwardingTable) -> Plan {
        let (wanted, schema) = (self.wanted(table), self.schema(&table.settings));
        let plan = diff::between(&self.layout, &Content::default(), &wanted, schema, Vec::new());
        Plan { looks: table.fronts.len(), ..plan }
    }

    /// What makes a kernel that holds the table before `delta` hold `table`, the one after it.
    pub fn delta(&self, table: &ForwardingTable, delta: &Delta) -> Plan {
        let after = View::of(table, &self.own);
        let before = View::before(table, delta, &self.own);
        let looked_up;
        let users = match &self.users {
            Some(users) => users,
            None => {
                looked_up = users_of(before.fronts());
                &looked_up
            }
        };
        let mut touched = Touched::default();
        let mut front = |key: &FrontKey| {
            touched.front(&before, key);
            touched.front(&after, key);
        };
        let of_sets = delta.sets.keys().filter_map(|id| users.get(id)).flatten();
        delta.fronts.keys().chain(of_sets).for_each(&mut front);
        if delta.settings.as_ref().is_some_and(has_other_addresses) {
            table.fronts.keys().for_each(&mut front);
            touched.addresses.extend(&table.cluster_ips);
        }
        touched.addresses.extend(delta.cluster_ips.keys());
        touched.hairpins.extend(delta.hairpins.keys());
        let mut present = Content::of(&self.options, &before, &touched);
        for (at, server) in &mut present.servers {
            for to in self.terminating.of(at) {
                server.targets.entry(to).or_insert(Destination::masquerade(0));
            }
        }
        let wanted = Content::of(&self.options, &after, &touched);
        let rules = delta.settings.as_ref().map(|change| self.rules(change)).unwrap_or_default();
        let plan = diff::between(&self.layout, &present, &wanted, Changes::default(), rules);
        Plan { looks: touched.len(), ..plan }
    }

    /// Takes note that the kernel holds a table.
    pub fn holds(&mut self, table: &ForwardingTable) {
        self.users = Some(users_of(table.fronts.iter()));
    }

    /// Takes note that the plan of a delta was carried out.
    pub fn followed(&mut self, delta: &Delta, plan: &Plan) {
        plan.server_ops().for_each(|op| self.terminating.follow(op));
        let Some(users) = &mut self.users else { return };
        for (key, Change { before, after }) in &delta.fronts {
            if let Some(id) = before.as_ref().and_then(set_of)
                && let Some(of_set) = users.get_mut(&id)
            {
                of_set.remove(key);
                if of_set.is_empty() {
                    users.remove(&id);
                }
            }
            if let Some(id) = after.as_ref().and_then(set_of) {
                users.entry(id).or_default().insert(*key);
            }
        }
    }

    /// Takes note that it is not known what the kernel holds.
    pub(crate) fn forget(&mut self) {
        self.users = None;
    }

    pub(crate) fn wanted(&self, table: &ForwardingTable) -> Content {
        let view = View::of(table, &self.own);
        Content::of(&self.options, &view, &Touched::all(&view))
    }

    /// What makes the nftables table, with its rules.
    pub(crate) fn schema(&self, settings: &Settings) -> Changes {
        let chains = rules::chains(&self.layout, settings);
        let table = Table { id: self.layout.table.clone(), comment: None };
        let mut make = vec![nft::Op::AddTable(table)];
        make.extend(self.layout.sets().into_iter().cloned().map(nft::Op::AddSet));
        make.extend(chains.iter().map(|chain| nft::Op::AddChain(chain.chain.clone())));
        let finish = chains.into_iter().flat_map(|chain| chain.rules).map(nft::Op::AddRule);
        Changes { make, entries: Vec::new(), finish: finish.collect() }
    }

    /// What writes the rules that depend on settings anew.
    fn rules(&self, change: &Change<Settings>) -> Vec<nft::Op> {
        let of = |settings: &Option<Settings>| {
            settings.as_ref().map(|settings| rules::chains(&self.layout, settings))
        };
        let (before, after) = (of(&change.before), of(&change.after));
        rewrite(&before.unwrap_or_default(), &after.unwrap_or_default())
    }
}

/// Whether the node has other addresses, or node ports answer at others.
fn has_other_addresses(change: &Change<Settings>) -> bool {
    let of = |settings: &Option<Settings>| {
        let of = |s: &Settings| (s.node_addresses.clone(), s.node_port_addresses.clone());
        settings.as_ref().map(of)
    };
    of(&change.before) != of(&change.after)
}

/// Writes the chains anew whose rules are others.
pub(crate) fn rewrite(before: &[ChainRules], after: &[ChainRules]) -> Vec<nft::Op> {
    let mut ops = Vec::new();
    for chain in after.iter().filter(|chain| !before.contains(chain)) {
        ops.push(nft::Op::FlushChain(chain.chain.id()));
        ops.extend(chain.rules.iter().cloned().map(nft::Op::AddRule));
    }
    ops
}

fn set_of(front: &Front) -> Option<SetId> {
    match front.outside {
        Action::Balance(id) => Some(id),
        Action::Reject | Action::Drop => None,
    }
}

fn users_of<'a>(fronts: impl Iterator<Item = (&'a FrontKey, &'a Front)>) -> Users {
    let mut users = Users::new();
    for (key, front) in fronts {
        if let Some(id) = set_of(front) {
            users.entry(id).or_default().insert(*key);
        }
    }
    users
}
