//! The peers of a connection, and their loaded metadata.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use nixl_device::ExitWatch;
use nixl_device::locks::lock;
use nixl_metadata::{AgentMetadata, SerializedDescriptor};
use nixl_ops::{Connected, GaugeShare, PeerId, RecentMap};

use crate::loaded_part::LoadedPart;

/// One entry for each peer. The compressed metadata is the key: a hit neither inflates nor loads.
///
/// Beyond the capacity the least recently used of the known peers are disconnected and removed. Of a removed peer that has announced its
/// end, only that remains.
#[derive(Debug)]
pub(crate) struct PeerTable {
    state: Mutex<State>,
    capacity: usize,
    /// Whether a peer may wait for another attempt to watch it.
    has_unwatched: AtomicBool,
    /// The watches over peers that have introduced themselves, which the engine alone may know.
    introduced: Mutex<RecentMap<PeerId, ExitWatch>>,
}

#[derive(Debug, Default)]
struct State {
    peers: HashMap<PeerId, Entry>,
    /// The entries of known peers among them.
    known: usize,
    by_metadata: HashMap<AgentMetadata, Loaded>,
    /// Of processes with which a connection was lost before they ended: one for each.
    lost: HashMap<u32, ExitWatch>,
    tick: u64,
}

#[derive(Debug)]
struct Loaded {
    peer: PeerId,
    used: Arc<AtomicU64>,
    /// The loaded part, if not all was: that of the offers.
    part: Option<LoadedPart>,
}

#[derive(Debug, Default)]
struct Entry {
    /// `None` if it was removed.
    known: Option<Known>,
    /// It has announced its end. Agents' names are not used twice, so none does so a second time.
    leaves: bool,
    /// The time of its removal.
    removed: u64,
}

#[derive(Debug, Default)]
struct Known {
    /// The latest, oldest first.
    metadata: VecDeque<AgentMetadata>,
    used: Arc<AtomicU64>,
    /// The watch over a peer on this host.
    exit: Option<ExitWatch>,
    unwatched: Option<Unwatched>,
    _gauge: PeerGauge,
}

/// A peer on this host that the system was too short of files to watch.
#[derive(Clone, Copy, Debug)]
struct Unwatched {
    pid: u32,
    /// The last further attempt.
    tried: Option<Duration>,
}

#[derive(Debug)]
#[expect(dead_code, reason = "only its drop matters")]
struct PeerGauge(GaugeShare);

impl Default for PeerGauge {
    fn default() -> Self {
        Self(GaugeShare::new("nixl_peers", 1))
    }
}

impl PeerTable {
    /// Bound on the kept metadata of one peer, such as an offer of each of its slabs.
    const METADATA: usize = 16;
    /// Busy peers that are passed over at a time, when one has to make room.
    const PASSED_OVER: usize = 8;
    /// Bound on removed peers that had announced their end: a multiple of those known at one time.
    const LEFT: usize = 4096;
    /// The interval of attempts to watch a peer.
    const WATCHED_AGAIN: Duration = Duration::from_secs(1);

    /// Makes a cache of so many peers, and of those above that [cannot make room](Self::make_room).
    pub(crate) fn new(capacity: usize) -> Self {
        let introduced = Mutex::new(RecentMap::new(capacity));
        let has_unwatched = AtomicBool::new(false);
        Self { state: Mutex::default(), capacity, has_unwatched, introduced }
    }

    /// The peer of this metadata, if all of it was loaded, or the part with the needed memory. Memory that the engine knows at
    /// these addresses is not enough: it may be from earlier metadata, with a withdrawn key.
    pub(crate) fn get(
        &self,
        metadata: &AgentMetadata,
        needed: Option<&[SerializedDescriptor]>,
    ) -> Option<PeerId> {
        let mut state = self.lock();
        state.tick += 1;
        let loaded = state.by_metadata.get(metadata)?;
        loaded.used.store(state.tick, Ordering::Relaxed);
        let is_loaded = match (&loaded.part, needed) {
            (None, _) => true,
            (Some(part), Some(needed)) => needed.iter().all(|range| part.covers(range)),
            (Some(_), None) => false,
        };
        is_loaded.then(|| loaded.peer.clone())
    }

