//! Words between processes of one machine that an operation is complete, without the engine.
//!
//! A notification through the engine takes the kernel's sockets, even between two processes of one host: most of what a
//! small copy costs. A doorbell is a store into memory that the target looks at anyway. How it is laid out is in
//! [`Doorbell`].

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use nixl_descriptor::{SharedMemory, SharedMemoryError, SharedName};
use nixl_metadata::{Doorbell, NotificationKey};
use nixl_ops::{Offer, OfferWatch};

use super::lately::Lately;

/// The doorbells of one connection's offers. The file is made with the first.
#[derive(Default)]
pub(crate) struct Doorbells {
    board: OnceLock<Option<SharedMemory>>,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    by_slot: HashMap<u32, Armed>,
    slots: HashMap<NotificationKey, u32>,
    /// Used again in the order in which they became free, so that a word that comes late hardly ever meets a new offer.
    free: VecDeque<u32>,
    /// Slots that were ever used.
    used: u32,
    /// Offers that got none since the table was last looked through.
    refused: u32,
}

struct Armed {
    token: u64,
    key: NotificationKey,
    /// `None` until the offer was announced.
    watch: Option<OfferWatch>,
}

impl Doorbells {
    /// Offers that get none before the table is looked through for those that are over.
    const PATIENCE: u32 = 256;

    /// A doorbell for an offer that is to be announced or withdrawn. `None` if there are too many, or no memory for them.
    pub(crate) fn arm(&self, key: &NotificationKey) -> Option<Doorbell> {
        let board = self.board.get_or_init(board).as_ref()?;
        let token = (uuid::Uuid::new_v4().as_u128() as u64).max(1);
        let slot = self.lock().arm(token, key)?;
        // What was said too late to whom the slot belonged before.
        place(board, slot)?.store(0, Ordering::Release);
        let SharedName { pid, fd, name, len } = board.name();
        Some(Doorbell { pid, fd, name, length: len, slot, token })
    }

    /// The offer was made.
    pub(crate) fn announce(&self, offer: &Offer) {
        let mut table = self.lock();
        if let Some(slot) = table.slots.get(offer.key()).copied()
            && let Some(armed) = table.by_slot.get_mut(&slot)
        {
            armed.watch = Some(offer.watch());
        }
    }

    /// The offer was not made after all. One that was stays until it is over.
    pub(crate) fn withdraw(&self, key: &NotificationKey) {
        let mut table = self.lock();
        if let Some(slot) = table.slots.get(key).copied()
            && table.by_slot.get(&slot).is_some_and(|armed| armed.watch.is_none())
        {
            table.free(slot);
        }
    }

    /// Takes what peers have said since the last call. Returns whether it was anything.
    pub(crate) fn answer(&self, heard: &mut dyn FnMut(&NotificationKey)) -> bool {
        let Some(Some(board)) = self.board.get() else { return false };
        let mut any = false;
        for group in take_bits(board, 0) {
            for bit in take_bits(board, 1 + group) {
                let slot = group as u32 * 64 + bit as u32;
                let Some(place) = place(board, slot) else { continue };
                let said = place.swap(0, Ordering::AcqRel);
                let key = self.lock().take(slot, said);
                if let Some(key) = key {
                    any = true;
                    heard(&key);
                }
            }
        }
        any
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn arm(&mut self, token: u64, key: &NotificationKey) -> Option<u32> {
        let slot = self.next()?;
        self.slots.insert(key.clone(), slot);
        self.by_slot.insert(slot, Armed { token, key: key.clone(), watch: None });
        Some(slot)
    }

    fn next(&mut self) -> Option<u32> {
        if self.used < Doorbell::SLOTS {
            self.used += 1;
            return Some(self.used - 1);
        }
        if self.free.is_empty() && self.refused.is_multiple_of(Doorbells::PATIENCE) {
            let over = |armed: &Armed| armed.watch.as_ref().is_some_and(OfferWatch::is_over);
            let over = self.by_slot.iter().filter(|(_, armed)| over(armed));
            let over: Vec<_> = over.map(|(slot, _)| *slot).collect();
            over.into_iter().for_each(|slot| self.free(slot));
        }
        let slot = self.free.pop_front();
        self.refused = slot.map_or(self.refused.wrapping_add(1), |_| 0);
        slot
    }

    /// The key of the offer that this is the word of.
    fn take(&mut self, slot: u32, said: u64) -> Option<NotificationKey> {
        let key = self.by_slot.get(&slot).filter(|armed| armed.token == said)?.key.clone();
        self.free(slot);
        Some(key)
    }

    fn free(&mut self, slot: u32) {
        if let Some(armed) = self.by_slot.remove(&slot) {
            self.slots.remove(&armed.key);
            self.free.push_back(slot);
        }
    }
}

/// The boards of peers, opened once each.
#[derive(Default)]
pub(crate) struct PeerBoards {
    by_name: Mutex<HashMap<SharedName, Option<Arc<PeerBoard>>>>,
}

struct PeerBoard {
    memory: SharedMemory,
    /// That the owner has it too.
    seen: Lately,
}

/// One doorbell of a peer's.
pub(crate) struct Bell {
    board: Arc<PeerBoard>,
    slot: u32,
    token: u64,
}

impl PeerBoards {
    /// Boards that are kept; beyond that all are closed, and opened again.
    const KEPT: usize = 256;

