//! The server's randomness: name suffixes, addresses, ports, jitter.

/// A uniformly random number below `bound` (zero for zero).
pub(crate) fn random_below(bound: u64) -> u64 {
    if bound == 0 {
        return 0;
    }
    // The version bits of a v4 UUID are fixed; the low 62 bits are random.
    let (_, low) = uuid::Uuid::new_v4().as_u64_pair();
    (low & (u64::MAX >> 2)) % bound
}