    /// Records the loaded part. Returns whether the peer is new here.
    pub(crate) fn insert(&self, metadata: AgentMetadata, connected: &Connected) -> bool {
        self.lock().insert(metadata, connected)
    }

    /// As [`insert`](Self::insert), unless the peer has been removed meanwhile. Returns whether it is here.
    pub(crate) fn insert_if_known(&self, metadata: AgentMetadata, connected: &Connected) -> bool {
        let mut state = self.lock();
        let is_known = state.knows(connected.peer());
        if is_known {
            state.insert(metadata, connected);
        }
        is_known
    }

    /// Removes the least recently used peers beyond the capacity. `disconnect` returns whether the engine has forgotten the peer; one
    /// that is busy stays, with its watch, and another makes room.
    pub(crate) fn make_room(&self, mut disconnect: impl FnMut(&PeerId) -> bool) {
        let oldest = self.lock().oldest(self.capacity);
        for peer in oldest {
            if self.len() <= self.capacity {
                return;
            }
            if disconnect(&peer) {
                self.remove(&peer);
            }
        }
    }

    /// Keeps the watch over a peer's process while the peer is in the table.
    pub(crate) fn watch(&self, peer: &PeerId, exit: ExitWatch) {
        let mut state = self.lock();
        let Some(entry) = state.known_mut(peer) else {
            drop(state);
            return drop(exit);
        };
        entry.unwatched = None;
        let before = entry.exit.replace(exit);
        drop(state);
        // Closed outside the lock.
        drop(before);
    }

    /// Records that a peer's process could not be watched for now.
    pub(crate) fn watch_later(&self, peer: &PeerId, pid: u32) {
        if let Some(entry) = self.lock().known_mut(peer) {
            let tried = entry.unwatched.and_then(|unwatched| unwatched.tried);
            entry.unwatched = Some(Unwatched { pid, tried });
            self.has_unwatched.store(true, Ordering::Release);
        }
    }

    /// A peer whose process is to be watched now, if an earlier attempt has failed.
    pub(crate) fn due_watch(&self, now: impl FnOnce() -> Duration) -> Option<(PeerId, u32)> {
        if !self.has_unwatched.load(Ordering::Acquire) {
            return None;
        }
        let now = now();
        let mut state = self.lock();
        let mut is_left = false;
        for (peer, entry) in &mut state.peers {
            let Some(entry) = &mut entry.known else { continue };
            let Some(unwatched) = &mut entry.unwatched else { continue };
            is_left = true;
            let due = unwatched.tried.map(|tried| tried.saturating_add(Self::WATCHED_AGAIN));
            if due.is_none_or(|due| due <= now) {
                unwatched.tried = Some(now);
                return Some((peer.clone(), unwatched.pid));
            }
        }
        self.has_unwatched.store(is_left, Ordering::Release);
        None
    }

    /// Forgets a peer. Returns whether it was known.
    pub(crate) fn remove(&self, peer: &PeerId) -> bool {
        let mut state = self.lock();
        // The watch is dropped outside the lock.
        let removed = state.remove(peer);
        drop(state);
        removed.is_some()
    }

    /// As [`remove`](Self::remove), of a peer with a dead connection: the watch over its process stays, for what is kept by process.
    pub(crate) fn remove_lost(&self, peer: &PeerId) -> bool {
        let mut state = self.lock();
        let Some(mut removed) = state.remove(peer) else { return false };
        let exit = removed.exit.take();
        let before = exit.and_then(|exit| state.lost.insert(exit.process().pid(), exit));
        drop(state);
        // The watch is dropped outside the lock.
        drop((removed, before));
        true
    }

    /// A process has ended.
    pub(crate) fn unwatch_lost(&self, pid: u32) {
        let watch = self.lock().lost.remove(&pid);
        drop(watch);
    }

    /// Whether a peer that has introduced itself is watched.
    pub(crate) fn watches_introduced(&self, peer: &PeerId) -> bool {
        lock(&self.introduced).contains(peer)
    }

