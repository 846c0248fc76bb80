//! Claims of write grants, on a page that their writers may write.
//!
//! | word | content |
//! |---|---|
//! | 0 | not 0 if a writer is done that the owner has not heard of |
//! | 1 to *g* | a bit for each slot whose writer is done, for 64 slots in a word |
//! | *g* + 1 to *g* + *slots* | the claim of each slot: the generation's low 62 bits, and the state in the low 2 |
//!
//! The states are 0 open, 1 claimed, 2 done, 3 revoked. Writers change a claim from open to claimed before their first byte,
//! and from claimed to done after the last; the owner from open to revoked; all by compare-and-swap, so exactly one wins.
//!
//! Generations are random and never used twice in an export, so a claim of one grant never equals a claim of another. A process
//! that maps the page needs the right to trace the owner, with which it could do anything to it; by writing what is no claim it
//! makes the owner wait for proof, and by claims in others' names it says what it likes. The page of words stays out of reach.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use nixl_descriptor::{RegionError, SharedMemory, SharedMemoryError, SharedName};

/// The claims of an export's write grants. Its owner has made the page; writers of its host [open](Self::open) it.
pub struct Claims {
    memory: SharedMemory,
    slots: u32,
}

/// Why a write grant cannot be claimed, or was not claimed any more.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ClaimError {
    /// Another use of the ticket has claimed it.
    #[error(
        "the grant is claimed by another writer, or by an earlier use of this ticket: ask for a new one"
    )]
    Claimed,
    /// Its writer is done.
    #[error("the grant has been written: ask for a new one")]
    Done,
    /// The owner has ended it.
    #[error("the grant has ended: no byte may be written; ask for a new one")]
    Ended,
    /// It was not claimed.
    #[error("the grant was not claimed before it was written")]
    NotClaimed,
    /// There is no such slot.
    #[error("the owner's claims have no slot {slot}: the ticket is of another export or forged")]
    NoSlot {
        /// The slot asked for.
        slot: u32,
    },
}

/// What revoking a grant came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Revoked {
    /// No writer has it or can get it.
    Quiet,
    /// A writer has claimed it; or the claim was overwritten, and one may have before.
    Claimed,
}

const OPEN: u64 = 0;
const CLAIMED: u64 = 1;
const DONE: u64 = 2;
const REVOKED: u64 = 3;

const fn claim_of(generation: u64, state: u64) -> u64 {
    generation << 2 | state
}

impl Claims {
    /// Nothing is claimed.
    pub(super) fn new(slots: u32) -> Result<Self, RegionError> {
        let words = 1 + groups(slots) + slots as usize;
        Ok(Self { memory: SharedMemory::new(words * size_of::<u64>())?, slots })
    }

    /// Maps the claims of another process, which has so many slots.
    ///
    /// # Errors
    ///
    /// [`SharedMemoryError`]; [`MayShrink`](SharedMemoryError::MayShrink) if the page is too short for the slots.
    pub fn open(name: &SharedName, slots: u32) -> Result<Self, SharedMemoryError> {
        let words = 1 + groups(slots) + slots as usize;
        if name.len < (words * size_of::<u64>()) as u64 {
            return Err(SharedMemoryError::MayShrink);
        }
        Ok(Self { memory: SharedMemory::open(name)?, slots })
    }

    /// What other processes open it by.
    pub fn name(&self) -> SharedName {
        self.memory.name()
    }

    /// Claims a grant, once. Only then may its blocks be written.
    ///
    /// # Errors
    ///
    /// [`ClaimError`]
    pub fn claim(&self, slot: u32, generation: u64) -> Result<(), ClaimError> {
        self.change(slot, generation, OPEN, CLAIMED)
    }

