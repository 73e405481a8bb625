//! The kernel's rules in the mode that the settings name, and those of the other modes, which go.

use std::fmt::Display;
use std::time::Instant;

use portolan_backend_iptables::{
    Accounting, INVALID_DROPPED, Iptables, IptablesError, LOCALHOST_ACCEPTED, ProgramError,
    Programs,
};
use portolan_backend_ipvs::{Ipvs, IpvsModeError};
use portolan_backend_nftables::{Nftables, NftablesError, TABLE};
use portolan_model::{Applied, Backend, Delta, Family, ForwardingTable, ModeProfile, RuleCount};
use portolan_netlink::ipvs::{IpvsError, Timeouts};
use portolan_netlink::nfacct;
use portolan_netlink::nft::{self, Batch, Monitor, NftError, Op, Socket, TableRef};
use thiserror::Error;

use crate::config::duration::Span;
use crate::config::{self, Mode, Settings};

/// The rules of one family in one mode.
#[derive(Debug)]
pub(crate) enum Rules {
    Iptables(Iptables),
    Ipvs(Box<Ipvs>),
    Nftables(Nftables),
}

/// Why rules could not be changed.
#[derive(Debug, Error)]
pub(crate) enum RulesError {
    #[error(transparent)]
    Iptables(#[from] IptablesError),
    #[error(transparent)]
    Ipvs(#[from] IpvsModeError),
    #[error(transparent)]
    Nftables(#[from] NftablesError),
    #[error("cannot remove kube-proxy's own nftables table: {0}")]
    Upstreams(#[from] NftError),
}

/// Why a mode cannot be used on this machine.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ModeError {
    /// No way to IPVS.
    #[error(
        "{0}; hint: mode ipvs needs a kernel with ip_vs, and CAP_NET_ADMIN; mode: nftables (--proxy-mode=nftables) does not"
    )]
    NoIpvs(#[from] IpvsModeError),
    /// A scheduler's name that is none.
    #[error("ipvs.scheduler: {0}")]
    Scheduler(#[from] IpvsError),
    /// iptables' programs are not to be found, or too old.
    #[error(
        "{0}; hint: install iptables, or set mode: nftables (--proxy-mode=nftables), which needs no program"
    )]
    NoIptables(#[from] ProgramError),
    /// No way to nf_tables.
    #[error(
        "{0}; hint: the proxy needs CAP_NET_ADMIN in its network namespace, and a kernel with nf_tables"
    )]
    NoNftables(#[from] NftError),
}

impl Rules {
    /// A backend of the settings' mode for one family; changes nothing yet.
    pub(crate) fn open(family: Family, settings: &Settings) -> Result<Self, ModeError> {
        let masquerade_mark = settings.masquerade_mark;
        match settings.mode {
            Mode::Iptables => {
                let ModeProfile { invalid_packets, .. } = settings.profile();
                has_iptables(family)?;
                let accounting = accounting();
                let options = portolan_backend_iptables::Options {
                    masquerade_mark,
                    invalid_packets,
                    accounting,
                };
                Ok(Self::Iptables(Iptables::new(family, options)))
            }
            Mode::Nftables => {
                let options = portolan_backend_nftables::Options { masquerade_mark };
                Ok(Self::Nftables(Nftables::open(family, options)?))
            }
            Mode::Ipvs => {
                let options = portolan_backend_ipvs::Options {
                    masquerade_mark,
                    scheduler: settings.effective.ipvs.scheduler.parse()?,
                    exclude_cidrs: settings.exclude_cidrs(),
                    ..Default::default()
                };
                let mut ipvs = Ipvs::open(family, options)?;
                if !ipvs.has_scheduler()? {
                    let name = settings.effective.ipvs.scheduler.clone();
                    return Err(IpvsModeError::NoScheduler(name).into());
                }
                let timeouts = timeouts(&settings.effective.ipvs);
                if timeouts != Timeouts::default() {
                    ipvs.set_timeouts(timeouts)?;
                }
                Ok(Self::Ipvs(Box::new(ipvs)))
            }
        }
    }
}

/// Of IPVS' connections; what the configuration says as nought stays as it is.
fn timeouts(configured: &config::types::Ipvs) -> Timeouts {
    let seconds = |span: Span| u32::try_from(span.0.as_secs()).unwrap_or(u32::MAX);
    Timeouts {
        tcp: seconds(configured.tcp_timeout),
        tcp_fin: seconds(configured.tcp_fin_timeout),
        udp: seconds(configured.udp_timeout),
    }
}

/// Whether iptables' programs can be run at all, and are new enough.
pub(crate) fn has_iptables(family: Family) -> Result<(), ModeError> {
    Programs::of(family).check().map_err(ModeError::NoIptables)
}

/// Counts where the kernel can: the counters are there before rules count in them.
fn accounting() -> Accounting {
    let made = nfacct::Socket::open()
        .and_then(|mut counters| COUNTERS.iter().try_for_each(|counter| counters.ensure(counter)));
    match made {
        Ok(()) => Accounting::On,
        Err(e) => {
            tracing::debug!(error = %e, "Invalid packets and localhost node ports are not counted");
            Accounting::Off
        }
    }
}

/// The counters of mode iptables.
const COUNTERS: [&str; 2] = [INVALID_DROPPED, LOCALHOST_ACCEPTED];

/// How many packets each of [`COUNTERS`] has counted; nothing where there are none, as in other modes.
pub(crate) fn counted() -> Option<[u64; 2]> {
    let mut counters = nfacct::Socket::open().ok()?;
    let mut packets = |name| Some(counters.read(name).ok()??.packets);
    Some([packets(INVALID_DROPPED)?, packets(LOCALHOST_ACCEPTED)?])
}

/// Hears of what others do to the rules, in the mode whose rules the kernel speaks of.
pub(crate) fn monitor(rules: &[(Family, Rules)]) -> Result<Option<Monitor>, NftError> {
    let (mut tables, mut ports) = (Vec::new(), Vec::new());
    for (family, rules) in rules {
        let (table, port) = match rules {
            Rules::Iptables(_) => continue,
            Rules::Ipvs(ipvs) => (portolan_backend_ipvs::TABLE, ipvs.port()?),
            Rules::Nftables(nftables) => (TABLE, Some(nftables.port()?)),
        };
        tables.push(TableRef::new(nft_family(*family), table));
        ports.extend(port);
    }
    if tables.is_empty() { Ok(None) } else { Monitor::open(tables, ports).map(Some) }
}

/// The table of upstream's proxy in mode nftables, which this one takes over from.
const UPSTREAMS_TABLE: &str = "kube-proxy";

/// Removes the rules that other modes than this one left in the kernel, and those of upstream's proxy;
/// without a mode, those of all. Where a mode was never possible there are none.
pub(crate) fn remove_others(mode: Option<Mode>, families: &[Family]) -> Result<(), RulesError> {
    let mut result = Ok(());
    for family in families {
        if mode != Some(Mode::Iptables) {
            result = result.and(remove_iptables(*family).map_err(Into::into));
        }
        result = result.and(remove_upstreams_table(*family).map_err(Into::into));
        if mode != Some(Mode::Ipvs)
            && let Ok(mut ipvs) = Ipvs::open(*family, Default::default())
        {
            result = result.and(ipvs.cleanup().map_err(Into::into));
        }
        if mode != Some(Mode::Nftables)
            && let Ok(mut nftables) = Nftables::open(*family, Default::default())
        {
            result = result.and(nftables.cleanup().map_err(Into::into));
        }
    }
    result
}

/// It would go on sending packets to the endpoints of its day.
fn remove_upstreams_table(family: Family) -> Result<(), NftError> {
    let Ok(mut socket) = Socket::open() else { return Ok(()) };
    // Where there is no nf_tables there is nothing to list either.
    let tables = socket.tables().unwrap_or_default();
    let id = TableRef::new(nft_family(family), UPSTREAMS_TABLE);
    if !tables.iter().any(|table| table.id == id) {
        return Ok(());
    }
    let removal = Batch::from(vec![Op::DeleteTable(id)]);
    match socket.commit(&removal) {
        // Somebody else was quicker.
        Err(error) if error.is_drift() => Ok(()),
        done => done,
    }
}

fn nft_family(family: Family) -> nft::Family {
    match family {
        Family::Ipv4 => nft::Family::Ip,
        Family::Ipv6 => nft::Family::Ip6,
    }
}

fn remove_iptables(family: Family) -> Result<(), IptablesError> {
    match has_iptables(family) {
        Err(ModeError::NoIptables(ProgramError::Missing { .. })) => Ok(()),
        _ => {
            Iptables::new(family, Default::default()).cleanup()?;
            // They are there for the rules of both families: the last one's end is theirs.
            if let Ok(mut counters) = nfacct::Socket::open() {
                let _ = COUNTERS.map(|counter| counters.delete(counter));
            }
            Ok(())
        }
    }
}

impl Backend for Rules {
    type Plan = Box<dyn Display>;
    type Error = RulesError;

