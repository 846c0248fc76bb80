//! A map that keeps the entries of the latest uses.

use std::collections::HashMap;
use std::hash::Hash;

/// A map of a bounded number of entries: a new one takes the place of the one that was not used for the longest.
#[derive(Debug)]
pub struct RecentMap<K, V> {
    entries: HashMap<K, Entry<V>>,
    most: usize,
    uses: u64,
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    used: u64,
}

impl<K: Clone + Eq + Hash, V> RecentMap<K, V> {
    /// A map of at most so many entries, and of one at least.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { entries: HashMap::new(), most: most.max(1), uses: 0 }
    }

    /// Uses the entry of a key.
    pub fn get<Q>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: std::borrow::Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let entry = self.entries.get_mut(key)?;
        self.uses += 1;
        entry.used = self.uses;
        Some(&mut entry.value)
    }

    /// Whether there is an entry of this key.
    pub fn contains<Q>(&self, key: &Q) -> bool
    where
        K: std::borrow::Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.entries.contains_key(key)
    }

    /// Inserts an entry, and returns what makes room for it: the former value of the key, or that of the entry not used for the
    /// longest. Finding the latter takes a scan.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        self.uses += 1;
        let mut evicted = None;
        if self.entries.len() >= self.most && !self.entries.contains_key(&key) {
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.used);
            let oldest = oldest.map(|(key, _)| key.clone());
            evicted = oldest.and_then(|oldest| self.entries.remove(&oldest));
        }
        let entry = Entry { value, used: self.uses };
        self.entries.insert(key, entry).or(evicted).map(|entry| entry.value)
    }

    /// Removes the entry of a key.
    pub fn remove<Q>(&mut self, key: &Q) -> Option<V>
    where
        K: std::borrow::Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.entries.remove(key).map(|entry| entry.value)
    }

    /// The keys, in no order.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.entries.keys()
    }

    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entry_not_used_for_the_longest_makes_room() {
        let mut map = RecentMap::new(2);
        assert_eq!(map.insert("a", 1), None);
        assert_eq!(map.insert("b", 2), None);
        assert_eq!(map.get("a"), Some(&mut 1));
        assert_eq!(map.insert("a", 3), Some(1), "a key that is there evicts no other");
        assert_eq!(map.insert("c", 4), Some(2));
        assert!(map.contains("a") && !map.contains("b") && map.contains("c"));
        assert_eq!((map.remove("c"), map.len()), (Some(4), 1));
    }
}
