//! Carrying plans out.
//!
//! Upstream rule: `pkg/proxy/nftables/proxier.go` `syncProxyRules`, with the difference that nothing
//! is ever flushed: what the kernel holds is read and only what differs is changed.

use std::collections::BTreeSet;

use portolan_model::{Applied, Backend, Delta, Drift, Family, ForwardingTable};
use portolan_netlink::nft::{Batch, NftError, Op, Socket, Table};
use thiserror::Error;

use crate::diff;
use crate::layout::{Class, Layout, Options};
use crate::plan::Plan;
use crate::render::{Ruleset, classes};

/// Why rules could not be changed.
#[derive(Debug, Error)]
pub enum NftablesError {
    /// The kernel refused a plan; it holds the last transaction that it accepted.
    #[error("cannot change table {table}: {source}")]
    Refused {
        /// The table.
        table: String,
        /// The kernel's answer.
        source: NftError,
    },
    /// The kernel's table could not be read.
    #[error("cannot read table {table}: {source}")]
    Unreadable {
        /// The table.
        table: String,
        /// The kernel's answer.
        source: NftError,
    },
}

impl NftablesError {
    /// Whether the kernel did not hold what the plan was made from.
    pub fn is_drift(&self) -> bool {
        matches!(self, Self::Refused { source, .. } if source.is_drift())
    }
}

/// How often the rules are read again when somebody else changes them meanwhile.
const TRIES: usize = 5;

/// How much of a first sync is planned at once, in bytes of netlink messages.
const PART_BYTES: usize = 1 << 18;

/// Makes plans for one family, without a kernel.
#[derive(Debug, Clone)]
pub struct Planner {
    layout: Layout,
    /// Set sizes for which the kernel has chains.
    classes: BTreeSet<Class>,
}

impl Planner {
    /// A planner for a kernel that holds nothing.
    pub fn new(family: Family, options: Options) -> Self {
        Self { layout: Layout::new(family, options), classes: BTreeSet::new() }
    }

    /// What makes an empty kernel hold this table.
    pub fn full(&self, table: &ForwardingTable) -> Plan {
        let mut plan = Plan { classes: classes(table), ..Plan::default() };
        diff::first(&self.layout, table).for_each(|step| plan.push(step));
        plan
    }

    /// What makes a kernel that holds the table before `delta` hold `table`, the one after it.
    pub fn delta(&self, table: &ForwardingTable, delta: &Delta) -> Plan {
        diff::delta(&self.layout, table, delta, &self.classes)
    }

    /// Takes note that a plan was carried out.
    pub fn carried_out(&mut self, plan: &Plan) {
        self.classes.extend(&plan.classes);
    }

    /// What brings a kernel from what it holds to this table; nothing when that cannot be.
    fn between(&self, old: &Ruleset, table: &ForwardingTable) -> Option<Plan> {
        let new = Ruleset::render(&self.layout, table);
        let classes = classes(table);
        let plan = || Plan { classes, ..diff::between(&self.layout, old, &new) };
        old.can_become(&new).then(plan)
    }
}

/// The nftables rules of one family in the network namespace of the thread that opened this.
#[derive(Debug)]
pub struct Nftables {
    planner: Planner,
    socket: Socket,
}

impl Nftables {
    /// A backend for one family; changes nothing yet.
    ///
    /// # Errors
    /// When there is no netlink socket to be had.
    pub fn open(family: Family, options: Options) -> Result<Self, NftError> {
        Ok(Self { planner: Planner::new(family, options), socket: Socket::open()? })
    }

    /// The number by which the kernel names this backend's changes to those who watch nf_tables.
    ///
    /// # Errors
    /// When the socket is of no use.
    pub fn port(&self) -> Result<u32, NftError> {
        self.socket.port()
    }

    /// Lowers how many bytes a transaction may have, to see what a plan does where less is allowed.
    pub fn limit_batch_bytes(&mut self, bytes: usize) {
        self.socket.limit_batch_bytes(bytes);
    }

    fn carry_out(&mut self, plan: &Plan) -> Result<Applied, NftablesError> {
        let batches = plan.pack(self.socket.max_batch_bytes());
        for batch in &batches {
            self.commit(batch)?;
        }
        self.planner.carried_out(plan);
        let (commits, operations) = (batches.len(), plan.operations());
        Ok(Applied { commits, operations, drift: Drift::None })
    }

