//! Reading what the kernel holds, and carrying steps out.

use std::collections::BTreeSet;
use std::net::IpAddr;

use portolan_model::Family;
use portolan_netlink::ipvs::{self, VirtualServer};
use portolan_netlink::nft::{self, Batch, NftError, Op, Table};
use portolan_netlink::{Errno, address};

use crate::backend::IpvsModeError;
use crate::content::{Content, Server};
use crate::layout::Layout;
use crate::options::LINK;
use crate::plan::{Plan, Stage};
use crate::rules::ChainRules;

/// Ways to the kernel, all of one network namespace.
#[derive(Debug)]
pub(crate) struct Kernel {
    family: Family,
    pub(crate) servers: ipvs::Socket,
    addresses: address::Socket,
    /// None: the nftables part is left out.
    nft: Option<nft::Socket>,
}

/// What the kernel holds.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) content: Content,
    /// The node's addresses on other links.
    pub(crate) own: BTreeSet<IpAddr>,
    /// Addresses on the dummy link that the kernel may pick as a source for anything, as those that
    /// kube-proxy put there.
    pub(crate) misheld: BTreeSet<IpAddr>,
    /// The nftables table.
    pub(crate) table: SeenTable,
}

/// The nftables table as it was found.
#[derive(Debug, Default)]
pub(crate) enum SeenTable {
    /// It is left out.
    #[default]
    Ignored,
    /// There is none.
    Absent,
    /// It is of another version.
    Other,
    /// It has these chains.
    Chains(Vec<ChainRules>),
}

impl Kernel {
    pub(crate) fn open(family: Family, nft: Option<nft::Socket>) -> Result<Self, IpvsModeError> {
        let (servers, addresses) = (ipvs::Socket::open()?, address::Socket::open()?);
        Ok(Self { family, servers, addresses, nft })
    }

    pub(crate) fn port(&self) -> Option<Result<u32, NftError>> {
        self.nft.as_ref().map(nft::Socket::port)
    }

    pub(crate) fn read(&mut self, layout: &Layout) -> Result<Seen, IpvsModeError> {
        let mut seen = Seen::default();
        for (at, service) in self.virtual_servers()? {
            let targets = self.servers.destinations(&at)?.into_iter();
            let targets = targets.map(|listed| (listed.server, listed.destination)).collect();
            seen.content.servers.insert(at, Server { service, targets });
        }
        let link = self.addresses.index(LINK)?;
        for address::Held { link: of, address: ip, source_of, .. } in self.addresses.addresses()? {
            if Family::of(ip) != self.family {
                continue;
            }
            if Some(of) != link {
                seen.own.insert(ip);
                continue;
            }
            seen.content.link.insert(ip);
            if source_of == address::SourceOf::Anything {
                seen.misheld.insert(ip);
            }
        }
        self.read_table(layout, &mut seen)?;
        Ok(seen)
    }

    fn read_table(&mut self, layout: &Layout, seen: &mut Seen) -> Result<(), IpvsModeError> {
        let Some(nft) = &mut self.nft else { return Ok(()) };
        let table = &layout.table;
        let dump = nft.dump(table).map_err(|source| IpvsModeError::rules(table, source))?;
        let Some(dump) = dump else {
            seen.table = SeenTable::Absent;
            return Ok(());
        };
        if layout.read(&dump, &mut seen.content).is_none() {
            seen.table = SeenTable::Other;
            return Ok(());
        }
        let mut chains: Vec<_> = dump.chains.into_iter().map(ChainRules::empty).collect();
        for (_, rule) in dump.rules {
            if let Some(chain) = chains.iter_mut().find(|chain| chain.chain.name == rule.chain) {
                chain.rules.push(rule);
            }
        }
        seen.table = SeenTable::Chains(chains);
        Ok(())
    }

    pub(crate) fn virtual_servers(
        &mut self,
    ) -> Result<Vec<(VirtualServer, ipvs::Service)>, IpvsModeError> {
        let mut all = self.servers.services()?;
        all.retain(|(at, _)| Family::of(at.address) == self.family);
        Ok(all)
    }