    fn plan_full(&self, table: &ForwardingTable) -> Self::Plan {
        match self {
            Self::Iptables(iptables) => Box::new(iptables.plan_full(table)),
            Self::Ipvs(ipvs) => Box::new(ipvs.plan_full(table)),
            Self::Nftables(nftables) => Box::new(nftables.plan_full(table)),
        }
    }

    fn plan_delta(&self, table: &ForwardingTable, delta: &Delta) -> Self::Plan {
        match self {
            Self::Iptables(iptables) => Box::new(iptables.plan_delta(table, delta)),
            Self::Ipvs(ipvs) => Box::new(ipvs.plan_delta(table, delta)),
            Self::Nftables(nftables) => Box::new(nftables.plan_delta(table, delta)),
        }
    }

    fn start(&mut self, table: &ForwardingTable) -> Result<Applied, RulesError> {
        Ok(match self {
            Self::Iptables(iptables) => iptables.start(table)?,
            Self::Ipvs(ipvs) => ipvs.start(table)?,
            Self::Nftables(nftables) => nftables.start(table)?,
        })
    }

    fn apply(&mut self, table: &ForwardingTable, delta: &Delta) -> Result<Applied, RulesError> {
        Ok(match self {
            Self::Iptables(iptables) => iptables.apply(table, delta)?,
            Self::Ipvs(ipvs) => ipvs.apply(table, delta)?,
            Self::Nftables(nftables) => nftables.apply(table, delta)?,
        })
    }

    fn tend(&mut self, now: Instant) -> Result<Option<Instant>, RulesError> {
        Ok(match self {
            Self::Iptables(iptables) => iptables.tend(now)?,
            Self::Ipvs(ipvs) => ipvs.tend(now)?,
            Self::Nftables(nftables) => nftables.tend(now)?,
        })
    }

    fn rules(&self) -> Vec<RuleCount> {
        match self {
            Self::Iptables(iptables) => iptables.rules(),
            Self::Ipvs(ipvs) => ipvs.rules(),
            Self::Nftables(nftables) => nftables.rules(),
        }
    }

    fn cleanup(&mut self) -> Result<(), RulesError> {
        match self {
            Self::Iptables(iptables) => iptables.cleanup()?,
            Self::Ipvs(ipvs) => ipvs.cleanup()?,
            Self::Nftables(nftables) => nftables.cleanup()?,
        }
        Ok(())
    }
}
