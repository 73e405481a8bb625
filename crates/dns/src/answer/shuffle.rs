//! The order of addresses in an answer.

/// How addresses are ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LoadBalance {
    /// As they are kept.
    #[default]
    Off,
    /// In any order, another one each time.
    RoundRobin,
}

/// Gives addresses another order each time. Chance that need not be secret: xorshift64*.
#[derive(Debug, Clone)]
pub struct Shuffle {
    policy: LoadBalance,
    state: u64,
}

impl Shuffle {
    /// One that starts from a seed.
    #[must_use]
    pub fn new(policy: LoadBalance, seed: u64) -> Self {
        Self { policy, state: seed | 1 }
    }

    /// Changes the policy.
    pub fn set(&mut self, policy: LoadBalance) {
        self.policy = policy;
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        let high = self.state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32;
        usize::try_from((high * bound as u64) >> 32).unwrap_or_default()
    }

    /// A place below `bound` to change with the last one before it, or that one itself.
    pub(crate) fn choose(&mut self, bound: usize) -> usize {
        match self.policy {
            LoadBalance::Off => bound - 1,
            LoadBalance::RoundRobin => self.below(bound),
        }
    }

    /// Reorders as the policy says.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        if self.policy == LoadBalance::Off {
            return;
        }
        for last in (1..items.len()).rev() {
            let other = self.below(last + 1);
            items.swap(last, other);
        }
    }
}