    /// Carries a plan out, up to the first refusal; gives how many transactions and rows of
    /// operations it took.
    pub(crate) fn carry_out(
        &mut self,
        layout: &Layout,
        plan: &Plan,
    ) -> Result<usize, IpvsModeError> {
        let max_bytes = self.nft.as_ref().map_or(usize::MAX, nft::Socket::max_batch_bytes);
        let mut done = 0;
        for stage in plan.stages(max_bytes) {
            match stage {
                Stage::Nft(_) if self.nft.is_none() => continue,
                Stage::Nft(batch) => self.commit(layout, &batch)?,
                Stage::Servers(ops) => self.change_servers(ops)?,
                Stage::Addresses(ops) => self.change_addresses(ops)?,
            }
            done += 1;
        }
        Ok(done)
    }

    pub(crate) fn change_servers(&mut self, ops: &[ipvs::Op]) -> Result<(), IpvsModeError> {
        for refusal in self.servers.apply(ops)? {
            let Some(op) = ops.get(refusal.op) else { continue };
            let (text, errno) = (format!("ipvsadm {op}"), refusal.errno);
            match (op, errno) {
                // An endpoint's address that is no host's; the others are not to suffer from it.
                (ipvs::Op::AddDestination(..), Errno::EINVAL) => {
                    tracing::warn!("{text}: the kernel sends nothing there");
                }
                (ipvs::Op::AddService(..) | ipvs::Op::SetService(..), Errno::ENOENT) => {
                    return Err(IpvsModeError::NoScheduler(text));
                }
                _ => return Err(IpvsModeError::Refused { op: text, errno }),
            }
        }
        Ok(())
    }

    fn change_addresses(&mut self, ops: &[address::Op]) -> Result<(), IpvsModeError> {
        let index = match self.addresses.index(LINK)? {
            Some(index) => index,
            None => {
                match self.addresses.add_dummy(LINK) {
                    // The other family's backend was quicker.
                    Err(address::AddressError::Refused { errno: Errno::EEXIST, .. }) => {}
                    done => done?,
                }
                let made = self.addresses.index(LINK)?;
                made.ok_or(IpvsModeError::Refused { op: LINK.into(), errno: Errno::ENODEV })?
            }
        };
        for refusal in self.addresses.apply(index, ops)? {
            let Some(op) = ops.get(refusal.op) else { continue };
            let (text, errno) = (format!("ip address {op} dev {LINK}"), refusal.errno);
            match (op, errno) {
                // A Service's address that no host can have, as a multicast one.
                (address::Op::Add(_), Errno::EINVAL | Errno::EADDRNOTAVAIL) => {
                    tracing::warn!("{text}: {}", errno.desc());
                }
                _ => return Err(IpvsModeError::Refused { op: text, errno }),
            }
        }
        Ok(())
    }

    fn commit(&mut self, layout: &Layout, batch: &Batch) -> Result<(), IpvsModeError> {
        let Some(nft) = &mut self.nft else { return Ok(()) };
        nft.commit(batch).map_err(|source| IpvsModeError::rules(&layout.table, source))
    }

    pub(crate) fn delete_table(&mut self, layout: &Layout) -> Result<(), IpvsModeError> {
        let table = Table { id: layout.table.clone(), comment: None };
        let id = table.id.clone();
        // Adding what is there does nothing, deleting what is not there is an error.
        self.commit(layout, &Batch::from(vec![Op::AddTable(table), Op::DeleteTable(id)]))
    }

    /// Takes the addresses of this family from the dummy link, and removes it when none is left.
    /// Gives whether there was such a link.
    pub(crate) fn clear_link(&mut self) -> Result<bool, IpvsModeError> {
        let Some(index) = self.addresses.index(LINK)? else { return Ok(false) };
        let all = self.addresses.addresses()?.into_iter();
        let held: Vec<_> = all.filter(|held| held.link == index).map(|held| held.address).collect();
        let is_ours = |ip: &&IpAddr| Family::of(**ip) == self.family;
        let ours: Vec<_> = held.iter().filter(is_ours).copied().map(address::Op::Remove).collect();
        if ours.len() == held.len() {
            self.addresses.delete(index)?;
        } else {
            self.change_addresses(&ours)?;
        }
        Ok(true)
    }
}
