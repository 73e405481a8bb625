//! Mode ipvs: carrying plans out, looking after what terminates.

use std::net::IpAddr;
use std::time::Instant;

use portolan_model::{Applied, Backend, Delta, Drift, Family, ForwardingTable};
use portolan_netlink::Errno;
use portolan_netlink::address::{self, AddressError};
use portolan_netlink::ipvs::{IpvsError, Op, RealServer, Timeouts, VirtualServer};
use portolan_netlink::nft::{self, NftError, TableRef};
use thiserror::Error;

use crate::content::{Content, terminates_gracefully};
use crate::diff;
use crate::kernel::{Kernel, Seen, SeenTable};
use crate::options::Options;
use crate::plan::{Changes, Plan, Step};
use crate::planner::{Planner, rewrite};
use crate::rules;

/// Why mode ipvs does not do what it should.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum IpvsModeError {
    /// IPVS could not be read or changed.
    #[error(transparent)]
    Servers(#[from] IpvsError),
    /// The dummy link could not be read or changed.
    #[error(transparent)]
    Addresses(#[from] AddressError),
    /// No way to nf_tables.
    #[error(transparent)]
    Nft(#[from] NftError),
    /// The nftables table could not be read or changed.
    #[error("table {table}: {source}")]
    Rules {
        /// The table.
        table: String,
        /// The kernel's answer.
        source: NftError,
    },
    /// The kernel does not have the scheduler of `ipvs.scheduler`.
    #[error(
        "{0}: this kernel has no such scheduler; hint: load its module ip_vs_…, or set ipvs.scheduler: rr"
    )]
    NoScheduler(String),
    /// The kernel refused an operation; those before it were carried out.
    #[error("{op}: {}", errno.desc())]
    Refused {
        /// The operation, as the system's programs would have it.
        op: String,
        /// The kernel's error.
        errno: Errno,
    },
}

impl IpvsModeError {
    pub(crate) fn rules(table: &TableRef, source: NftError) -> Self {
        Self::Rules { table: table.to_string(), source }
    }

    /// Whether the kernel did not hold what the plan was made from.
    pub fn is_drift(&self) -> bool {
        match self {
            Self::Rules { source, .. } => source.is_drift(),
            Self::Refused { errno, .. } => matches!(
                errno,
                Errno::EEXIST | Errno::ENOENT | Errno::ESRCH | Errno::ENODEV | Errno::EADDRNOTAVAIL
            ),
            _ => false,
        }
    }
}

/// How often the kernel is read again when somebody else changes it meanwhile.
const TRIES: usize = 5;

/// Mode ipvs for one family, in the network namespace of the thread that opened this.
///
/// The kernel's settings of [`crate::sysctls`] are the caller's to write.
#[derive(Debug)]
pub struct Ipvs {
    planner: Planner,
    kernel: Kernel,
}

impl Ipvs {
    /// A backend for one family; changes nothing yet.
    ///
    /// # Errors
    /// [`IpvsError::NoIpvs`] when the module is not loaded; when there is no netlink socket to be had.
    pub fn open(family: Family, options: Options) -> Result<Self, IpvsModeError> {
        Self::with(family, options, Some(nft::Socket::open()?))
    }

    /// The same without the nftables table: nobody is masqueraded, refused or kept out. For kernels
    /// without nf_tables, to see what the rest does.
    ///
    /// # Errors
    /// As [`Ipvs::open`].
    pub fn open_without_rules(family: Family, options: Options) -> Result<Self, IpvsModeError> {
        Self::with(family, options, None)
    }

    fn with(
        family: Family,
        options: Options,
        nft: Option<nft::Socket>,
    ) -> Result<Self, IpvsModeError> {
        let kernel = Kernel::open(family, nft)?;
        Ok(Self { planner: Planner::new(family, options), kernel })
    }

    /// The number by which the kernel names this backend's changes to those who watch nf_tables;
    /// nothing without rules.
    ///
    /// # Errors
    /// When the socket is of no use.
    pub fn port(&self) -> Result<Option<u32>, NftError> {
        self.kernel.port().transpose()
    }

