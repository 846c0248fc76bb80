//! The known peers of an agent: one entry each.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::time::Instant;

use super::blob::Connections;
use super::lost::{Lost, LostId};

/// One entry for each peer, with all that its agent keeps of it, also after NIXL has forgotten the peer.
///
/// The entry of a loaded peer stays. Of the others there are at most [`Bounds::remembered`]: those of peers that this process has
/// not used make room first, then the one that was not touched for the longest. An entry with nothing in it goes at once.
#[derive(Debug)]
pub(super) struct Entries<L> {
    by_name: HashMap<Box<str>, Entry<L>>,
    loaded: usize,
    introduced: usize,
    tick: u64,
    bounds: Bounds,
    hasher: RandomState,
    /// When entries were last rid of failures that are long past.
    swept: Option<Instant>,
}

/// The most entries of a kind.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    /// Loaded peers that have introduced themselves and are not used. They evict each other, since the application did not request them.
    introduced: usize,
    /// Peers that are not loaded.
    remembered: usize,
}

#[derive(Debug)]
struct Entry<L> {
    loaded: Option<L>,
    /// It was connected by its own message and is not used since: the turn of the message.
    introduced: Option<u64>,
    /// The connection details of the peer that this process has used under the name.
    used: Option<Connections>,
    /// Details by which it was lost or not reached. Those that lead nowhere, in the name of a peer, are not that peer's.
    lost: Vec<(LostId, Lost)>,
    touched: u64,
}

impl<L> Default for Entry<L> {
    fn default() -> Self {
        Self { loaded: None, introduced: None, used: None, lost: Vec::new(), touched: 0 }
    }
}

impl<L> Entry<L> {
    fn is_empty(&self) -> bool {
        self.loaded.is_none() && self.used.is_none() && self.lost.is_empty()
    }
}

impl<L> Default for Entries<L> {
    fn default() -> Self {
        Self::bounded(Bounds { introduced: 1024, remembered: 4096 })
    }
}

impl<L> Entries<L> {
    /// Beyond the bound on introduced peers, so many are evicted for each new one.
    const EVICTED: usize = 4;
    /// Bound on the details of one name by which no peer was reached. The one that is to be tried next makes room.
    const LOST: usize = 16;

    fn bounded(bounds: Bounds) -> Self {
        let (by_name, hasher) = (HashMap::new(), RandomState::new());
        Self { by_name, loaded: 0, introduced: 0, tick: 0, bounds, hasher, swept: None }
    }

    pub(super) fn loaded(&self, name: &str) -> Option<&L> {
        self.by_name.get(name)?.loaded.as_ref()
    }

