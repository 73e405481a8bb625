//! Carrying plans out.

use std::collections::BTreeMap;

use portolan_model::{Applied, Backend, Delta, Drift, Family, ForwardingTable, RuleCount};
use thiserror::Error;

use crate::name;
use crate::plan::{Plan, Planner, Turnover};
use crate::program::{ProgramError, Programs};
use crate::render::{List, Options, Table};
use crate::save::{Gist, Saved};

/// Why rules could not be changed.
#[derive(Debug, Error)]
pub enum IptablesError {
    /// A plan was not carried out; of each table it was either done or not.
    #[error("cannot change the rules: {0}")]
    Refused(#[source] ProgramError),
    /// The kernel's rules could not be read.
    #[error("cannot read the rules: {0}")]
    Unreadable(#[source] ProgramError),
}

/// The iptables rules of one family in the network namespace of the thread that calls.
#[derive(Debug, Clone)]
pub struct Iptables {
    planner: Planner,
    programs: Programs,
    said: Said,
    /// How many rules of ours each table has, and how many the last plan turned over.
    rules: BTreeMap<Table, (usize, usize)>,
}

/// Whether every rule was said by this backend. What an earlier one left may differ in what cannot be
/// compared with what the kernel prints, as the mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    All,
    Nothing,
}

impl Iptables {
    /// A backend for one family with the system's programs; changes nothing yet.
    pub fn new(family: Family, options: Options) -> Self {
        Self::with_programs(options, Programs::of(family))
    }

    /// A backend with these programs, whose family is the tables'.
    pub fn with_programs(options: Options, programs: Programs) -> Self {
        Self {
            planner: Planner::new(options),
            programs,
            said: Said::Nothing,
            rules: BTreeMap::new(),
        }
    }

    /// Whether the kernel holds this table: chains, and of each rule whom it is about and where it
    /// leads.
    ///
    /// # Errors
    /// When the rules cannot be read.
    pub fn verify(&self, table: &ForwardingTable) -> Result<bool, IptablesError> {
        self.drift(table).map(|plan| plan.is_empty())
    }

    /// What would make the kernel hold this table, as far as [`Iptables::verify`] can tell; empty when
    /// it does. Changes nothing.
    ///
    /// # Errors
    /// When the rules cannot be read.
    pub fn drift(&self, table: &ForwardingTable) -> Result<Plan, IptablesError> {
        let saved = self.read()?;
        let mut plan = self.full(&saved, table);
        let differs = |key: &(Table, String), rules: &[String]| {
            let gists: Vec<_> = rules.iter().map(|rule| Gist::of(rule)).collect();
            !saved.chains.get(key).is_some_and(|saved| is_alike(key, saved, gists))
        };
        plan.chains.retain(|key, rules| rules.as_ref().is_none_or(|rules| differs(key, rules)));
        Ok(plan)
    }

    /// What says all of a table to a kernel that holds this, and removes what it has too much.
    fn full(&self, saved: &Saved, table: &ForwardingTable) -> Plan {
        let mut plan = self.planner.full(table);
        plan.jumps.retain(|(of, chain, rule)| !saved.has(*of, chain, rule));
        let stale = saved.chains.keys().filter(|key| name::is_of_a_service(&key.1));
        let stale: Vec<_> = stale.filter(|key| !plan.chains.contains_key(*key)).cloned().collect();
        plan.chains.extend(stale.into_iter().map(|key| (key, None)));
        plan
    }

    /// The next start says all.
    fn doubt(&mut self) {
        self.said = Said::Nothing;
        self.planner.forget();
    }

    fn read(&self) -> Result<Saved, IptablesError> {
        self.programs.save().map(|text| Saved::read(&text)).map_err(IptablesError::Unreadable)
    }