    /// Says that the writer is done: nothing of it is on its way any more. The owner hears of it when it looks.
    ///
    /// # Errors
    ///
    /// [`ClaimError`]
    pub fn done(&self, slot: u32, generation: u64) -> Result<(), ClaimError> {
        self.change(slot, generation, CLAIMED, DONE)?;
        let (group, bit) = (slot as usize / 64, slot % 64);
        if let Some(bits) = self.memory.word(1 + group) {
            bits.fetch_or(1 << bit, Ordering::AcqRel);
        }
        if let Some(any) = self.memory.word(0) {
            any.store(1, Ordering::Release);
        }
        Ok(())
    }

    /// Opens a slot for a new grant.
    pub(super) fn arm(&self, slot: u32, generation: u64) {
        if let Some(word) = self.word(slot) {
            word.store(claim_of(generation, OPEN), Ordering::Release);
        }
    }

    /// From now on nothing claims the grant.
    pub(super) fn revoke(&self, slot: u32, generation: u64) -> Revoked {
        match self.change(slot, generation, OPEN, REVOKED) {
            Ok(()) | Err(ClaimError::Done) => Revoked::Quiet,
            Err(_) => match self.is_revoked(slot, generation) {
                true => Revoked::Quiet,
                false => Revoked::Claimed,
            },
        }
    }

    /// Ends a claim by the owner's proof, or by the writer's confirmation that came another way.
    pub(super) fn settle(&self, slot: u32, generation: u64) {
        if let Some(word) = self.word(slot) {
            word.store(claim_of(generation, DONE), Ordering::SeqCst);
        }
    }

    /// Whether the writer is done. What it has written is there.
    pub(super) fn is_done(&self, slot: u32, generation: u64) -> bool {
        let found = self.word(slot).map(|word| word.load(Ordering::Acquire));
        found == Some(claim_of(generation, DONE))
    }

    /// The slots whose writers may be done, since the last call.
    pub(super) fn take_done(&self) -> Vec<u32> {
        let take = |word: usize| {
            self.memory.word(word).map_or(0, |word| match word.load(Ordering::Relaxed) {
                0 => 0,
                _ => word.swap(0, Ordering::AcqRel),
            })
        };
        if take(0) == 0 {
            return Vec::new();
        }
        let mut slots = Vec::new();
        for group in 0..groups(self.slots) {
            let mut bits = take(1 + group);
            while bits != 0 {
                // Below the number of slots, rounded up to 64.
                slots.push(group as u32 * 64 + bits.trailing_zeros());
                bits &= bits - 1;
            }
        }
        slots
    }

    fn is_revoked(&self, slot: u32, generation: u64) -> bool {
        let found = self.word(slot).map(|word| word.load(Ordering::Acquire));
        found == Some(claim_of(generation, REVOKED))
    }

    fn change(&self, slot: u32, generation: u64, from: u64, to: u64) -> Result<(), ClaimError> {
        let word = self.word(slot).ok_or(ClaimError::NoSlot { slot })?;
        // Sequentially consistent: the owner overwrites the blocks after it has revoked, the writer after it has claimed.
        let changed = word.compare_exchange(
            claim_of(generation, from),
            claim_of(generation, to),
            Ordering::SeqCst,
            Ordering::Acquire,
        );
        let Err(found) = changed else { return Ok(()) };
        if found | 3 != claim_of(generation, 3) {
            return Err(ClaimError::Ended);
        }
        Err(match found & 3 {
            OPEN => ClaimError::NotClaimed,
            CLAIMED => ClaimError::Claimed,
            DONE => ClaimError::Done,
            _ => ClaimError::Ended,
        })
    }

    fn word(&self, slot: u32) -> Option<&AtomicU64> {
        if slot >= self.slots {
            return None;
        }
        self.memory.word(1 + groups(self.slots) + slot as usize)
    }
}

/// Words with a bit for each slot.
fn groups(slots: u32) -> usize {
    slots.div_ceil(64) as usize
}

impl fmt::Debug for Claims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claims").field("slots", &self.slots).finish_non_exhaustive()
    }
}
