//! Plans: from one content of our table to another, and from a delta.
//!
//! The order of steps, so that a packet finds its way after each of them: chains for new set sizes;
//! then stage by stage what is new or different, rules that look it up, and stage by stage backwards
//! what is gone. A packet between two generations of elements may find a front and not yet who may use
//! it, or its mark and not yet its set; so a front whose flags or guards change, come or go is closed by
//! then (see [`Doors`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use portolan_model::{
    Action, Change, Delta, EndpointSet, ForwardingTable, Front, FrontKey, SetId, Settings,
};
use portolan_netlink::nft::{
    ChainRef, Data, Element, ElementData, Name, Op, Set, SetRef, Table, Verdict,
};

use crate::layout::{Class, Lane, Layout};
use crate::plan::{Cut, Plan, Step};
use crate::render::{Content, Ruleset, classes, node_port_addresses};
use crate::rules::{self, ChainRules};

/// Kinds of elements in the order in which they lean on each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// Endpoint sets, on which fronts lean.
    Sets,
    /// Endpoints that reach themselves.
    Hairpins,
    /// Fronts that are to change or go, closed.
    Closed,
    /// Who may use fronts, and new ones, still closed.
    Guards,
    /// Fronts as they are to be. Cluster IPs lean on them, since a cluster IP's port that is no front is
    /// refused.
    Fronts,
    /// Cluster IPs, and the addresses at which node ports answer.
    Addresses,
}

/// Steps by stage.
#[derive(Default)]
struct Stages {
    changed: BTreeMap<Stage, Vec<Step>>,
    gone: BTreeMap<Stage, Vec<Step>>,
}

impl Stages {
    fn element(
        &mut self,
        stage: Stage,
        set: &Arc<Set>,
        before: Option<Element>,
        after: Option<Element>,
    ) {
        let steps = if after.is_some() { &mut self.changed } else { &mut self.gone };
        let mut step = Step::default();
        step.replace(set, before, after);
        steps.entry(stage).or_default().push(step);
    }

    /// A step for something of several elements that stays, or for something that goes.
    fn step(&mut self, stage: Stage, presence: Presence, step: Step) {
        let steps = match presence {
            Presence::Stays => &mut self.changed,
            Presence::Goes => &mut self.gone,
        };
        steps.entry(stage).or_default().push(step);
    }

    /// Puts the steps into the plan, and others between what changes and what goes.
    fn into_plan(self, plan: &mut Plan, between: Step) {
        self.changed.into_values().flatten().for_each(|step| plan.push(step));
        plan.push(between);
        self.gone.into_values().rev().flatten().for_each(|step| plan.push(step));
    }
}

enum Presence {
    Stays,
    Goes,
}

impl Presence {
    fn of<T>(after: Option<&T>) -> Self {
        if after.is_some() { Self::Stays } else { Self::Goes }
    }
}

/// What brings the kernel from one content of our table to another.
pub(crate) fn between(layout: &Layout, old: &Ruleset, new: &Ruleset) -> Plan {
    let mut plan = Plan::default();
    plan.push(schema(layout, old, new));
    plan.push(balancing(layout, old, new));
    let mut stages = Stages::default();
    // Elements of one endpoint set or front, whose key comes first, stay together.
    for (stage, head, tails) in [
        (
            Stage::Sets,
            &layout.set_sizes,
            vec![&layout.endpoints, &layout.affine_endpoints, &layout.live],
        ),
        (Stage::Fronts, &layout.services, layout.guards(Lane::Services).into()),
        (Stage::Fronts, &layout.node_ports, layout.guards(Lane::NodePorts).into()),
    ] {
        let live = keys(head, new);
        let len = usize::try_from(head.key.len()).unwrap_or(usize::MAX);
        let mut steps: BTreeMap<Data, Step> = BTreeMap::new();
        for set in tails.into_iter().chain([head]) {
            for (key, before, after) in differences(set, old, new) {
                let of = Data::new(key.as_bytes().get(..len).unwrap_or_default());
                steps.entry(of).or_default().replace(set, before, after);
            }
        }
        for (key, step) in steps {
            stages.step(stage, Presence::of(live.get(&key)), step);
        }
    }
    for (stage, set) in [
        (Stage::Hairpins, &layout.hairpins),
        (Stage::Addresses, &layout.cluster_ips),
        (Stage::Addresses, &layout.node_port_addresses),
    ] {
        for (_, before, after) in differences(set, old, new) {
            stages.element(stage, set, before, after);
        }
    }
    stages.into_plan(&mut plan, entry_rules(layout, old, new));
    plan.push(leftovers(layout, old, new));
    plan
}

