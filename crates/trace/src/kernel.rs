//! Comparing what a node's kernel holds with what it should hold.

use portolan_backend_iptables::{self as iptables, Iptables};
use portolan_backend_nftables::{self as nftables, Nftables};
use portolan_model::{ForwardingTable, ModeProfile};
use portolan_netlink::nfacct;

use crate::TraceError;
use crate::printable::printable_lines;
use crate::view::View;

/// How far a kernel is from what it should hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drift {
    /// How many objects would have to be made, changed or removed; none: the kernel holds the table.
    pub operations: usize,
    /// What would put it right, as text of nft or of iptables-restore; nothing in it can act upon a terminal.
    pub plan: String,
}

/// Compares a table with the kernel of this thread's network namespace. Changes nothing.
///
/// # Errors
/// When the mode has no such comparison, or the kernel does not let its rules be read.
pub fn compare(view: &View, table: &ForwardingTable) -> Result<Drift, TraceError> {
    let masquerade_mark = view.masquerade_mark;
    let (operations, plan) = match view.profile.mode {
        mode if mode == ModeProfile::NFTABLES.mode => {
            let options = nftables::Options { masquerade_mark };
            let mut backend = Nftables::open(table.family, options)
                .map_err(|e| TraceError::Kernel(Box::new(e)))?;
            let plan = backend.drift(table).map_err(|e| TraceError::Kernel(Box::new(e)))?;
            (plan.operations(), plan.to_string())
        }
        mode if mode == ModeProfile::IPTABLES.mode => {
            let invalid_packets = view.profile.invalid_packets;
            let accounting = accounting();
            let options = iptables::Options { masquerade_mark, invalid_packets, accounting };
            let plan = Iptables::new(table.family, options)
                .drift(table)
                .map_err(|e| TraceError::Kernel(Box::new(e)))?;
            (plan.operations(), plan.to_string())
        }
        mode => return Err(TraceError::KernelMode(mode)),
    };
    Ok(Drift { operations, plan: printable_lines(&plan) })
}

/// A proxy counts where its kernel can, and makes the counters before it says rules.
fn accounting() -> iptables::Accounting {
    let read = nfacct::Socket::open().and_then(|mut it| it.read(iptables::INVALID_DROPPED));
    match read {
        Ok(Some(_)) => iptables::Accounting::On,
        _ => iptables::Accounting::Off,
    }
}
