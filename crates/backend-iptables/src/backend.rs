//! Carrying plans out.

use portolan_model::{Applied, Backend, Delta, Drift, Family, ForwardingTable};
use thiserror::Error;

use crate::name;
use crate::plan::{Plan, Planner};
use crate::program::{ProgramError, Programs};
use crate::render::{Chains, Options, Table};
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
}

impl Iptables {
    /// A backend for one family with the system's programs; changes nothing yet.
    pub fn new(family: Family, options: Options) -> Self {
        Self::with_programs(options, Programs::of(family))
    }

    /// A backend with these programs, whose family is the tables'.
    pub fn with_programs(options: Options, programs: Programs) -> Self {
        Self { planner: Planner::new(options), programs }
    }

    /// Whether the kernel holds this table: chains, and of each rule whom it is about and where it
    /// leads.
    ///
    /// # Errors
    /// When the rules cannot be read.
    pub fn verify(&self, table: &ForwardingTable) -> Result<bool, IptablesError> {
        let saved = self.read()?;
        let wanted = self.planner.all(table);
        let holds = |((of, chain), rules): (&(Table, String), &Vec<String>)| {
            let gists: Vec<_> = rules.iter().map(|rule| Gist::of(rule)).collect();
            saved.chains.get(&(*of, chain.clone())) == Some(&gists)
        };
        let stale = stale(&saved, &wanted).next().is_some();
        let ways = self.planner.jumps(table);
        let open = ways.iter().all(|(of, chain, rule)| saved.has(*of, chain, rule));
        Ok(open && !stale && wanted.iter().all(holds))
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

/// Chains of Services that nobody wants any more, an earlier kube-proxy's too.
fn stale<'a>(
    saved: &'a Saved,
    wanted: &'a Chains,
) -> impl Iterator<Item = &'a (Table, String)> + 'a {
    saved.chains.keys().filter(|key| name::is_of_a_service(&key.1) && !wanted.contains_key(*key))
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
        let saved = self.read()?;
        let mut plan = self.planner.full(table);
        plan.jumps.retain(|(of, chain, rule)| !saved.has(*of, chain, rule));
        let wanted = self.planner.all(table);
        plan.chains.extend(stale(&saved, &wanted).map(|key| (key.clone(), None)));
        self.carry_out(&plan)
    }

    fn apply(&mut self, table: &ForwardingTable, delta: &Delta) -> Result<Applied, IptablesError> {
        match self.carry_out(&self.plan_delta(table, delta)) {
            Err(IptablesError::Refused(error @ ProgramError::Failed { .. })) => {
                tracing::warn!(%error, "the rules may have been changed by somebody else; saying all");
                let applied = self.start(table)?;
                Ok(Applied { drift: Drift::Repaired, ..applied })
            }
            done => done,
        }
    }

    fn cleanup(&mut self) -> Result<(), IptablesError> {
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
    }
}