/// What makes a kernel without our table hold this one, step by step, so that nobody needs all of it at
/// once. The rules that packets come through first are written last: before, there are none.
pub(crate) fn first<'a>(
    layout: &'a Layout,
    table: &'a ForwardingTable,
) -> impl Iterator<Item = Step> + 'a {
    let (empty, skeleton) =
        (Ruleset::default(), Ruleset::skeleton(layout, &table.settings, &classes(table)));
    let head = [schema(layout, &empty, &skeleton), balancing(layout, &empty, &skeleton)];
    let last = entry_rules(layout, &empty, &skeleton);
    let add = |set: &Arc<Set>, element| {
        let mut step = Step::default();
        step.replace(set, None, Some(element));
        step
    };
    let sets = table.sets.iter().map(|(id, set)| {
        set_step(layout, *id, &Change { before: None, after: Some(Arc::clone(set)) })
    });
    let hairpins = table.hairpins.iter();
    let hairpins = hairpins.map(move |ip| add(&layout.hairpins, layout.hairpin(*ip)));
    let fronts = table.fronts.iter().map(|(key, front)| {
        let mut step = guards(layout, key, None, Some(front));
        step.append(replace(layout, key, None, Some(front)));
        step
    });
    let cluster_ips = table.cluster_ips.iter();
    let cluster_ips = cluster_ips.map(move |ip| add(&layout.cluster_ips, layout.address(*ip)));
    let at_node = node_port_addresses(layout, &table.settings).into_iter();
    let at_node = at_node.map(move |element| add(&layout.node_port_addresses, element));
    let elements = sets.chain(hairpins).chain(fronts).chain(cluster_ips).chain(at_node);
    head.into_iter().chain(elements).chain([last])
}

/// The steps of a delta, whose cost is in proportion to it. `classes` are those for which the
/// kernel has chains already; chains that are no longer needed stay until the next full comparison,
/// as the size may come back.
pub(crate) fn delta(
    layout: &Layout,
    table: &ForwardingTable,
    delta: &Delta,
    classes: &BTreeSet<Class>,
) -> Plan {
    let mut plan = Plan::default();
    let after = delta.sets.values().filter_map(|change| change.after.as_ref());
    plan.classes =
        after.map(|set| Class::of(set)).filter(|class| !classes.contains(class)).collect();
    for class in &plan.classes {
        plan.steps.push(class_step(layout, *class));
    }
    if let Some(last) = plan.steps.last_mut() {
        last.cut = Cut::Must;
    }
    let mut stages = Stages::default();
    for (id, change) in &delta.sets {
        let step = set_step(layout, *id, change);
        stages.step(Stage::Sets, Presence::of(change.after.as_ref()), step);
    }
    for (ip, change) in &delta.hairpins {
        let element = |presence: Option<()>| presence.map(|()| layout.hairpin(*ip));
        let (before, after) = (element(change.before), element(change.after));
        stages.element(Stage::Hairpins, &layout.hairpins, before, after);
    }
    let mut doors = Doors::default();
    for (key, change) in &delta.fronts {
        doors.take(layout, key, change);
    }
    doors.into_stages(&mut stages);
    for (ip, change) in &delta.cluster_ips {
        let element = |presence: Option<()>| presence.map(|()| layout.address(*ip));
        let (before, after) = (element(change.before), element(change.after));
        stages.element(Stage::Addresses, &layout.cluster_ips, before, after);
    }
    let settings = delta.settings.as_ref();
    let settings = settings.map(|change| settings_step(layout, table, change)).unwrap_or_default();
    stages.into_plan(&mut plan, settings);
    plan
}

