//! Node ports.

use std::ops::RangeInclusive;

use super::bands::{self, Bands};
use super::runs::Runs;
use super::{AllocError, Rng, What};

/// Node ports of one range.
#[derive(Clone, Debug)]
pub struct PortAllocator {
    range: RangeInclusive<u16>,
    bands: Option<Bands>,
    taken: Runs,
    count: u64,
}

impl PortAllocator {
    /// An empty allocator.
    pub fn new(range: RangeInclusive<u16>) -> Self {
        let (first, last) = (u128::from(*range.start()), u128::from(*range.end()));
        let bands = Bands::new(first, last, bands::offset(range.len() as u64, 32, 128));
        Self { range, bands, taken: Runs::default(), count: 0 }
    }

    /// The range, as upstream's messages show it.
    pub fn range(&self) -> String {
        format!("{}-{}", self.range.start(), self.range.end())
    }

    /// Takes one port. A number that is no port at all is out of range.
    ///
    /// # Errors
    /// [`AllocError::Allocated`], [`AllocError::NotInRange`].
    pub fn allocate(&mut self, port: i64) -> Result<u16, AllocError> {
        let inside = u16::try_from(port).ok().filter(|port| self.range.contains(port));
        let port = inside.ok_or_else(|| AllocError::NotInRange(self.range()))?;
        if !self.taken.insert(port.into()) {
            return Err(AllocError::Allocated(What::Port));
        }
        self.count += 1;
        Ok(port)
    }

    /// Takes a random free port, of the upper (dynamic) band while it lasts.
    ///
    /// # Errors
    /// [`AllocError::Full`].
    pub fn allocate_next(&mut self, rng: Rng<'_>) -> Result<u16, AllocError> {
        let found = self.bands.and_then(|bands| bands.next(&self.taken, rng));
        let found = found.ok_or(AllocError::Full)?;
        self.taken.insert(found);
        self.count += 1;
        Ok(u16::try_from(found).expect("a number of a range of ports is a port"))
    }

    /// Gives a port back; whether it had been taken.
    pub fn release(&mut self, port: u16) -> bool {
        let was_taken = self.taken.remove(port.into());
        self.count -= u64::from(was_taken);
        was_taken
    }

    /// Whether a port is taken.
    pub fn has(&self, port: u16) -> bool {
        self.taken.contains(port.into())
    }

    /// What is taken, in order.
    pub fn taken(&self) -> impl Iterator<Item = u16> {
        self.taken.iter().filter_map(|port| u16::try_from(port).ok())
    }

    /// How many are taken.
    pub fn allocated(&self) -> u64 {
        self.count
    }

    /// How many are free.
    pub fn free(&self) -> u64 {
        self.range.len() as u64 - self.count
    }
}