    /// Keeps the watch over a peer that has introduced itself; of those the latest are kept.
    pub(crate) fn watch_introduced(&self, peer: &PeerId, watch: ExitWatch) {
        let before = lock(&self.introduced).insert(peer.clone(), watch);
        // Closed outside the lock.
        drop(before);
    }

    /// A peer that has introduced itself has ended.
    pub(crate) fn unwatch_introduced(&self, peer: &PeerId) {
        let watch = lock(&self.introduced).remove(peer);
        drop(watch);
    }

    /// A peer announces its end. Returns whether it is known, and this is the first time.
    pub(crate) fn note_leaving(&self, peer: &PeerId) -> bool {
        let mut state = self.lock();
        let entry = state.peers.get_mut(peer).filter(|entry| entry.known.is_some());
        entry.is_some_and(|entry| !std::mem::replace(&mut entry.leaves, true))
    }

    pub(crate) fn all(&self) -> Vec<PeerId> {
        self.lock().all_known().map(|(peer, _)| peer.clone()).collect()
    }

    /// The known peers.
    pub(crate) fn len(&self) -> usize {
        self.lock().known
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl State {
    fn insert(&mut self, metadata: AgentMetadata, connected: &Connected) -> bool {
        let peer = connected.peer();
        if connected.superseded() {
            self.forget_metadata(peer);
        }
        let known = self.by_metadata.remove(&metadata);
        let part = match (known.map(|loaded| loaded.part), connected.part()) {
            (Some(None), _) | (_, None) => None,
            (known, Some(part)) => Some(known.flatten().unwrap_or_default().with(part)),
        };
        let is_new = !self.knows(peer);
        let used = Arc::clone(&self.touch(peer).used);
        self.by_metadata.insert(metadata.clone(), Loaded { peer: peer.clone(), used, part });
        let entry = self.touch(peer);
        if !entry.metadata.contains(&metadata) {
            entry.metadata.push_back(metadata);
        }
        if entry.metadata.len() > PeerTable::METADATA
            && let Some(oldest) = entry.metadata.pop_front()
        {
            self.by_metadata.remove(&oldest);
        }
        is_new
    }

    fn touch(&mut self, peer: &PeerId) -> &mut Known {
        self.tick += 1;
        let entry = self.peers.entry(peer.clone()).or_default();
        self.known += usize::from(entry.known.is_none());
        let known = entry.known.get_or_insert_default();
        known.used.store(self.tick, Ordering::Relaxed);
        known
    }

    fn knows(&self, peer: &PeerId) -> bool {
        self.peers.get(peer).is_some_and(|entry| entry.known.is_some())
    }

    fn known_mut(&mut self, peer: &PeerId) -> Option<&mut Known> {
        self.peers.get_mut(peer)?.known.as_mut()
    }

    fn all_known(&self) -> impl Iterator<Item = (&PeerId, &Known)> {
        self.peers.iter().filter_map(|(peer, entry)| Some((peer, entry.known.as_ref()?)))
    }

    fn forget_metadata(&mut self, peer: &PeerId) {
        let Some(known) = self.peers.get_mut(peer).and_then(|entry| entry.known.as_mut()) else {
            return;
        };
        for metadata in known.metadata.drain(..) {
            self.by_metadata.remove(&metadata);
        }
    }

    /// Leaves of a peer what is to be remembered.
    fn remove(&mut self, peer: &PeerId) -> Option<Known> {
        self.forget_metadata(peer);
        let entry = self.peers.get_mut(peer)?;
        let removed = entry.known.take()?;
        self.known -= 1;
        self.tick += 1;
        entry.removed = self.tick;
        if !entry.leaves {
            self.peers.remove(peer);
        }
        if self.peers.len() - self.known > PeerTable::LEFT {
            let left = self.peers.iter().filter(|(_, entry)| entry.known.is_none());
            let first = left.min_by_key(|(_, entry)| entry.removed).map(|(peer, _)| peer.clone());
            first.and_then(|first| self.peers.remove(&first));
        }
        Some(removed)
    }

    /// The least recently used peers, if there are more than `capacity`: as many as are too many, and some more. Not the latest. A
    /// scan: a connect, which costs a thousand times as much, makes one.
    fn oldest(&self, capacity: usize) -> Vec<PeerId> {
        let excess = self.known.saturating_sub(capacity);
        if excess == 0 {
            return Vec::new();
        }
        let used = |known: &Known| known.used.load(Ordering::Relaxed);
        let mut peers: Vec<_> = self.all_known().map(|(peer, k)| (used(k), peer)).collect();
        peers.sort_unstable();
        peers.pop();
        peers.truncate(excess + PeerTable::PASSED_OVER);
        peers.into_iter().map(|(_, peer)| peer.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use nixl_device::{Device, ProcessExits};
    use proptest::prelude::*;

    use super::*;

    fn metadata(text: &str) -> AgentMetadata {
        AgentMetadata::compress(text.as_bytes()).unwrap()
    }

    fn to(name: &str) -> Connected {
        Connected::to(PeerId::new(name))
    }

    /// The peers that are disconnected to make room, if those of `busy` cannot be.
    fn disconnected(table: &PeerTable, busy: &[&str]) -> Vec<String> {
        let mut disconnected = Vec::new();
        table.make_room(|peer| {
            let is_idle = !busy.contains(&peer.as_str());
            disconnected.extend(is_idle.then(|| peer.to_string()));
            is_idle
        });
        disconnected
    }

    #[test]
    fn the_least_recently_used_makes_room() {
        let table = PeerTable::new(2);
        assert!(table.insert(metadata("a"), &to("a")));
        assert!(table.insert(metadata("b"), &to("b")));
        assert!(table.get(&metadata("a"), None).is_some());
        assert!(disconnected(&table, &[]).is_empty());
        assert!(table.insert(metadata("c"), &to("c")));
        assert_eq!(disconnected(&table, &[]), ["b"]);
        assert!(disconnected(&table, &[]).is_empty());
        assert_eq!(table.get(&metadata("b"), None), None);
        assert_eq!(table.len(), 2);
    }

    #[test]
    fn a_busy_peer_stays_with_its_watch_and_another_makes_room() {
        let table = PeerTable::new(1);
        table.insert(metadata("a"), &to("a"));
        let pid = std::process::id();
        let watch = ProcessExits::global().watch(pid, None, || ()).unwrap();
        table.watch(&PeerId::new("a"), watch);
        table.insert(metadata("b"), &to("b"));
        assert!(disconnected(&table, &["a"]).is_empty(), "the latest stays, too");
        table.insert(metadata("c"), &to("c"));
        assert_eq!(disconnected(&table, &["a"]), ["b"]);
        assert!(table.get(&metadata("a"), None).is_some());
        assert!(
            table.lock().known_mut(&PeerId::new("a")).is_some_and(|known| known.exit.is_some())
        );
        assert_eq!(disconnected(&table, &[]), ["c"], "a was used since");
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn the_process_of_a_lost_peer_is_watched_on() {
        let table = PeerTable::new(4);
        let (peers, pid) = (["a", "b"].map(PeerId::new), std::process::id());
        for peer in &peers {
            table.insert(metadata(peer.as_str()), &to(peer.as_str()));
            table.watch(peer, ProcessExits::global().watch(pid, None, || ()).unwrap());
        }
        assert!(peers.iter().all(|peer| table.remove_lost(peer)));
        assert!(!table.remove_lost(&peers[0]) && table.len() == 0);
        assert_eq!(table.lock().lost.len(), 1, "once for all of its agents");
        table.unwatch_lost(pid);
        assert!(table.lock().lost.is_empty());
    }

    #[test]
    fn a_peer_that_has_ended_meanwhile_is_not_inserted_again() {
        let table = PeerTable::new(2);
        assert!(!table.insert_if_known(metadata("a"), &to("a")));
        table.insert(metadata("a"), &to("a"));
        assert!(table.insert_if_known(metadata("b"), &to("a")));
        assert!(table.remove(&PeerId::new("a")));
        assert!(!table.insert_if_known(metadata("b"), &to("a")));
        assert!(table.get(&metadata("b"), None).is_none() && table.len() == 0);
    }

    #[test]
    fn a_peer_that_could_not_be_watched_is_due_again_once_a_second() {
        let table = PeerTable::new(2);
        let (peer, pid) = (PeerId::new("a"), std::process::id());
        let due = |second| table.due_watch(|| Duration::from_secs(second));
        table.insert(metadata("a"), &to("a"));
        assert_eq!(due(9), None);
        table.watch_later(&peer, pid);
        assert_eq!(due(9), Some((peer.clone(), pid)));
        table.watch_later(&peer, pid);
        assert_eq!(due(9), None);
        assert_eq!(due(10), Some((peer.clone(), pid)));
        table.watch(&peer, ProcessExits::global().watch(pid, None, || ()).unwrap());
        assert_eq!(due(99), None);
        table.watch_later(&peer, pid);
        table.remove(&peer);
        assert_eq!(due(999), None);
    }

    #[test]
    fn superseding_voids_what_was_loaded_before() {
        let table = PeerTable::new(8);
        table.insert(metadata("a1"), &to("a"));
        table.insert(metadata("b"), &to("b"));
        table.insert(metadata("a2"), &to("a").superseding());
        assert_eq!(table.get(&metadata("a1"), None), None);
        assert!(table.get(&metadata("b"), None).is_some());
        assert!(table.remove(&PeerId::new("a")));
        assert!(!table.remove(&PeerId::new("a")));
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn what_was_loaded_in_part_is_not_taken_for_the_whole() {
        let table = PeerTable::new(2);
        let range = |ptr, size| SerializedDescriptor::new(Device::HOST, ptr, size).unwrap();
        let part = |start, end| Vec::from([Range { start, end }]);
        let (first, second) = ([range(100, 10)], [range(205, 5)]);
        let is_loaded = |needed| table.get(&metadata("a"), needed).is_some();
        let loaded = || [Some(&first[..]), Some(&second[..]), None].map(is_loaded);
        table.insert(metadata("a"), &to("a").in_part(part(100, 110)));
        assert_eq!(loaded(), [true, false, false]);
        table.insert(metadata("a"), &to("a").in_part(part(200, 210)));
        assert_eq!(loaded(), [true, true, false], "the parts add up");
        table.insert(metadata("b"), &to("a").in_part(part(100, 110)));
        table.insert(metadata("a"), &to("a"));
        assert_eq!(loaded(), [true; 3]);
        table.insert(metadata("a"), &to("a").in_part(part(100, 110)));
        assert_eq!(loaded(), [true; 3], "what was loaded stays so");
        table.insert(metadata("a"), &to("a").superseding().in_part(part(200, 210)));
        assert_eq!(loaded(), [false, true, false]);
        assert!(table.get(&metadata("b"), Some(&first)).is_none(), "it was superseded");
    }

    proptest! {
        #[test]
        fn what_is_found_was_inserted_last_for_its_peer(
            uses in proptest::collection::vec((0u8..5, 0u8..40, any::<bool>()), 0..200),
        ) {
            let table = PeerTable::new(3);
            for (peer, data, superseding) in uses {
                let text = format!("{peer} {data}");
                let connected = to(&peer.to_string());
                let connected = if superseding { connected.superseding() } else { connected };
                table.insert(metadata(&text), &connected);
                table.make_room(|_| true);
                prop_assert_eq!(table.get(&metadata(&text), None), Some(connected.into_peer()));
                let state = table.lock();
                prop_assert!(state.known <= 3);
                let kept: usize = state.all_known().map(|(_, known)| known.metadata.len()).sum();
                prop_assert_eq!(kept, state.by_metadata.len());
                prop_assert!(state.all_known().all(|(_, k)| k.metadata.len() <= PeerTable::METADATA));
            }
        }
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Load(u8, u8),
        Use(u8, u8),
        Leaves(u8),
        /// With so many transfers that it stays, if it should make room.
        Busy(u8),
        Ends(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        let peer = || 0..8u8;
        prop_oneof![
            5 => (peer(), 0..3u8).prop_map(|(p, m)| Step::Load(p, m)),
            2 => (peer(), 0..3u8).prop_map(|(p, m)| Step::Use(p, m)),
            2 => peer().prop_map(Step::Leaves),
            2 => peer().prop_map(Step::Busy),
            2 => peer().prop_map(Step::Ends),
        ]
    }

    /// What is known of a peer, told plainly.
    #[derive(Clone, Debug, Default)]
    struct Told {
        loaded: Vec<u8>,
        is_known: bool,
        has_left: bool,
        is_busy: bool,
        used: u32,
    }

    proptest! {
        /// Peers are met, used, busy, leave, end, make room, and come again under the same name.
        #[test]
        fn as_a_list_of_what_is_known_of_each_peer(steps in proptest::collection::vec(step(), 0..200)) {
            const CAPACITY: usize = 3;
            let table = PeerTable::new(CAPACITY);
            let mut model: Vec<Told> = vec![Told::default(); 8];
            for (turn, step) in (1..).zip(steps) {
                match step {
                    Step::Load(p, m) => {
                        let is_new = table.insert(metadata(&format!("{p} {m}")), &to(&p.to_string()));
                        let told = &mut model[usize::from(p)];
                        prop_assert_eq!(is_new, !told.is_known);
                        (told.is_known, told.used) = (true, turn);
                        told.loaded.push(m);
                        let mut excess = table.len().saturating_sub(CAPACITY);
                        let mut order: Vec<_> = (0..8).filter(|p| model[*p].is_known).collect();
                        order.sort_unstable_by_key(|p| model[*p].used);
                        order.pop();
                        order.truncate(if excess > 0 { excess + PeerTable::PASSED_OVER } else { 0 });
                        let busy: Vec<_> = (0..8).filter(|p| model[*p].is_busy).map(|p| p.to_string()).collect();
                        let busy: Vec<_> = busy.iter().map(String::as_str).collect();
                        let gone = disconnected(&table, &busy);
                        let mut expected = Vec::new();
                        for p in order {
                            if excess > 0 && !model[p].is_busy {
                                excess -= 1;
                                expected.push(p.to_string());
                                let has_left = model[p].has_left;
                                model[p] = Told { has_left, ..Told::default() };
                            }
                        }
                        prop_assert_eq!(gone, expected);
                    }
                    Step::Use(p, m) => {
                        let told = &mut model[usize::from(p)];
                        let found = table.get(&metadata(&format!("{p} {m}")), None).is_some();
                        prop_assert_eq!(found, told.loaded.contains(&m));
                        if found {
                            told.used = turn;
                        }
                    }
                    Step::Leaves(p) => {
                        let told = &mut model[usize::from(p)];
                        let is_first = told.is_known && !told.has_left;
                        prop_assert_eq!(table.note_leaving(&PeerId::new(p.to_string())), is_first);
                        told.has_left |= is_first;
                    }
                    Step::Busy(p) => model[usize::from(p)].is_busy ^= true,
                    Step::Ends(p) => {
                        let told = &mut model[usize::from(p)];
                        prop_assert_eq!(table.remove(&PeerId::new(p.to_string())), told.is_known);
                        *told = Told { has_left: told.has_left, ..Told::default() };
                    }
                }
                let mut known: Vec<_> = table.all().into_iter().map(|p| p.to_string()).collect();
                known.sort_unstable();
                let told: Vec<_> = (0..8).filter(|p| model[*p].is_known).map(|p| p.to_string()).collect();
                prop_assert_eq!(table.len(), told.len());
                prop_assert_eq!(known, told);
            }
        }
    }

    #[test]
    fn the_announced_ends_that_are_remembered_are_bounded() {
        let table = PeerTable::new(2);
        for name in 0..=PeerTable::LEFT + 1 {
            let name = name.to_string();
            table.insert(metadata(&name), &to(&name));
            assert!(table.note_leaving(&PeerId::new(&*name)) && table.remove(&PeerId::new(&*name)));
        }
        assert_eq!(table.lock().peers.len(), PeerTable::LEFT);
        let announces = |name: &str| {
            table.insert(metadata(name), &to(name));
            table.note_leaving(&PeerId::new(name))
        };
        assert!(announces("0") && !announces("9"));
    }
}
