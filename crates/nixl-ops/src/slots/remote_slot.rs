//! The slot of a peer's offer on this host: its claim and its end.

use std::fmt;
#[cfg(all(test, loom))]
use std::sync::Arc;

use nixl_metadata::{OperationKind, RdmaMetadata, SlotAddress};

#[cfg(all(test, loom))]
use super::page::OfferPage;
use super::page::{mark, ring, word};
use super::remote_page::Page;
use super::word::{SlotState, SlotWord};
use crate::sync::SharedMemory;
use crate::sync::atomic::{Ordering, fence};
use crate::{EndedOffer, TransportError};

/// The slot of a peer's offer.
#[derive(Clone)]
pub struct RemoteSlot {
    page: Page,
    slot: u32,
    token: u64,
    kind: OperationKind,
    readers: u32,
    pid: u32,
    protocol: Protocol,
}

/// The slot protocol of the owner's release.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Protocol {
    /// Version 1: the word changes from 0 to the token at completion.
    Token,
    /// Version 2: the word holds the offer's state.
    State,
}

#[cfg(all(test, loom))]
impl RemoteSlot {
    /// The slot for a process of this identifier.
    pub(super) fn of_process(
        pid: u32,
        page: &Arc<OfferPage>,
        address: SlotAddress,
        kind: OperationKind,
        readers: u32,
    ) -> Self {
        let (page, protocol) = (Page::Own(Arc::clone(page)), Protocol::State);
        let (slot, token) = (address.slot(), address.token());
        Self { page, slot, token, kind, readers, pid, protocol }
    }
}

impl RemoteSlot {
    /// `None` if the page has no such slot.
    pub(super) fn new(
        page: Page,
        (address, remote): (&SlotAddress, &RdmaMetadata),
        pid: u32,
    ) -> Option<Self> {
        let (readers, protocol) = match remote.terms() {
            Some(terms) => (terms.readers().get(), Protocol::State),
            None => (1, Protocol::Token),
        };
        let (slot, token, kind) = (address.slot(), address.token(), remote.operation_kind());
        word(page.memory()?, slot)?;
        let pid = if page.is_foreign() { 0 } else { pid };
        Some(Self { page, slot, token, kind, readers, pid, protocol })
    }

    /// Whether the slot itself refuses excess uses, so initiators need not remember its key.
    pub fn refuses_reuse(&self) -> bool {
        self.protocol == Protocol::State
    }

    /// Begins a use of the offer: claims it for a write, or checks it for a read.
    ///
    /// # Errors
    ///
    /// [`TransportError::OfferEnded`], or [`TransportError::PeerGone`] if the owner has closed its page.
    pub(crate) fn begin(&self) -> Result<(), TransportError> {
        self.check_owner()?;
        self.claim()
    }

    /// Whether the owner has its page open, or had within the last millisecond.
    pub fn is_owned(&self) -> bool {
        self.page.is_owned()
    }

    fn check_owner(&self) -> Result<(), TransportError> {
        match self.is_owned() {
            true => Ok(()),
            false => Err(ended(EndedOffer::OwnerGone)),
        }
    }

    fn claim(&self) -> Result<(), TransportError> {
        if self.protocol == Protocol::Token {
            return Ok(());
        }
        self.change(self.open(), |word| match word.state() {
            SlotState::Open if self.kind == OperationKind::Write => {
                self.claimed(word).ok_or(EndedOffer::Unclaimable)
            }
            SlotState::Open => Ok(word),
            state => Err(state.ended()),
        })
        .map(drop)
    }

    /// Ends a use before a byte moved: the offer can be used again.
    pub(crate) fn undo(&self) {
        if self.protocol == Protocol::State && self.kind == OperationKind::Write {
            let _ = self.change(self.mine(), |word| match self.is_mine(word) {
                true => Ok(word.unclaimed()),
                false => Err(EndedOffer::Revoked),
            });
        }
    }

    /// Ends a complete use, and rings the owner after the last one. The owner counts earlier ones at its next scan, within some
    /// milliseconds.
    ///
    /// # Errors
    ///
    /// For a read, [`TransportError::Stale`] if the owner has ended the offer meanwhile: the bytes may be of its next use. For
    /// a write, [`TransportError::OfferEnded`] if the slot does not hold this process's claim.
    pub(crate) fn complete(&self) -> Result<(), TransportError> {
        self.end(true)
    }

    /// Ends an incomplete use with no byte in flight.
    pub(crate) fn fail(&self) {
        let _ = self.end(false);
    }