    /// Whether the kernel has the scheduler of the options.
    ///
    /// # Errors
    /// When IPVS does not answer, or may not be used.
    pub fn has_scheduler(&mut self) -> Result<bool, IpvsModeError> {
        Ok(self.kernel.servers.scheduler_known(&self.planner.options.scheduler)?)
    }

    /// Sets the timeouts of IPVS' connections, in this network namespace (`ipvs.tcpTimeout`,
    /// `ipvs.tcpFinTimeout`, `ipvs.udpTimeout`); those of 0 stay as they are.
    ///
    /// # Errors
    /// When the kernel refuses them.
    pub fn set_timeouts(&mut self, wanted: Timeouts) -> Result<(), IpvsModeError> {
        Ok(self.kernel.servers.set_timeouts(wanted)?)
    }

    /// What would make the kernel hold this table; empty when it does. Changes nothing. What
    /// terminates is no drift.
    ///
    /// # Errors
    /// When the kernel cannot be read.
    pub fn drift(&mut self, table: &ForwardingTable) -> Result<Plan, IpvsModeError> {
        let seen = self.kernel.read(&self.planner.layout)?;
        let mut planner = self.planner.clone();
        planner.own.clone_from(&seen.own);
        Ok(comparison(&planner, table, seen).0)
    }

    fn carry_out(&mut self, plan: &Plan) -> Result<Applied, IpvsModeError> {
        let commits = self.kernel.carry_out(&self.planner.layout, plan)?;
        Ok(Applied { commits, operations: plan.operations(), drift: Drift::None })
    }

    /// Reads what the kernel holds and changes what differs.
    fn converge(&mut self, table: &ForwardingTable) -> Result<Applied, IpvsModeError> {
        self.planner.forget();
        let mut seen = self.kernel.read(&self.planner.layout)?;
        if matches!(seen.table, SeenTable::Other) {
            let name = &self.planner.layout.table;
            tracing::warn!(table = %name, "another version's table is there; making it anew");
            self.kernel.delete_table(&self.planner.layout)?;
            seen.table = SeenTable::Absent;
        }
        self.planner.own.clone_from(&seen.own);
        let (plan, left) = comparison(&self.planner, table, seen);
        self.planner.terminating.only(left);
        let applied = self.carry_out(&plan)?;
        plan.server_ops().for_each(|op| self.planner.terminating.follow(op));
        self.planner.holds(table);
        Ok(applied)
    }
}

fn is_gone(errno: Errno) -> bool {
    matches!(errno, Errno::ENOENT | Errno::ESRCH)
}

type Left = Vec<(VirtualServer, RealServer)>;

/// What brings the kernel from what was seen to a table, and which real servers terminate already.
fn comparison(planner: &Planner, table: &ForwardingTable, seen: Seen) -> (Plan, Left) {
    let wanted = planner.wanted(table);
    let Seen { mut content, misheld, table: of, .. } = seen;
    let excluded = &planner.options.exclude_cidrs;
    let is_excluded = |ip: &IpAddr| excluded.iter().any(|range| range.contains(ip));
    content.servers.retain(|at, _| wanted.servers.contains_key(at) || !is_excluded(&at.address));
    content.link.retain(|ip| wanted.link.contains(ip) || !is_excluded(ip));
    let (mut schema, mut rules) = (Changes::default(), Vec::new());
    let have = |content: &mut Content, from: &Content| {
        content.doors.clone_from(&from.doors);
        content.addresses.clone_from(&from.addresses);
        content.hairpins.clone_from(&from.hairpins);
    };
    match of {
        SeenTable::Ignored => have(&mut content, &wanted),
        SeenTable::Absent | SeenTable::Other => {
            have(&mut content, &Content::default());
            schema = planner.schema(&table.settings);
        }
        SeenTable::Chains(chains) => {
            let all = rules::chains(&planner.layout, &table.settings);
            let is_missing = |chain: &&rules::ChainRules| {
                !chains.iter().any(|c| c.chain.name == chain.chain.name)
            };
            let missing = all.iter().filter(is_missing);
            schema.make.extend(missing.map(|chain| nft::Op::AddChain(chain.chain.clone())));
            rules = rewrite(&chains, &all);
        }
    }
    let mut left = Left::new();
    for (at, server) in &content.servers {
        let Some(will) = wanted.servers.get(at).filter(|_| terminates_gracefully(at)) else {
            continue;
        };
        for (to, how) in &server.targets {
            if how.weight == 0 && !will.targets.contains_key(to) {
                left.push((*at, *to));
            }
        }
    }
    let mut plan = Plan::default();
    let again = misheld.intersection(&wanted.link);
    let again = again.flat_map(|ip| [address::Op::Remove(*ip), address::Op::Add(*ip)]);
    plan.push(Step::Addresses(again.collect()));
    let rest = diff::between(&planner.layout, &content, &wanted, schema, rules);
    plan.steps.extend(rest.steps);
    (plan, left)
}