/// Fronts on their way from what they were to what they are to be.
///
/// A closed front drops packets, and their senders send again. One that comes, or is to have other flags
/// or guards, is closed before that and opened after; one that goes is closed before. Other sets in the
/// same front are a change of one step, and so is that nobody comes through any more. The flags of one
/// that refuses mean nothing, so they may change before it opens.
#[derive(Default)]
struct Doors {
    close: Vec<Step>,
    guard: Vec<Step>,
    open: Vec<Step>,
    gone: Vec<Step>,
}

impl Doors {
    fn take(&mut self, layout: &Layout, key: &FrontKey, change: &Change<Front>) {
        let Change { before, after } = change;
        let same_guards = |before: &Front, after: &Front| {
            layout.admitted(key, before) == layout.admitted(key, after)
                && layout.guarded(key, before) == layout.guarded(key, after)
        };
        if let (Some(before), Some(after)) = (before, after)
            && same_guards(before, after)
        {
            if before.masquerade == after.masquerade || refuses(after) {
                return self.open.push(replace(layout, key, Some(before), Some(after)));
            }
            if refuses(before) {
                let flagged = Front { masquerade: after.masquerade, ..before.clone() };
                self.guard.push(replace(layout, key, Some(before), Some(&flagged)));
                return self.open.push(replace(layout, key, Some(&flagged), Some(after)));
            }
        }
        let [was, will] = [before, after].map(|front| front.as_ref().map(closed));
        let mut guard = guards(layout, key, before.as_ref(), after.as_ref());
        guard.append(replace(layout, key, was.as_ref(), will.as_ref()));
        if before.is_some() {
            self.close.push(replace(layout, key, before.as_ref(), was.as_ref()));
        }
        match after {
            Some(after) => {
                self.guard.push(guard);
                self.open.push(replace(layout, key, will.as_ref(), Some(after)));
            }
            None => self.gone.push(guard),
        }
    }

    fn into_stages(mut self, stages: &mut Stages) {
        for steps in [&mut self.close, &mut self.guard] {
            steps.retain(|step| !step.is_empty());
            if let Some(last) = steps.last_mut() {
                last.cut = Cut::Must;
            }
        }
        for (stage, steps) in
            [(Stage::Closed, self.close), (Stage::Guards, self.guard), (Stage::Fronts, self.open)]
        {
            steps.into_iter().for_each(|step| stages.step(stage, Presence::Stays, step));
        }
        self.gone.into_iter().for_each(|step| stages.step(Stage::Fronts, Presence::Goes, step));
    }
}

/// Whether nobody comes through a front.
fn refuses(front: &Front) -> bool {
    [front.inside, front.outside].iter().all(|action| !matches!(action, Action::Balance(_)))
}

/// The front as it is while nobody may come through.
fn closed(front: &Front) -> Front {
    Front { inside: Action::Drop, outside: Action::Drop, ..front.clone() }
}

fn replace(layout: &Layout, key: &FrontKey, before: Option<&Front>, after: Option<&Front>) -> Step {
    let mut step = Step::default();
    let [before, after] =
        [before, after].map(|front| front.map(|front| layout.front(key, front).1));
    step.replace(layout.front_map(key), before, after);
    step
}

/// Who may use a front.
fn guards(layout: &Layout, key: &FrontKey, before: Option<&Front>, after: Option<&Front>) -> Step {
    let mut step = Step::default();
    let fronts = [before, after];
    let [was, will] = fronts.map(|front| front.map(|front| layout.admitted(key, front)));
    if let Some((set, _)) = was.as_ref().or(will.as_ref()) {
        let set = Arc::clone(set);
        let [was, will] = [was, will].map(|of| of.map(|(_, keys)| keys).unwrap_or_default());
        for gone in was.difference(&will) {
            step.replace(&set, Some(Element::new(gone.clone())), None);
        }
        for come in will.difference(&was) {
            step.replace(&set, None, Some(Element::new(come.clone())));
        }
    }
    let [was, will] = fronts.map(|front| layout.guarded(key, front?));
    if let Some((set, _)) = was.as_ref().or(will.as_ref()) {
        let set = Arc::clone(set);
        step.replace(&set, was.map(|(_, e)| e), will.map(|(_, e)| e));
    }
    step
}

