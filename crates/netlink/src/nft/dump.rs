//! Reading a table back, as one moment saw it.
//!
//! The kernel counts generations of the whole ruleset; a dump that began and ended in different
//! ones is thrown away and made again. That is not enough for a large set: its hash table is resized
//! behind the scenes, and a dump of several pieces goes by position, so that it misses some
//! elements and lists others twice. Such a list counts only when a second one is the same.

use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;

use super::attr::{self, msg};
use super::commit::{NftError, Socket};
use super::decode;
use super::encode::nfgen;
use super::object::{Chain, Element, Handle, Rule, Set, Table, TableRef};
use crate::socket::RequestError;
use crate::wire::{Malformed, Message, Writer, flag};

/// How often a dump is tried while others change the ruleset.
const TRIES: usize = 50;
/// How long to leave a set to its resizing.
const RESIZING: Duration = Duration::from_millis(5);

/// A table and all that is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dump {
    /// The generation that was read.
    pub generation: u32,
    /// The table.
    pub table: Table,
    /// Its chains.
    pub chains: Vec<Chain>,
    /// Its sets and maps with their elements, but those that rules keep for themselves.
    pub sets: Vec<(Arc<Set>, Vec<Element>)>,
    /// Its rules, in each chain's order.
    pub rules: Vec<(Handle, Rule)>,
}

impl Socket {
    /// The number of the ruleset's generation; any change by anyone makes it another.
    ///
    /// # Errors
    /// Faults of the exchange only.
    pub fn generation(&mut self) -> Result<u32, NftError> {
        let mut found = None;
        self.get(
            msg::GET_GEN,
            flag::ACK,
            0,
            |_| {},
            |message| {
                found = Some(decode::generation(message)?);
                Ok(())
            },
        )?;
        Ok(found.ok_or(Malformed("no generation"))?)
    }

    /// All tables of the families that this crate speaks.
    ///
    /// # Errors
    /// Faults of the exchange only.
    pub fn tables(&mut self) -> Result<Vec<Table>, NftError> {
        let mut tables = Vec::new();
        self.get(
            msg::GET_TABLE,
            flag::DUMP,
            0,
            |_| {},
            |message| {
                tables.extend(decode::table(message)?);
                Ok(())
            },
        )?;
        Ok(tables)
    }

    /// The table with all that is in it; none when there is none.
    ///
    /// # Errors
    /// [`NftError::Unsteady`] when others never stop changing the ruleset.
    pub fn dump(&mut self, table: &TableRef) -> Result<Option<Dump>, NftError> {
        self.steadily(|socket, generation| socket.dump_once(table, generation))
    }

    /// The elements of a set alone.
    ///
    /// # Errors
    /// [`NftError::NotFound`] when there is no such set.
    pub fn dump_elements(&mut self, set: &Set) -> Result<Vec<Element>, NftError> {
        self.steadily(|socket, _| {
            let listed = socket.listed(set)?;
            Ok(decode::ranges(set, listed))
        })
    }

    /// Reads until the generation is the same before and after.
    fn steadily<T>(
        &mut self,
        mut read: impl FnMut(&mut Self, u32) -> Result<T, NftError>,
    ) -> Result<T, NftError> {
        let mut before = self.generation()?;
        for _ in 0..TRIES {
            let found = read(self, before);
            let after = self.generation()?;
            if before == after && !matches!(found, Err(NftError::Unsteady)) {
                return found;
            }
            before = after;
        }
        Err(NftError::Unsteady)
    }

    fn dump_once(&mut self, wanted: &TableRef, generation: u32) -> Result<Option<Dump>, NftError> {
        let Some(table) = self.table(wanted)? else { return Ok(None) };
        let (family, name) = (wanted.family.code(), wanted.name.as_str());
        let mut chains = Vec::new();
        let in_table = |w: &mut Writer| w.text(attr::chain::TABLE, name);
        self.get(msg::GET_CHAIN, flag::DUMP, family, in_table, |message| {
            chains.extend(decode::chain(message, wanted)?);
            Ok(())
        })?;
        let mut sets = Vec::new();
        let in_table = |w: &mut Writer| w.text(attr::set::TABLE, name);
        self.get(msg::GET_SET, flag::DUMP, family, in_table, |message| {
            sets.extend(decode::set(message, wanted)?);
            Ok(())
        })?;
        let mut rules = Vec::new();
        let in_table = |w: &mut Writer| w.text(attr::rule::TABLE, name);
        self.get(msg::GET_RULE, flag::DUMP, family, in_table, |message| {
            rules.extend(decode::rule(message, wanted)?);
            Ok(())
        })?;
        let mut filled = Vec::with_capacity(sets.len());
        for set in sets {
            let listed = self.listed(&set)?;
            filled.push(decode::with_elements(set, listed));
        }
        Ok(Some(Dump { generation, table, chains, sets: filled, rules }))
    }

    fn table(&mut self, wanted: &TableRef) -> Result<Option<Table>, NftError> {
        let mut table = None;
        let named = |w: &mut Writer| w.text(attr::table::NAME, wanted.name.as_str());
        let got = self.get(msg::GET_TABLE, flag::ACK, wanted.family.code(), named, |message| {
            table = decode::table(message)?;
            Ok(())
        });
        match got {
            Err(NftError::NotFound(_)) => Ok(None),
            other => other.map(|()| table),
        }
    }

    /// The elements of a set, read again until nothing moves while it is read.
    fn listed(&mut self, set: &Set) -> Result<Vec<decode::Listed>, NftError> {
        let (mut last, pieces) = self.listed_once(set)?;
        if pieces <= 1 {
            return Ok(last);
        }
        for _ in 0..TRIES {
            let (next, _) = self.listed_once(set)?;
            if next.windows(2).all(|pair| pair[0] != pair[1]) && next == last {
                return Ok(next);
            }
            last = next;
            std::thread::sleep(RESIZING);
        }
        Err(NftError::Unsteady)
    }

    /// The elements of a set in the order of their keys, and how many messages they came in.
    fn listed_once(&mut self, set: &Set) -> Result<(Vec<decode::Listed>, usize), NftError> {
        let (mut elements, mut pieces) = (Vec::new(), 0);
        let named = |w: &mut Writer| {
            w.text(attr::elem_list::TABLE, set.table.name.as_str());
            w.text(attr::elem_list::SET, set.name.as_str());
        };
        let family = set.table.family.code();
        self.get(msg::GET_ELEM, flag::DUMP, family, named, |message| {
            pieces += 1;
            decode::elements(message, set, &mut elements)
        })?;
        elements.sort_by(decode::Listed::by_key);
        Ok((elements, pieces))
    }

    fn get(
        &mut self,
        kind: u16,
        flags: u16,
        family: u8,
        filter: impl FnOnce(&mut Writer),
        each: impl FnMut(&Message<'_>) -> Result<(), Malformed>,
    ) -> Result<(), NftError> {
        let seq = self.netfilter.sequence(1);
        let mut w = Writer::default();
        let kind = attr::SUBSYSTEM | kind;
        w.message(kind, flag::REQUEST | flags, seq, nfgen(family, 0), filter);
        let bytes = w.finish().ok_or(NftError::TooLong)?;
        match self.netfilter.request(seq, &bytes, each) {
            // A dump that another change overtook ends with EINTR or EAGAIN in some kernels.
            Err(RequestError::Refused(answer))
                if [Errno::EINTR, Errno::EAGAIN].contains(&Errno::from_raw(answer.errno)) =>
            {
                Err(NftError::Unsteady)
            }
            other => other.map_err(Into::into),
        }
    }
}
