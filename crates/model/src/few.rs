//! Maps and sets of few entries, as most Services have: a B-tree's smallest node has room for eleven.

use std::mem;

/// A map of few entries, sorted by key, in as much memory as they take. Looking up is a binary search,
/// adding and removing cost as much as there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Few<K, V = ()>(Vec<(K, V)>);

impl<K, V> Default for Few<K, V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<K: Ord, V> Few<K, V> {
    fn find(&self, key: &K) -> Result<usize, usize> {
        self.0.binary_search_by(|(other, _)| other.cmp(key))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn contains(&self, key: &K) -> bool {
        self.find(key).is_ok()
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.find(key).ok().map(|at| &self.0[at].1)
    }

    /// Puts a value in; gives the one that was there.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        match self.find(&key) {
            Ok(at) => Some(mem::replace(&mut self.0[at].1, value)),
            Err(at) => {
                if self.0.len() == self.0.capacity() {
                    self.0.reserve_exact(self.0.len().max(1));
                }
                self.0.insert(at, (key, value));
                None
            }
        }
    }

    /// Takes a value out.
    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let (_, value) = self.0.remove(self.find(key).ok()?);
        Some(value)
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> + Clone {
        self.0.iter().map(|(key, _)| key)
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &V> + Clone {
        self.0.iter().map(|(_, value)| value)
    }

    /// The keys that another one has not.
    pub(crate) fn missing_in<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = &'a K> {
        self.keys().filter(|key| !other.contains(key))
    }
}

/// Out of keys in order, none twice.
impl<K: Ord> FromIterator<K> for Few<K> {
    fn from_iter<I: IntoIterator<Item = K>>(keys: I) -> Self {
        let mut keys: Vec<_> = keys.into_iter().map(|key| (key, ())).collect();
        keys.sort_unstable();
        keys.dedup();
        keys.shrink_to_fit();
        Self(keys)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Every map of three keys by every order of changes is what a B-tree says.
    #[test]
    fn it_is_a_map() {
        for changes in 0..6_usize.pow(4) {
            let (mut few, mut tree) = (Few::default(), BTreeMap::new());
            let mut rest = changes;
            for step in 0..4 {
                let (key, adds) = (rest % 3, rest / 3 % 2 == 0);
                rest /= 6;
                if adds {
                    assert_eq!(few.insert(key, step), tree.insert(key, step));
                } else {
                    assert_eq!(few.remove(&key), tree.remove(&key));
                }
                assert!(few.keys().eq(tree.keys()) && few.values().eq(tree.values()));
                assert_eq!(few.is_empty(), tree.is_empty());
                assert!((0..3).all(|key| few.get(&key) == tree.get(&key)));
            }
        }
    }

    #[test]
    fn it_is_a_set() {
        let one: Few<_> = [3, 1, 3, 2].into_iter().collect();
        let other: Few<_> = [2].into_iter().collect();
        assert!(one.keys().eq(&[1, 2, 3]));
        assert!(one.missing_in(&other).eq(&[1, 3]));
    }
}