    /// Whether opening it was tried.
    pub(crate) fn knows(&self, doorbell: &Doorbell) -> bool {
        // A peer cannot have this process reach its own memory.
        let name = name(doorbell);
        self.lock().contains_key(&name) || name.is_own()
    }

    /// *Blocking.* Opens the board that the doorbell is on. One that cannot be opened is not tried again.
    pub(crate) fn open(&self, doorbell: &Doorbell) {
        if self.knows(doorbell) {
            return;
        }
        let name = name(doorbell);
        let board = PeerBoard::open(&name);
        let board = board.inspect_err(|e| tracing::debug!(%e, "no doorbells of this peer")).ok();
        let mut boards = self.lock();
        let old = match boards.len() >= Self::KEPT {
            true => std::mem::take(&mut *boards),
            false => HashMap::new(),
        };
        boards.insert(name, board.map(Arc::new));
        drop(boards);
        // Unmapped outside the lock.
        drop(old);
    }

    /// The doorbell, if its board is open.
    pub(crate) fn get(&self, doorbell: &Doorbell) -> Option<Bell> {
        let board = self.lock().get(&name(doorbell)).cloned().flatten()?;
        Some(Bell { board, slot: doorbell.slot, token: doorbell.token })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SharedName, Option<Arc<PeerBoard>>>> {
        self.by_name.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PeerBoard {
    fn open(name: &SharedName) -> Result<Self, SharedMemoryError> {
        Ok(Self { memory: SharedMemory::open(name)?, seen: Lately::default() })
    }
}

impl Bell {
    /// Says that the operation is complete. Returns `false`, having said nothing, if it cannot be said in this way.
    pub(crate) fn ring(&self) -> bool {
        let memory = &self.board.memory;
        let group = self.slot as usize / 64;
        let (Some(place), Some(bits), Some(groups)) =
            (place(memory, self.slot), memory.word(1 + group), memory.word(0))
        else {
            return false;
        };
        // Nobody would hear it; the engine says so.
        if !self.board.seen.or(|| memory.name().is_there()) {
            return false;
        }
        // Behind the bytes that it is about, and before the bits that lead to it.
        if place.compare_exchange(0, self.token, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return false;
        }
        bits.fetch_or(1 << (self.slot % 64), Ordering::AcqRel);
        groups.fetch_or(1 << (group % 64), Ordering::AcqRel);
        true
    }
}

fn board() -> Option<SharedMemory> {
    let memory = SharedMemory::new(Doorbell::WORDS * size_of::<u64>());
    memory.inspect_err(|e| tracing::debug!(%e, "no doorbells")).ok()
}

fn name(doorbell: &Doorbell) -> SharedName {
    let &Doorbell { pid, fd, name, length, .. } = doorbell;
    SharedName { pid, fd, name, len: length }
}

fn place(memory: &SharedMemory, slot: u32) -> Option<&AtomicU64> {
    memory.word(65 + slot as usize)
}

/// Takes the bits of a word that are set.
fn take_bits(memory: &SharedMemory, word: usize) -> impl Iterator<Item = usize> + use<> {
    let taken = memory.word(word).map_or(0, |word| match word.load(Ordering::Relaxed) {
        // Looking changes nothing, so that it costs nothing.
        0 => 0,
        _ => word.swap(0, Ordering::AcqRel),
    });
    (0..64).filter(move |bit| taken & (1 << bit) != 0)
}

impl fmt::Debug for Doorbells {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Doorbells")
            .field("armed", &self.lock().by_slot.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for PeerBoards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerBoards").field("open", &self.lock().len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    fn key() -> NotificationKey {
        NotificationKey::random()
    }

    /// As another process would have it.
    fn bell(doorbell: &Doorbell) -> Bell {
        let board = Arc::new(PeerBoard::open(&name(doorbell)).unwrap());
        Bell { board, slot: doorbell.slot, token: doorbell.token }
    }

    fn heard(doorbells: &Doorbells) -> Vec<NotificationKey> {
        let mut heard = Vec::new();
        let any = doorbells.answer(&mut |key| heard.push(key.clone()));
        assert_eq!(any, !heard.is_empty());
        heard
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn each_word_is_heard_once_and_by_whom_it_is_for(
            // Who is armed, withdrawn, rings, and when it is looked.
            steps in proptest::collection::vec((0..4u8, any::<prop::sample::Index>()), 1..200),
        ) {
            let doorbells = Doorbells::default();
            let mut all: Vec<(NotificationKey, Bell)> = Vec::new();
            let (mut armed, mut rung) = (HashSet::new(), HashSet::new());
            for (what, who) in steps {
                match what {
                    0 => {
                        let key = key();
                        let doorbell = doorbells.arm(&key).unwrap();
                        armed.insert(key.clone());
                        all.push((key, bell(&doorbell)));
                    }
                    1 if !all.is_empty() => {
                        let (key, bell) = &all[who.index(all.len())];
                        let said = bell.ring();
                        if said && armed.contains(key) {
                            rung.insert(key.clone());
                        }
                    }
                    2 if !all.is_empty() => {
                        let (key, _) = &all[who.index(all.len())];
                        doorbells.withdraw(key);
                        armed.remove(key);
                        rung.remove(key);
                    }
                    _ => {
                        let now: Vec<_> = heard(&doorbells);
                        prop_assert_eq!(now.len(), rung.len());
                        for key in now {
                            prop_assert!(rung.remove(&key) && armed.remove(&key));
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_word_that_comes_too_late_is_not_another_offers() {
        let doorbells = Doorbells::default();
        let first = key();
        let late = bell(&doorbells.arm(&first).unwrap());
        doorbells.withdraw(&first);
        let mut last = None;
        for _ in 0..Doorbell::SLOTS {
            last = Some((key(), doorbells.arm(&key()).unwrap()));
        }
        // All slots are taken, the first one again by the last offer.
        let (_, doorbell) = last.unwrap();
        assert_eq!(doorbell.slot, late.slot);
        assert!(doorbells.arm(&key()).is_none());
        assert!(late.ring());
        assert!(!bell(&doorbell).ring(), "the place is taken: it has to go through the engine");
        assert!(heard(&doorbells).is_empty());
        assert!(bell(&doorbell).ring());
        assert_eq!(heard(&doorbells).len(), 1);
        assert!(doorbells.arm(&key()).is_some());
    }

    #[test]
    fn no_word_is_lost_between_threads() {
        let doorbells = Doorbells::default();
        let bells: Vec<_> = (0..800).map(|_| bell(&doorbells.arm(&key()).unwrap())).collect();
        let mut count = 0;
        thread::scope(|scope| {
            for part in bells.chunks(200) {
                scope.spawn(move || part.iter().for_each(|bell| assert!(bell.ring())));
            }
            while count < bells.len() {
                count += heard(&doorbells).len();
            }
        });
        assert!(heard(&doorbells).is_empty());
    }

    #[test]
    fn whatever_peers_write_nothing_is_heard_that_was_not_said() {
        let doorbells = Doorbells::default();
        let doorbell = doorbells.arm(&key()).unwrap();
        let peer = PeerBoard::open(&name(&doorbell)).unwrap();
        for word in 0..Doorbell::WORDS {
            peer.memory.word(word).unwrap().store(u64::MAX, Ordering::SeqCst);
        }
        assert!(heard(&doorbells).is_empty());
        assert!(bell(&doorbell).ring(), "what it wrote is gone");
        assert_eq!(heard(&doorbells).len(), 1);
    }

    #[test]
    fn nothing_is_said_to_who_has_let_go_of_it() {
        let doorbells = Doorbells::default();
        let bell = bell(&doorbells.arm(&key()).unwrap());
        drop(doorbells);
        assert!(!bell.ring());
    }

    #[test]
    fn what_cannot_be_opened_is_tried_once() {
        let boards = PeerBoards::default();
        let doorbell =
            Doorbell { pid: u32::MAX, fd: 1, name: [1; 16], length: 8, slot: 0, token: 1 };
        assert!(!boards.knows(&doorbell));
        boards.open(&doorbell);
        assert!(boards.knows(&doorbell) && boards.get(&doorbell).is_none());
        // Nor is the memory of this process.
        let doorbells = Doorbells::default();
        let own = doorbells.arm(&key()).unwrap();
        assert!(boards.knows(&own) && boards.get(&own).is_none());
    }

    #[test]
    fn a_board_that_is_too_short_is_none() {
        let doorbells = Doorbells::default();
        let doorbell = doorbells.arm(&key()).unwrap();
        let short = Doorbell { length: 64, ..doorbell };
        assert!(!bell(&short).ring());
        assert!(heard(&doorbells).is_empty());
    }
}
