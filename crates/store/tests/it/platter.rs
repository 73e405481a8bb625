//! A disk of memory that behaves as badly as a real one may: until a sync, writes are promises.
//!
//! - Power loss: at a chosen operation everything stops. What was not synced is kept, lost or torn,
//!   each sector for itself and in any order.
//! - A failed sync: some of what was pending is on the disk and some is not, the reader sees all of
//!   it (it is in the page cache), and the next sync succeeds. Only [`Medium::distrust`] tells.
//! - A full disk: writes beyond its size fail.

use std::io;
use std::path::Path;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use portolan_store::Medium;

const SECTOR: usize = 512;

/// A small generator (splitmix64): a seed tells the whole run.
#[derive(Clone, Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn index(&mut self, bound: usize) -> usize {
        usize::try_from(self.below(bound as u64)).unwrap()
    }
}

/// Prints the seed when a test fails.
pub(crate) struct Seed(pub(crate) u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed with seed {}", self.0);
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Platter(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    random: Random,
    /// What is on the disk.
    durable: Vec<u8>,
    /// What readers see: the disk under the page cache.
    current: Vec<u8>,
    pending: Vec<Pending>,
    /// Writes, syncs and changes of the length so far.
    operations: u64,
    syncs: u64,
    /// Everything fails from this operation on.
    power_until: Option<u64>,
    /// This operation fails, once.
    fault_at: Option<u64>,
    /// The next sync fails.
    sync_fault: bool,
    /// Opening fails.
    unreadable: bool,
    size: u64,
}

#[derive(Clone, Debug)]
enum Pending {
    Write { offset: usize, data: Vec<u8> },
    Length(usize),
}

impl Platter {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            random: Random(seed),
            durable: Vec::new(),
            current: Vec::new(),
            pending: Vec::new(),
            operations: 0,
            syncs: 0,
            power_until: None,
            fault_at: None,
            sync_fault: false,
            unreadable: false,
            size: u64::MAX,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }

    pub(crate) fn operations(&self) -> u64 {
        self.state().operations
    }

    pub(crate) fn syncs(&self) -> u64 {
        self.state().syncs
    }

    /// The power goes so many operations from now.
    pub(crate) fn cut_after(&self, operations: u64) {
        let mut state = self.state();
        state.power_until = Some(state.operations + operations);
    }

    pub(crate) fn has_lost_power(&self) -> bool {
        self.state().power_lost()
    }

    /// The power is back; what the disk makes of the unsynced is decided now.
    pub(crate) fn power_on(&self) {
        let mut state = self.state();
        state.power_until = None;
        state.fault_at = None;
        state.lose();
        state.current = state.durable.clone();
    }

    /// An operation fails with EIO, so many from now.
    pub(crate) fn fail_after(&self, operations: u64) {
        let mut state = self.state();
        state.fault_at = Some(state.operations + operations);
    }

    /// The next sync fails with EIO.
    pub(crate) fn fail_next_sync(&self) {
        self.state().sync_fault = true;
    }

    /// Whether the fault has happened.
    pub(crate) fn has_failed(&self) -> bool {
        let state = self.state();
        state.fault_at.is_some_and(|at| at < state.operations)
    }

    pub(crate) fn set_unreadable(&self, unreadable: bool) {
        self.state().unreadable = unreadable;
    }

    pub(crate) fn set_size(&self, size: u64) {
        self.state().size = size;
    }

    pub(crate) fn length(&self) -> u64 {
        self.state().current.len() as u64
    }
}

impl State {
    fn power_lost(&self) -> bool {
        self.power_until.is_some_and(|at| self.operations >= at)
    }

    /// Counts an operation; true when it is the one to fail.
    fn operation(&mut self) -> io::Result<bool> {
        if self.power_lost() {
            return Err(io::Error::other("the power is off"));
        }
        self.operations += 1;
        Ok(self.fault_at == Some(self.operations - 1))
    }

    /// Each sector of what is pending gets to the disk or not, in any order.
    fn lose(&mut self) {
        let mut pending = std::mem::take(&mut self.pending);
        // From nothing kept to everything kept.
        let odds = self.random.below(5);
        for last in (1..pending.len()).rev() {
            let other = self.random.index(last + 1);
            pending.swap(last, other);
        }
        for pending in pending {
            match pending {
                Pending::Length(length) => {
                    if self.random.below(4) < odds {
                        self.durable.resize(length, 0);
                    }
                }
                Pending::Write { offset, data } => {
                    let mut at = 0;
                    while at < data.len() {
                        let to_boundary = SECTOR - (offset + at) % SECTOR;
                        let sector = &data[at..data.len().min(at + to_boundary)];
                        let kept = match self.random.below(64) {
                            0 => self.random.index(sector.len() + 1),
                            _ if self.random.below(4) < odds => sector.len(),
                            _ => 0,
                        };
                        put(&mut self.durable, offset + at, &sector[..kept]);
                        at += sector.len();
                    }
                }
            }
        }
    }

    fn flush(&mut self) {
        for pending in std::mem::take(&mut self.pending) {
            match pending {
                Pending::Length(length) => self.durable.resize(length, 0),
                Pending::Write { offset, data } => put(&mut self.durable, offset, &data),
            }
        }
    }
}

fn put(bytes: &mut Vec<u8>, offset: usize, data: &[u8]) {
    if data.is_empty() {
        return;
    }
    let end = offset + data.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[offset..end].copy_from_slice(data);
}

fn eio() -> io::Error {
    io::Error::other("input/output error")
}

fn place(offset: u64) -> usize {
    usize::try_from(offset).unwrap()
}

impl Medium for Platter {
    type Opened = Platter;

    fn path(&self) -> &Path {
        "/platter".as_ref()
    }

    fn open(&self) -> io::Result<Platter> {
        let state = self.state();
        if state.unreadable || state.power_lost() {
            return Err(eio());
        }
        Ok(self.clone())
    }

    fn distrust(&self) -> io::Result<()> {
        let mut state = self.state();
        if state.unreadable || state.power_lost() {
            return Err(eio());
        }
        state.flush();
        state.current = state.durable.clone();
        Ok(())
    }
}

impl redb::StorageBackend for Platter {
    fn len(&self) -> io::Result<u64> {
        Ok(self.length())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.state();
        let start = place(offset);
        let bytes = state.current.get(start..start + out.len());
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.state();
        if state.operation()? {
            return Err(eio());
        }
        state.current.resize(place(len), 0);
        state.pending.push(Pending::Length(place(len)));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.state();
        if state.operation()? || std::mem::take(&mut state.sync_fault) {
            state.lose();
            return Err(eio());
        }
        state.syncs += 1;
        state.flush();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        if state.operation()? {
            return Err(eio());
        }
        if offset + data.len() as u64 > state.size {
            return Err(io::ErrorKind::StorageFull.into());
        }
        put(&mut state.current, place(offset), data);
        state.pending.push(Pending::Write { offset: place(offset), data: data.to_vec() });
        Ok(())
    }
}