/// Chains for sets of a class, and the ways to them.
fn class_step(layout: &Layout, class: Class) -> Step {
    let mut step = Step::default();
    for (lane, map) in &layout.by_size {
        let ChainRules { chain, rules } = rules::balance(layout, *lane, class);
        step.make.push(Op::CreateChain(chain));
        step.add.push((map.clone(), layout.class(*lane, class)));
        step.finish.extend(rules.into_iter().map(Op::AddRule));
    }
    step
}

fn set_step(layout: &Layout, id: SetId, change: &Change<Arc<EndpointSet>>) -> Step {
    let mut step = Step::default();
    let [before, after] = [&change.before, &change.after].map(Option::as_ref);
    let size = |set: &Arc<EndpointSet>| layout.set_size(id, set);
    step.replace(&layout.set_sizes, before.map(size), after.map(size));
    let slots = |set: Option<&Arc<EndpointSet>>| {
        let targets =
            set.into_iter().flat_map(|set| set.targets.as_slice().iter().map(move |t| (set, t)));
        let slot = |(slot, (set, target)): (usize, (&Arc<EndpointSet>, _))| {
            let (map, element) = layout.slot(id, set, slot, target);
            ((map.name.clone(), element.key.clone()), (map.clone(), element))
        };
        targets.enumerate().map(slot).collect::<BTreeMap<_, _>>()
    };
    let (slots_before, slots_after) = (slots(before), slots(after));
    for key in slots_before.keys().chain(slots_after.keys()).collect::<BTreeSet<_>>() {
        let [before, after] = [&slots_before, &slots_after].map(|slots| slots.get(key).cloned());
        if let Some((map, _)) = before.as_ref().or(after.as_ref()) {
            let map = map.clone();
            step.replace(&map, before.map(|(_, e)| e), after.map(|(_, e)| e));
        }
    }
    let live = |set: Option<&Arc<EndpointSet>>| {
        let targets =
            set.into_iter().flat_map(|set| set.targets.as_slice().iter().map(move |t| (set, t)));
        targets.filter_map(|(set, target)| layout.live(id, set, target)).map(|e| e.key).collect()
    };
    let [before, after]: [BTreeSet<Data>; 2] = [live(before), live(after)];
    for gone in before.difference(&after) {
        step.replace(&layout.live, Some(Element::new(gone.clone())), None);
    }
    for come in after.difference(&before) {
        step.replace(&layout.live, None, Some(Element::new(come.clone())));
    }
    step
}

/// Settings are few: the rules that depend on them are written anew, all together.
fn settings_step(layout: &Layout, table: &ForwardingTable, change: &Change<Settings>) -> Step {
    let mut step = Step::default();
    let addresses = |settings: &Option<Settings>| {
        let elements = settings.iter().flat_map(|s| node_port_addresses(layout, s));
        elements.map(|element| (element.key.clone(), element)).collect::<BTreeMap<_, _>>()
    };
    let (before, after) = (addresses(&change.before), addresses(&change.after));
    for key in before.keys().chain(after.keys()).collect::<BTreeSet<_>>() {
        let (before, after) = (before.get(key).cloned(), after.get(key).cloned());
        step.replace(&layout.node_port_addresses, before, after);
    }
    let rules_of = |settings: &Settings| rules::fixed(layout, settings);
    let before = change.before.as_ref().map(rules_of).unwrap_or_default();
    for chain in rules_of(&table.settings) {
        if !before.contains(&chain) {
            write_rules(&mut step, &chain, Some(&chain));
        }
    }
    step
}

/// The table and its sets.
fn schema(layout: &Layout, old: &Ruleset, new: &Ruleset) -> Step {
    let mut step = Step::default();
    if *old == Ruleset::default() {
        step.make.push(Op::AddTable(Table { id: layout.table.clone(), comment: None }));
    }
    let missing = layout.sets().filter(|set| !old.sets.contains_key(&set.name));
    step.make.extend(missing.map(|set| Op::AddSet(set.clone())));
    let missing = new.chains.iter().filter(|(name, _)| !old.chains.contains_key(*name));
    step.make.extend(missing.map(|(_, chain)| Op::AddChain(chain.chain.clone())));
    step
}

