//! Comparing what a node's kernel holds with what it should hold.

use portolan_backend_nftables::{Nftables, Options};
use portolan_model::{ForwardingTable, ModeProfile};

use crate::TraceError;
use crate::printable::printable_lines;
use crate::view::View;

/// How far a kernel is from what it should hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drift {
    /// How many objects would have to be made, changed or removed; none: the kernel holds the table.
    pub operations: usize,
    /// What would put it right, as nft text; nothing in it can act upon a terminal.
    pub plan: String,
}

/// Compares a table with the kernel of this thread's network namespace. Changes nothing.
///
/// # Errors
/// When the mode has no such comparison, or the kernel does not let its rules be read.
pub fn compare(view: &View, table: &ForwardingTable) -> Result<Drift, TraceError> {
    if view.profile != ModeProfile::NFTABLES {
        return Err(TraceError::KernelMode(view.profile.mode));
    }
    let options = Options { masquerade_mark: view.masquerade_mark };
    let mut backend =
        Nftables::open(table.family, options).map_err(|e| TraceError::Kernel(Box::new(e)))?;
    let plan = backend.drift(table)?;
    Ok(Drift { operations: plan.operations(), plan: printable_lines(&plan.to_string()) })
}