    /// Reads what the kernel holds and changes what differs.
    fn converge(&mut self, table: &ForwardingTable) -> Result<Applied, NftablesError> {
        let present = self.read()?;
        self.planner.classes.clear();
        if present == Ruleset::default() {
            return self.make(table);
        }
        if let Some(plan) = self.planner.between(&present, table) {
            return self.carry_out(&plan);
        }
        let name = &self.planner.layout.table;
        tracing::warn!(table = %name, "another version's table is there; making it anew");
        self.cleanup()?;
        self.make(table)
    }

    /// Makes a table that is not there, a part at a time: all of it at once would take many times the
    /// memory that it is kept in.
    fn make(&mut self, table: &ForwardingTable) -> Result<Applied, NftablesError> {
        let layout = self.planner.layout.clone();
        let (mut part, mut bytes) = (Plan::default(), 0);
        let mut done = Applied::default();
        let mut carry_out = |part: &mut Plan| {
            let applied = self.carry_out(&std::mem::take(part))?;
            done.commits += applied.commits;
            done.operations += applied.operations;
            Ok(())
        };
        for step in diff::first(&layout, table) {
            bytes += step.encoded_len();
            part.push(step);
            if bytes >= PART_BYTES {
                carry_out(&mut part)?;
                bytes = 0;
            }
        }
        carry_out(&mut part)?;
        self.planner.classes = classes(table);
        Ok(done)
    }

    /// What would make the kernel hold this table; empty when it does. Changes nothing. For a table of
    /// another version, which can only be made anew, it is the whole plan.
    ///
    /// # Errors
    /// When the kernel's table cannot be read.
    pub fn drift(&mut self, table: &ForwardingTable) -> Result<Plan, NftablesError> {
        let present = self.read()?;
        Ok(self.planner.between(&present, table).unwrap_or_else(|| self.planner.full(table)))
    }

    fn read(&mut self) -> Result<Ruleset, NftablesError> {
        let table = &self.planner.layout.table;
        match self.socket.dump(table) {
            Ok(dump) => Ok(dump.map(Ruleset::read).unwrap_or_default()),
            Err(source) => Err(NftablesError::Unreadable { table: table.to_string(), source }),
        }
    }

    fn commit(&mut self, batch: &Batch) -> Result<(), NftablesError> {
        let table = || self.planner.layout.table.to_string();
        self.socket
            .commit(batch)
            .map_err(|source| NftablesError::Refused { table: table(), source })
    }

    fn table(&self) -> Table {
        Table { id: self.planner.layout.table.clone(), comment: None }
    }
}

impl Backend for Nftables {
    type Plan = Plan;
    type Error = NftablesError;

    fn plan_full(&self, table: &ForwardingTable) -> Plan {
        self.planner.full(table)
    }

    fn plan_delta(&self, table: &ForwardingTable, delta: &Delta) -> Plan {
        self.planner.delta(table, delta)
    }

    fn start(&mut self, table: &ForwardingTable) -> Result<Applied, NftablesError> {
        for _ in 1..TRIES {
            match self.converge(table) {
                Err(e) if e.is_drift() => {}
                done => return done,
            }
        }
        self.converge(table)
    }

    fn apply(&mut self, table: &ForwardingTable, delta: &Delta) -> Result<Applied, NftablesError> {
        let plan = self.plan_delta(table, delta);
        match self.carry_out(&plan) {
            Err(error) if error.is_drift() => {
                tracing::warn!(%error, "the rules were changed by somebody else; putting them right");
                let applied = self.start(table)?;
                Ok(Applied { drift: Drift::Repaired, ..applied })
            }
            done => done,
        }
    }

    fn cleanup(&mut self) -> Result<(), NftablesError> {
        let table = self.table();
        let id = table.id.clone();
        // Adding what is there does nothing, deleting what is not there is an error.
        self.commit(&Batch::from(vec![Op::AddTable(table), Op::DeleteTable(id)]))?;
        self.planner.classes.clear();
        Ok(())
    }
}
