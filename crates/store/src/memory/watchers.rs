//! The watchers by the prefix that they watch, so that an event costs its own watchers only.
//!
//! The prefixes of a key that are watched are found by walking down the sorted prefixes: the
//! greatest one not above the key either is a prefix of it, or shows how much of the key any
//! shorter one can share.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use crate::watch::{Event, Subscriber};

#[derive(Debug, Default)]
pub(crate) struct Watchers {
    /// No group is empty for longer than its last watcher takes to leave.
    by_prefix: BTreeMap<Box<[u8]>, HashMap<u64, Subscriber>>,
    next: u64,
}

impl Watchers {
    /// Adds a watcher; the number takes it out again.
    pub(crate) fn add(&mut self, prefix: &str, watcher: Subscriber) -> u64 {
        let id = self.next;
        self.next += 1;
        self.by_prefix.entry(prefix.as_bytes().into()).or_default().insert(id, watcher);
        id
    }

    pub(crate) fn remove(&mut self, prefix: &str, id: u64) {
        if let Some(group) = self.by_prefix.get_mut(prefix.as_bytes()) {
            group.remove(&id);
            if group.is_empty() {
                self.by_prefix.remove(prefix.as_bytes());
            }
        }
    }

    /// Gives an event to all who watch its key; those who cannot take it are dropped. The event is
    /// made only if anybody watches.
    pub(crate) fn offer(&mut self, key: &str, event: impl FnOnce() -> Event) {
        let key = key.as_bytes();
        let (mut make, mut made) = (Some(event), None);
        let mut bound = Bound::Included(key);
        while let Some((prefix, group)) =
            self.by_prefix.range_mut::<[u8], _>((Bound::Unbounded, bound)).next_back()
        {
            let shared = prefix.iter().zip(key).take_while(|(a, b)| a == b).count();
            if shared < prefix.len() {
                bound = Bound::Included(&key[..shared]);
                continue;
            }
            bound = Bound::Excluded(&key[..shared]);
            if let Some(make) = make.take() {
                made = Some(Arc::new(make()));
            }
            if let Some(event) = &made {
                group.retain(|_, watcher| watcher.offer(event));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Object, Revision, Stored};

    fn event(key: &str) -> Event {
        let stored = Stored {
            key: key.into(),
            create_revision: Revision(1),
            revision: Revision(1),
            value: Object::from(serde_json::Value::Null),
        };
        Event::Put { stored, previous: None }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

        #[test]
        fn an_event_reaches_exactly_the_watchers_of_its_prefixes(
            prefixes in prop::collection::vec("[/ab]{0,5}", 0..20),
            key in "[/ab]{1,6}",
            leaver in any::<prop::sample::Index>(),
        ) {
            let mut watchers = Watchers::default();
            let mut queues = Vec::new();
            for prefix in &prefixes {
                let (subscriber, queue) = Subscriber::new(4);
                queues.push((prefix, watchers.add(prefix, subscriber), queue));
            }
            if !queues.is_empty() {
                let (prefix, id, _) = queues.swap_remove(leaver.index(queues.len()));
                watchers.remove(prefix, id);
            }
            let mut made = 0;
            watchers.offer(&key, || { made += 1; event(&key) });
            let reached = queues
                .iter_mut()
                .map(|(prefix, _, queue)| {
                    let got = queue.events.try_recv().is_ok();
                    (prefix.to_string(), got)
                })
                .collect::<Vec<_>>();
            for (prefix, got) in &reached {
                prop_assert_eq!(*got, key.starts_with(&**prefix), "{}", prefix);
            }
            prop_assert_eq!(made, usize::from(reached.iter().any(|(_, got)| *got)));
        }
    }

    #[test]
    fn nothing_is_left_of_watchers_that_have_gone() {
        let mut watchers = Watchers::default();
        let ids: Vec<u64> = (0..3).map(|_| watchers.add("/a/", Subscriber::new(1).0)).collect();
        // Their queues are gone, so the offer drops them; leaving afterwards is nothing special.
        watchers.offer("/a/x", || event("/a/x"));
        ids.iter().for_each(|id| watchers.remove("/a/", *id));
        assert!(watchers.by_prefix.is_empty());
    }
}
