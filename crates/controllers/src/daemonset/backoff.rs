//! How soon a daemon that failed is replaced: 1 s, 2 s, 4 s … up to 15 min for each node, so that
//! a pod that fails at once is not made and deleted as fast as the API server can.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use crate::clock::elapsed;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(15 * 60);

/// Replacements made so far.
#[derive(Debug, Default)]
pub(super) struct Backoff(HashMap<(String, String), Entry>);

#[derive(Debug)]
struct Entry {
    replaced: u32,
    last: Timestamp,
}

impl Backoff {
    /// Whether the daemon of this set and node may be replaced now; if not, after what time.
    pub(super) fn replace(
        &mut self,
        set: &str,
        node: &str,
        now: Timestamp,
    ) -> Result<(), Duration> {
        self.0.retain(|_, entry| elapsed(entry.last, now) < 2 * LONGEST);
        let key = (set.to_owned(), node.to_owned());
        let Some(entry) = self.0.get_mut(&key) else {
            self.0.insert(key, Entry { replaced: 1, last: now });
            return Ok(());
        };
        let doubled = FIRST.saturating_mul(2u32.saturating_pow(entry.replaced - 1));
        let rest = doubled.min(LONGEST).saturating_sub(elapsed(entry.last, now));
        if rest.is_zero() {
            *entry = Entry { replaced: entry.replaced.saturating_add(1), last: now };
            Ok(())
        } else {
            Err(rest)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::at;

    #[test]
    fn each_replacement_doubles_the_wait_for_the_next_on_that_node() {
        let mut backoff = Backoff::default();
        let seconds = Duration::from_secs;
        assert_eq!(backoff.replace("set", "a", at(100)), Ok(()));
        assert_eq!(backoff.replace("set", "a", at(100)), Err(seconds(1)));
        assert_eq!(backoff.replace("set", "b", at(100)), Ok(()));
        assert_eq!(backoff.replace("set", "a", at(101)), Ok(()));
        assert_eq!(backoff.replace("set", "a", at(102)), Err(seconds(1)));
        assert_eq!(backoff.replace("set", "a", at(103)), Ok(()));
    }

    #[test]
    fn a_long_peace_forgets_the_failures() {
        let mut backoff = Backoff::default();
        for second in [0, 1, 3, 7] {
            assert_eq!(backoff.replace("set", "a", at(second)), Ok(()));
        }
        assert_eq!(backoff.replace("set", "a", at(3600)), Ok(()));
        assert_eq!(backoff.replace("set", "a", at(3601)), Ok(()));
    }
}