    fn carry_out(&self, plan: &Plan) -> Result<Applied, IptablesError> {
        if plan.is_empty() {
            return Ok(Applied::default());
        }
        self.programs.restore(&plan.to_string()).map_err(IptablesError::Refused)?;
        let (commits, operations) = (plan.tables(), plan.operations());
        Ok(Applied { commits, operations, drift: Drift::None })
    }
}

/// Whether a chain holds these rules. In a list of fronts those that came later stand first; what must
/// stand last does.
fn is_alike((of, chain): &(Table, String), saved: &[Gist], mut wanted: Vec<Gist>) -> bool {
    if !List::ALL.into_iter().any(|list| list.chain() == (*of, chain.as_str())) {
        return saved == wanted;
    }
    if !saved.is_sorted_by_key(Gist::leads_to_node_ports) {
        return false;
    }
    let mut saved = saved.to_vec();
    saved.sort_unstable();
    wanted.sort_unstable();
    saved == wanted
}

impl Backend for Iptables {
    type Plan = Plan;
    type Error = IptablesError;

    fn plan_full(&self, table: &ForwardingTable) -> Plan {
        self.planner.full(table)
    }

    fn plan_delta(&self, table: &ForwardingTable, delta: &Delta) -> Plan {
        self.planner.delta(table, delta)
    }

    fn start(&mut self, table: &ForwardingTable) -> Result<Applied, IptablesError> {
        let plan = match self.said {
            Said::All => self.drift(table)?,
            Said::Nothing => self.full(&self.read()?, table),
        };
        self.doubt();
        let applied = self.carry_out(&plan)?;
        self.said = Said::All;
        self.planner.holds(table);
        let all = self.planner.full(table).turnover;
        let last = |table: &Table| plan.turnover.get(table).map_or(0, |turnover| turnover.come);
        let count = |(table, now): (Table, Turnover)| (table, (now.come, last(&table)));
        self.rules = all.into_iter().map(count).collect();
        Ok(applied)
    }

    fn apply(&mut self, table: &ForwardingTable, delta: &Delta) -> Result<Applied, IptablesError> {
        let plan = self.plan_delta(table, delta);
        match self.carry_out(&plan) {
            Err(IptablesError::Refused(error @ ProgramError::Failed { .. })) => {
                tracing::warn!(%error, "the rules may have been changed by somebody else; saying all");
                let applied = self.start(table)?;
                Ok(Applied { drift: Drift::Repaired, ..applied })
            }
            Ok(applied) => {
                self.planner.followed(delta);
                for (table, Turnover { gone, come }) in &plan.turnover {
                    let (total, last) = self.rules.entry(*table).or_default();
                    (*total, *last) = ((*total + come).saturating_sub(*gone), gone + come);
                }
                Ok(applied)
            }
            Err(error) => {
                self.doubt();
                Err(error)
            }
        }
    }

    fn rules(&self) -> Vec<RuleCount> {
        let count = |(table, (total, last)): (&Table, &(usize, usize))| RuleCount {
            table: table.name(),
            total: *total,
            last: *last,
        };
        self.rules.iter().map(count).collect()
    }

    fn cleanup(&mut self) -> Result<(), IptablesError> {
        self.doubt();
        self.carry_out(&removal(&self.read()?)).map(drop)
    }
}

/// What removes everything of ours, or of kube-proxy's, that is there. KUBE-FIREWALL stays: it keeps
/// others away from the loopback address, and kubelet has it, too.
fn removal(saved: &Saved) -> Plan {
    const OURS: [&str; 9] = [
        "KUBE-SERVICES",
        "KUBE-NODEPORTS",
        "KUBE-EXTERNAL-SERVICES",
        "KUBE-PROXY-FIREWALL",
        "KUBE-FORWARD",
        "KUBE-POSTROUTING",
        "KUBE-MARK-MASQ",
        "KUBE-MARK-OFF-CLUSTER",
        "KUBE-PROXY-CANARY",
    ];
    let is_ours = |chain: &str| OURS.contains(&chain) || name::is_of_a_service(chain);
    let chains = saved.chains.keys().filter(|(_, chain)| is_ours(chain));
    let closed = saved.jumps.iter().filter(|way| is_ours(&way.to) && !is_ours(&way.from));
    Plan {
        chains: chains.map(|key| (key.clone(), None)).collect(),
        jumps: Vec::new(),
        closed: closed.map(|way| (way.table, way.from.clone(), way.rule.clone())).collect(),
        ..Plan::default()
    }
}