/// What packets only come to by way of set sizes or refusals.
fn balancing(layout: &Layout, old: &Ruleset, new: &Ruleset) -> Step {
    let mut step = Step { cut: Cut::Must, ..Step::default() };
    for set in layout.by_size().chain([&layout.refusals]) {
        for (_, before, after) in differences(set, old, new) {
            if after.is_some() {
                step.replace(set, before, after);
            }
        }
    }
    for (name, chain) in &new.chains {
        if !is_entry(layout, new, name) && old.chains.get(name) != Some(chain) {
            write_rules(&mut step, chain, old.chains.get(name));
        }
    }
    step
}

/// The chains that packets come through first.
fn entry_rules(layout: &Layout, old: &Ruleset, new: &Ruleset) -> Step {
    let mut step = Step::default();
    for (name, chain) in &new.chains {
        if is_entry(layout, new, name) && old.chains.get(name) != Some(chain) {
            write_rules(&mut step, chain, old.chains.get(name));
        }
    }
    step
}

/// Whether a chain comes before sets are known: base chains and what they lead to.
fn is_entry(layout: &Layout, new: &Ruleset, name: &Name) -> bool {
    let leads_here =
        |data: &ElementData| matches!(data, ElementData::Verdict(Verdict::Goto(to)) if to == name);
    let reached_by_map = layout.by_size().any(|map| {
        new.sets.get(&map.name).is_some_and(|map| map.elements.values().any(leads_here))
    });
    !reached_by_map && name.as_str() != rules::REFUSE_CHAIN
}

/// What is in the kernel and no longer wanted there.
fn leftovers(layout: &Layout, old: &Ruleset, new: &Ruleset) -> Step {
    let mut step = Step::default();
    for set in layout.by_size().chain([&layout.refusals]) {
        for (_, before, after) in differences(set, old, new) {
            if after.is_none() {
                step.replace(set, before, after);
            }
        }
    }
    let table = layout.table.clone();
    let gone = old.chains.keys().filter(|name| !new.chains.contains_key(*name));
    let gone = gone.map(|name| ChainRef { table: table.clone(), name: name.clone() });
    let gone: Vec<_> = gone.collect();
    step.finish.extend(gone.iter().cloned().map(Op::FlushChain));
    let sets = old.sets.keys().filter(|name| !new.sets.contains_key(*name));
    let sets = sets.map(|name| Op::DeleteSet(SetRef { table: table.clone(), name: name.clone() }));
    step.finish.extend(sets);
    step.finish.extend(gone.into_iter().map(Op::DeleteChain));
    step
}

/// Writes a chain's rules, after removing those that it has.
fn write_rules(step: &mut Step, chain: &ChainRules, present: Option<&ChainRules>) {
    if present.is_some_and(|present| !present.rules.is_empty()) {
        step.finish.push(Op::FlushChain(chain.chain.id()));
    }
    step.finish.extend(chain.rules.iter().cloned().map(Op::AddRule));
}

fn keys(set: &Set, ruleset: &Ruleset) -> BTreeSet<Data> {
    let content = ruleset.sets.get(&set.name);
    content.map(|content| content.elements.keys().cloned().collect()).unwrap_or_default()
}

/// The keys of a set whose elements differ, with the elements.
fn differences(
    set: &Set,
    old: &Ruleset,
    new: &Ruleset,
) -> Vec<(Data, Option<Element>, Option<Element>)> {
    let none = BTreeMap::new();
    let of =
        |ruleset: &'_ Ruleset| ruleset.sets.get(&set.name).map(|c: &Content| &c.elements).cloned();
    let (old, new) = (of(old), of(new));
    let (old, new) = (old.as_ref().unwrap_or(&none), new.as_ref().unwrap_or(&none));
    let element = |key: &Data, data: &ElementData| Element {
        data: data.clone(),
        ..Element::new(key.clone())
    };
    let mut differences = Vec::new();
    for (key, data) in old {
        if new.get(key) != Some(data) {
            let after = new.get(key).map(|data| element(key, data));
            differences.push((key.clone(), Some(element(key, data)), after));
        }
    }
    for (key, data) in new.iter().filter(|(key, _)| !old.contains_key(*key)) {
        differences.push((key.clone(), None, Some(element(key, data))));
    }
    differences
}