    fn end(&self, succeeded: bool) -> Result<(), TransportError> {
        if self.protocol == Protocol::Token {
            // That release has no state for a failed use.
            return if succeeded { self.put_token() } else { Ok(()) };
        }
        let expected = match self.kind {
            OperationKind::Read => self.open(),
            OperationKind::Write => self.mine(),
        };
        let result = self.change(expected, |word| match (self.kind, word.state()) {
            (OperationKind::Read, SlotState::Open) => {
                word.read(succeeded, self.readers).ok_or(EndedOffer::Used)
            }
            (OperationKind::Write, _) if self.is_mine(word) => Ok(word.written(succeeded)),
            (_, state) => Err(state.ended()),
        });
        match result {
            Ok(word) => {
                match (self.page.memory(), word.state()) {
                    (Some(memory), SlotState::Done) => _ = self.ring(memory),
                    (Some(memory), _) => _ = mark(memory, self.slot),
                    (None, _) => {}
                }
                Ok(())
            }
            Err(TransportError::OfferEnded { .. }) if self.kind == OperationKind::Read => {
                Err(TransportError::Stale)
            }
            Err(error) => Err(error),
        }
    }

    /// Declines an offer.
    ///
    /// # Errors
    ///
    /// [`TransportError::OfferEnded`] if it has ended.
    pub fn decline(&self) -> Result<(), TransportError> {
        self.claim()?;
        self.fail();
        // Checked last: the owner wakes meanwhile.
        self.check_owner()
    }

    fn put_token(&self) -> Result<(), TransportError> {
        let Some(memory) = self.page.memory() else { return Err(ended(EndedOffer::OwnerGone)) };
        let place = word(memory, self.slot);
        let rung = place.is_some_and(|place| {
            place.compare_exchange(0, self.token, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        });
        match rung && self.ring(memory) {
            true => Ok(()),
            // The engine has to notify the owner.
            false => Err(ended(EndedOffer::Used)),
        }
    }

    /// Leads the owner to the slot. Returns whether there is such a slot.
    fn ring(&self, memory: &SharedMemory) -> bool {
        let rung = ring(memory, self.slot);
        if let (Some(true), Page::Mapped(page)) = (rung, &self.page) {
            page.woke();
        }
        rung.is_some()
    }

    fn open(&self) -> SlotWord {
        SlotWord::open(SlotWord::token_bits(self.token))
    }

    fn mine(&self) -> SlotWord {
        self.claimed(self.open()).unwrap_or(self.open())
    }

    /// The claim of this process: without a number if the owner is in another PID namespace. The owner then waits for the end of every
    /// process to which it gave the memory.
    fn claimed(&self, word: SlotWord) -> Option<SlotWord> {
        match self.page.is_foreign() {
            true => Some(word.claimed_by_agent()),
            false => word.claimed(self.pid),
        }
    }

    fn is_mine(&self, word: SlotWord) -> bool {
        word.is_of(self.token) && word.state() == SlotState::Claimed(self.pid)
    }

    /// Changes the word by `next`, and returns the new word. `expected` is the likely current word: a swap without a prior load
    /// moves the cache line from the owner's processor once instead of twice.
    fn change(
        &self,
        expected: SlotWord,
        next: impl Fn(SlotWord) -> Result<SlotWord, EndedOffer>,
    ) -> Result<SlotWord, TransportError> {
        let memory = self.page.memory().ok_or(ended(EndedOffer::OwnerGone))?;
        let place = word(memory, self.slot).ok_or(ended(EndedOffer::Revoked))?;
        // Acquire, as the fence of a seqlock's reader: earlier reads are not reordered after this. The callers' copies have
        // ended, and with them their threads' and engines' accesses.
        fence(Ordering::Acquire);
        let mut seen = expected.bits();
        loop {
            let found = SlotWord::from_bits(seen);
            if !found.is_of(self.token) {
                // The slot belongs to another offer by now.
                return Err(ended(EndedOffer::Used));
            }
            let wanted = next(found).map_err(ended)?;
            match place.compare_exchange(seen, wanted.bits(), Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Ok(wanted),
                Err(now) => seen = now,
            }
        }
    }
}

fn ended(why: EndedOffer) -> TransportError {
    TransportError::OfferEnded { why }
}

/// Does not print the token, which ends the offer.
impl fmt::Debug for RemoteSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteSlot").field("slot", &self.slot).finish_non_exhaustive()
    }
}