impl Backend for Ipvs {
    type Plan = Plan;
    type Error = IpvsModeError;

    fn plan_full(&self, table: &ForwardingTable) -> Plan {
        self.planner.full(table)
    }

    fn plan_delta(&self, table: &ForwardingTable, delta: &Delta) -> Plan {
        self.planner.delta(table, delta)
    }

    fn start(&mut self, table: &ForwardingTable) -> Result<Applied, IpvsModeError> {
        for _ in 1..TRIES {
            match self.converge(table) {
                Err(error) if error.is_drift() => {}
                done => return done,
            }
        }
        self.converge(table)
    }

    fn apply(&mut self, table: &ForwardingTable, delta: &Delta) -> Result<Applied, IpvsModeError> {
        let plan = self.plan_delta(table, delta);
        match self.carry_out(&plan) {
            Err(error) if error.is_drift() => {
                tracing::warn!(%error, "IPVS was changed by somebody else; putting it right");
                let applied = self.start(table)?;
                Ok(Applied { drift: Drift::Repaired, ..applied })
            }
            Ok(applied) => {
                self.planner.followed(delta, &plan);
                Ok(applied)
            }
            Err(error) => {
                self.planner.forget();
                Err(error)
            }
        }
    }

    /// Removes terminating real servers that have no connection any more, or whose time is up.
    fn tend(&mut self, now: Instant) -> Result<Option<Instant>, IpvsModeError> {
        let patience = self.planner.options.termination_deadline;
        for at in self.planner.terminating.servers() {
            let listed = self.kernel.servers.destinations(&at)?;
            let ops = self.planner.terminating.tend(&at, &listed, now, patience);
            let refused = self.kernel.servers.apply(&ops)?;
            for (index, op) in ops.iter().enumerate() {
                match refused.iter().find(|refusal| refusal.op == index) {
                    // Somebody else was quicker.
                    Some(refusal) if !is_gone(refusal.errno) => {
                        let (op, errno) = (format!("ipvsadm {op}"), refusal.errno);
                        return Err(IpvsModeError::Refused { op, errno });
                    }
                    _ => self.planner.terminating.follow(op),
                }
            }
        }
        Ok(self.planner.terminating.next(now))
    }

    /// Where there is no dummy link of ours, virtual servers are somebody else's and stay.
    fn cleanup(&mut self) -> Result<(), IpvsModeError> {
        self.planner.forget();
        self.planner.terminating = Default::default();
        let had_link = self.kernel.clear_link()?;
        if had_link {
            let excluded = &self.planner.options.exclude_cidrs;
            let is_excluded = |ip| excluded.iter().any(|range| range.contains(&ip));
            let all = self.kernel.virtual_servers()?.into_iter().map(|(at, _)| at);
            let ours = all.filter(|at| !is_excluded(at.address)).map(Op::DeleteService);
            let ours: Vec<_> = ours.collect();
            self.kernel.change_servers(&ours)?;
        }
        self.kernel.delete_table(&self.planner.layout)
    }
}