    /// The names of the loaded peers.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let loaded = self.by_name.iter().filter(|(_, entry)| entry.loaded.is_some());
        loaded.map(|(name, _)| &**name)
    }

    /// The number of loaded peers.
    pub(super) fn len(&self) -> usize {
        self.loaded
    }

    /// The loaded peers.
    pub(super) fn all(&self) -> impl Iterator<Item = &L> {
        self.by_name.values().filter_map(|entry| entry.loaded.as_ref())
    }

    /// The number of loaded peers that introduced themselves and are not used.
    pub(super) fn introduced(&self) -> usize {
        self.introduced
    }

    /// The number of peers that are not loaded, of which something is remembered.
    pub(super) fn remembered(&self) -> usize {
        self.by_name.len() - self.loaded
    }

    /// A peer is loaded. Returns what was loaded under its name before.
    pub(super) fn load(&mut self, name: &str, loaded: L) -> Option<L> {
        let before = self.touch(name).loaded.replace(loaded);
        self.loaded += usize::from(before.is_none());
        before
    }

    /// NIXL has forgotten a peer.
    pub(super) fn unload(&mut self, name: &str) -> Option<L> {
        let entry = self.by_name.get_mut(name)?;
        let loaded = entry.loaded.take()?;
        self.loaded -= 1;
        self.introduced -= usize::from(entry.introduced.take().is_some());
        self.settle(name);
        Some(loaded)
    }

    /// This process uses a loaded peer with these details.
    pub(super) fn set_used(&mut self, name: &str, details: Connections) {
        let entry = self.touch(name);
        entry.used = Some(details);
        let was_introduced = entry.introduced.take().is_some();
        self.introduced -= usize::from(was_introduced);
        self.settle(name);
    }

    /// The details of the peer that this process has used under a name.
    pub(super) fn used(&mut self, name: &str) -> Option<&Connections> {
        self.by_name.get(name)?.used.as_ref()?;
        self.touch(name).used.as_ref()
    }

    /// A loaded peer has introduced itself. Returns the peers to be forgotten for it: those whose message came first. One that is not
    /// forgotten is returned again.
    pub(super) fn introduce(&mut self, name: &str) -> Vec<Box<str>> {
        if self.loaded(name).is_none() {
            return Vec::new();
        }
        let entry = self.touch(name);
        let is_first = entry.introduced.replace(entry.touched).is_none();
        self.introduced += usize::from(is_first);
        let beyond = self.introduced.saturating_sub(self.bounds.introduced).min(Self::EVICTED);
        if beyond == 0 {
            return Vec::new();
        }
        let all = self.by_name.iter();
        let turns = all.filter_map(|(name, entry)| Some((entry.introduced?, name.clone())));
        let mut introduced: Vec<_> = turns.collect();
        introduced.sort_unstable();
        introduced.truncate(beyond);
        introduced.into_iter().map(|(_, name)| name).collect()
    }

    /// The last failure to reach a peer by these details.
    pub(super) fn lost(&self, name: &str, details: &[(&str, &[u8])]) -> Option<Lost> {
        let id = self.id(details);
        let lost = &self.by_name.get(name)?.lost;
        lost.iter().find(|(known, _)| *known == id).map(|(_, lost)| lost.clone())
    }

    /// A peer was lost, or not reached, by these details.
    pub(super) fn note_lost(
        &mut self,
        name: &str,
        details: &[(&str, &[u8])],
        lost: Lost,
        now: Instant,
    ) {
        self.sweep(now);
        let id = self.id(details);
        let entry = self.touch(name);
        entry.lost.retain(|(known, lost)| *known != id && !lost.is_past(now));
        if entry.lost.len() >= Self::LOST {
            let next = entry.lost.iter().enumerate().min_by_key(|(_, (_, lost))| lost.until());
            if let Some((next, _)) = next {
                entry.lost.remove(next);
            }
        }
        entry.lost.push((id, lost));
        self.settle(name);
    }

    /// A peer was reached by these details.
    pub(super) fn note_reached(&mut self, name: &str, details: &[(&str, &[u8])]) {
        let id = self.id(details);
        if let Some(entry) = self.by_name.get_mut(name) {
            entry.lost.retain(|(known, _)| *known != id);
            self.settle(name);
        }
    }

    /// A hash under a secret key.
    fn id(&self, details: &[(&str, &[u8])]) -> LostId {
        LostId(self.hasher.hash_one(details))
    }

    fn touch(&mut self, name: &str) -> &mut Entry<L> {
        self.tick += 1;
        let entry = self.by_name.entry(name.into()).or_default();
        entry.touched = self.tick;
        entry
    }

    /// Drops an entry with nothing in it, and one for an entry too many.
    fn settle(&mut self, name: &str) {
        if self.by_name.get(name).is_some_and(Entry::is_empty) {
            self.by_name.remove(name);
        }
        while self.remembered() > self.bounds.remembered {
            let remembered = self.by_name.iter().filter(|(_, entry)| entry.loaded.is_none());
            let first = remembered.min_by_key(|(_, entry)| (entry.used.is_some(), entry.touched));
            let Some(first) = first.map(|(name, _)| name.clone()) else {
                return;
            };
            self.by_name.remove(&first);
        }
    }

    /// Drops failures that are long past, not more often than they end.
    fn sweep(&mut self, now: Instant) {
        let is_early = |swept: Instant| now.saturating_duration_since(swept) < Lost::MAX_WAIT;
        if self.swept.is_some_and(is_early) {
            return;
        }
        self.swept = Some(now);
        self.by_name.retain(|_, entry| {
            entry.lost.retain(|(_, lost)| !lost.is_past(now));
            !entry.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::endpoints::Endpoints;
    use super::*;

    const BOUNDS: Bounds = Bounds { introduced: 3, remembered: 4 };

    #[derive(Clone, Copy, Debug)]
    enum Step {
        /// By metadata that the application has.
        Meet(u8),
        Introduced(u8),
        Ended(u8),
        /// By details, for so many seconds.
        Lost(u8, u8, u64),
        Reached(u8, u8),
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0..12u8).prop_map(Step::Meet),
            4 => (0..12u8).prop_map(Step::Introduced),
            4 => (0..12u8).prop_map(Step::Ended),
            3 => (0..12u8, 0..3u8, 0..60u64).prop_map(|(n, d, s)| Step::Lost(n, d, s)),
            1 => (0..12u8, 0..3u8).prop_map(|(n, d)| Step::Reached(n, d)),
            1 => (0..200u64).prop_map(Step::Wait),
        ]
    }

    /// What was done with a name, told plainly.
    #[derive(Clone, Debug, Default)]
    struct Known {
        loaded: Option<u64>,
        introduced: Option<u64>,
        used: Option<u64>,
        lost: Vec<(u8, Instant)>,
        touched: u64,
    }

    fn details(byte: u8) -> [(&'static str, Vec<u8>); 1] {
        [("UCX", vec![byte])]
    }

    fn connections(incarnation: u64) -> Connections {
        vec![("UCX".to_owned(), incarnation.to_le_bytes().to_vec())]
    }

    proptest! {
        /// Peers that are met, introduce themselves, end, are lost, and come again under the same name.
        #[test]
        fn as_a_list_of_what_was_done_with_each_name(steps in vec(step(), 1..150)) {
            let mut entries = Entries::bounded(BOUNDS);
            let mut model: Vec<Known> = vec![Known::default(); 12];
            let (mut tick, mut now) = (0, Instant::now());
            for step in steps {
                tick += 1;
                match step {
                    Step::Meet(n) | Step::Introduced(n) => {
                        let name = n.to_string();
                        // Another incarnation each time.
                        entries.load(&name, tick);
                        let known = &mut model[usize::from(n)];
                        (known.loaded, known.touched) = (Some(tick), tick);
                        if let Step::Meet(_) = step {
                            entries.set_used(&name, connections(tick));
                            (known.used, known.introduced) = (Some(tick), None);
                        } else {
                            known.introduced = Some(tick);
                            let mut order: Vec<_> = (0..12)
                                .filter_map(|n| Some((model[n].introduced?, n.to_string())))
                                .collect();
                            order.sort_unstable();
                            let beyond = order.len().saturating_sub(BOUNDS.introduced);
                            order.truncate(beyond.min(Entries::<u64>::EVICTED));
                            let evicted: Vec<_> =
                                entries.introduce(&name).into_iter().map(String::from).collect();
                            prop_assert_eq!(&evicted, &order.into_iter().map(|o| o.1).collect::<Vec<_>>());
                            // One is busy, now and then.
                            for name in evicted.iter().filter(|_| tick % 3 > 0) {
                                prop_assert!(entries.unload(name).is_some());
                                let known = &mut model[name.parse::<usize>().unwrap()];
                                (known.loaded, known.introduced) = (None, None);
                            }
                        }
                    }
                    Step::Ended(n) => {
                        let known = &mut model[usize::from(n)];
                        prop_assert_eq!(entries.unload(&n.to_string()), known.loaded.take());
                        known.introduced = None;
                    }
                    Step::Lost(n, d, seconds) => {
                        let lost = Lost::at(now, Duration::from_secs(seconds), Endpoints::default());
                        let until = lost.until();
                        let of = details(d);
                        let of = [(of[0].0, &*of[0].1)];
                        entries.note_lost(&n.to_string(), &of, lost, now);
                        let known = &mut model[usize::from(n)];
                        known.touched = tick;
                        known.lost.retain(|(other, _)| *other != d);
                        known.lost.push((d, until));
                    }
                    Step::Reached(n, d) => {
                        let of = details(d);
                        entries.note_reached(&n.to_string(), &[(of[0].0, &*of[0].1)]);
                        model[usize::from(n)].lost.retain(|(other, _)| *other != d);
                    }
                    Step::Wait(seconds) => now += Duration::from_secs(seconds),
                }
                // What is not loaded makes room, what was used last of all.
                let mut kept: Vec<_> = (0..12)
                    .filter(|n| model[*n].loaded.is_none())
                    .filter(|n| entries.by_name.contains_key(&*n.to_string()))
                    .collect();
                prop_assert!(kept.len() <= BOUNDS.remembered);
                kept.sort_unstable_by_key(|n| (model[*n].used.is_some(), model[*n].touched));
                for n in 0..12 {
                    let (name, known) = (n.to_string(), &model[n]);
                    prop_assert_eq!(entries.loaded(&name), known.loaded.as_ref());
                    let entry = entries.by_name.get(&*name);
                    match entry {
                        Some(entry) => {
                            let used = known.used.map(connections);
                            prop_assert_eq!(&entry.used, &used);
                            prop_assert!(!entry.is_empty());
                            for (d, until) in &known.lost {
                                let of = details(*d);
                                let lost = entries.lost(&name, &[(of[0].0, &*of[0].1)]);
                                let is_past = now >= *until + Lost::MAX_WAIT;
                                prop_assert!(is_past || lost.is_some_and(|l| l.until() == *until));
                            }
                        }
                        None => {
                            prop_assert!(known.loaded.is_none());
                            let rank = (known.used.is_some(), known.touched);
                            let said = known.used.is_some()
                                || known.lost.iter().any(|(_, until)| now < *until + Lost::MAX_WAIT);
                            // It made room for those that come after it.
                            if said {
                                prop_assert_eq!(kept.len(), BOUNDS.remembered);
                                let first = &model[kept[0]];
                                prop_assert!(rank < (first.used.is_some(), first.touched));
                            }
                            model[n] = Known::default();
                        }
                    }
                }
                prop_assert_eq!(entries.len(), model.iter().filter(|k| k.loaded.is_some()).count());
                prop_assert_eq!(entries.names().count(), entries.len());
                let introduced = model.iter().filter(|k| k.introduced.is_some()).count();
                prop_assert_eq!(entries.introduced, introduced);
            }
        }
    }

    #[test]
    fn details_that_lead_nowhere_are_not_held_against_the_peer_of_that_name() {
        let mut entries = Entries::<()>::default();
        let now = Instant::now();
        let [there, nowhere] = [&b"there"[..], b"nowhere"].map(|details| [("UCX", details)]);
        let lost = |wait| Lost::at(now, wait, Endpoints::default());
        entries.note_lost("p", &nowhere, lost(Lost::MAX_WAIT), now);
        assert!(entries.lost("p", &nowhere).is_some_and(|lost| lost.is_early()));
        assert!(entries.lost("p", &there).is_none());
        entries.note_lost("p", &there, lost(Duration::ZERO), now);
        assert!(entries.lost("p", &there).is_some_and(|lost| !lost.is_early()));
        entries.note_reached("p", &nowhere);
        assert!(entries.lost("p", &nowhere).is_none() && entries.lost("p", &there).is_some());
        entries.note_reached("p", &there);
        assert!(entries.by_name.is_empty(), "nothing is left to be said of it");
    }

    #[test]
    fn a_flood_of_names_takes_none_from_the_peers_that_were_used() {
        let mut entries = Entries::<()>::default();
        let now = Instant::now();
        entries.load("used", ());
        entries.set_used("used", connections(1));
        entries.unload("used");
        for name in 0..10_000 {
            let lost = Lost::at(now, Duration::ZERO, Endpoints::default());
            entries.note_lost(&name.to_string(), &[], lost, now);
        }
        assert_eq!(entries.by_name.len(), entries.bounds.remembered);
        assert_eq!(entries.used("used"), Some(&connections(1)));
        for details in 0..100u8 {
            let lost = Lost::at(now, Duration::ZERO, Endpoints::default());
            entries.note_lost("used", &[("UCX", &[details])], lost, now);
        }
        assert_eq!(entries.by_name["used"].lost.len(), Entries::<()>::LOST);
    }
}
