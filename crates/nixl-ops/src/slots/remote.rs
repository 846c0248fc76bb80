//! The slots of peers on this host.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nixl_descriptor::{SharedMemory, SharedName};
use nixl_metadata::{Doorbell, OperationKind, RdmaMetadata};

use super::page::{ring, word};
use super::recent::RecentCheck;
use super::word::{SlotState, SlotWord};
use crate::{EndedOffer, TransportError};

/// The pages of peers on this host, opened once each.
#[derive(Default)]
pub struct RemoteSlots {
    by_name: Mutex<HashMap<SharedName, Option<Arc<RemotePage>>>>,
}

struct RemotePage {
    memory: SharedMemory,
    /// That the owner has it open too.
    owned: RecentCheck,
}

/// The slot of a peer's offer.
#[derive(Clone)]
pub struct RemoteSlot {
    page: Arc<RemotePage>,
    slot: u32,
    token: u64,
    kind: OperationKind,
    readers: u32,
    protocol: Protocol,
}

/// How the owner's release uses slots.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Protocol {
    /// Version 1: the place goes from 0 to the token when the operation is complete.
    Bell,
    /// Version 2: the place holds the offer's state.
    State,
}

impl RemoteSlots {
    /// Pages that are kept; beyond that all are closed, and opened again.
    const KEPT: usize = 256;
    /// The version of the slots' protocol that this release speaks; it speaks the one before, too.
    pub const VERSION: u16 = 2;

    /// Whether the offer's page was opened, or opening it was tried.
    pub fn knows(&self, doorbell: &Doorbell) -> bool {
        // A peer cannot have this process reach its own memory.
        let name = name(doorbell);
        self.lock().contains_key(&name) || name.is_own()
    }

    /// *Blocking.* Opens the page that the slot is on. One that cannot be opened is not tried again.
    pub fn open(&self, doorbell: &Doorbell) {
        if self.knows(doorbell) {
            return;
        }
        let name = name(doorbell);
        let page = SharedMemory::open(&name)
            .inspect_err(|e| tracing::debug!(%e, "the slots of this peer cannot be mapped"))
            .ok()
            .map(|memory| Arc::new(RemotePage { memory, owned: RecentCheck::default() }));
        let mut pages = self.lock();
        let old = match pages.len() >= Self::KEPT {
            true => std::mem::take(&mut *pages),
            false => HashMap::new(),
        };
        pages.insert(name, page);
        drop(pages);
        // Unmapped outside the lock.
        drop(old);
    }

    /// *Blocking.* Closes the pages whose owners have closed them or ended.
    pub fn sweep(&self) {
        let names: Vec<_> = self.lock().keys().copied().collect();
        for name in names.iter().filter(|name| !name.is_there()) {
            let closed = self.lock().remove(name);
            drop(closed);
        }
    }

    /// The slot of an offer, if its page is open.
    pub fn get(&self, remote: &RdmaMetadata) -> Option<RemoteSlot> {
        let doorbell = remote.doorbell()?;
        let page = self.lock().get(&name(doorbell)).cloned().flatten()?;
        let (readers, protocol) = match remote.terms() {
            Some(terms) => (terms.readers().get(), Protocol::State),
            None => (1, Protocol::Bell),
        };
        let (slot, token, kind) = (doorbell.slot, doorbell.token, remote.operation_kind());
        word(&page.memory, slot)?;
        Some(RemoteSlot { page, slot, token, kind, readers, protocol })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SharedName, Option<Arc<RemotePage>>>> {
        self.by_name.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RemoteSlot {
    /// Begins a use of the offer: claims it for writing, or checks that it can be read.
    ///
    /// # Errors
    ///
    /// [`TransportError::OfferEnded`], or [`TransportError::PeerGone`] if the owner has closed its page.
    pub fn begin(&self) -> Result<(), TransportError> {
        if !self.page.owned.get_or(|| self.page.memory.name().is_there()) {
            return Err(TransportError::OfferEnded { why: EndedOffer::OwnerGone });
        }
        if self.protocol == Protocol::Bell {
            return Ok(());
        }
        self.change(|word| match word.state() {
            SlotState::Open if self.kind == OperationKind::Write => {
                word.claimed(std::process::id()).map(Some).ok_or(EndedOffer::Unclaimable)
            }
            SlotState::Open => Ok(None),
            state => Err(state.ended()),
        })
    }

    /// The use has ended before a byte moved: the offer can be used again.
    pub fn undo(&self) {
        if self.protocol == Protocol::State && self.kind == OperationKind::Write {
            let _ = self.change(|word| match self.is_mine(word) {
                true => Ok(Some(word.unclaimed())),
                false => Err(EndedOffer::Revoked),
            });
        }
    }

    /// Every byte is in place: ends the use, and rings the owner when it is the last.
    ///
    /// # Errors
    ///
    /// For a read, [`TransportError::Stale`] if the owner has ended the offer meanwhile: the bytes may be those of its next
    /// use. For a write, [`TransportError::OfferEnded`] if the slot does not hold this process's claim.
    pub fn complete(&self) -> Result<(), TransportError> {
        self.end(true)
    }

    /// No byte is in flight, and not all are in place: ends the use.
    pub fn fail(&self) {
        let _ = self.end(false);
    }

    fn end(&self, succeeded: bool) -> Result<(), TransportError> {
        if self.protocol == Protocol::Bell {
            // That release has no word for a use without success.
            return if succeeded { self.ring_bell() } else { Ok(()) };
        }
        let result = self.change(|word| match (self.kind, word.state()) {
            (OperationKind::Read, SlotState::Open) => {
                word.read(succeeded, self.readers).map(Some).ok_or(EndedOffer::Used)
            }
            (OperationKind::Write, _) if self.is_mine(word) => Ok(Some(word.written(succeeded))),
            (_, state) => Err(state.ended()),
        });
        match result {
            Ok(()) => {
                ring(&self.page.memory, self.slot);
                Ok(())
            }
            Err(TransportError::OfferEnded { .. }) if self.kind == OperationKind::Read => {
                Err(TransportError::Stale)
            }
            Err(error) => Err(error),
        }
    }

    /// Ends an offer that this process does not take up.
    ///
    /// # Errors
    ///
    /// [`TransportError::OfferEnded`] if it has ended.
    pub fn decline(&self) -> Result<(), TransportError> {
        self.begin()?;
        self.fail();
        Ok(())
    }

    fn ring_bell(&self) -> Result<(), TransportError> {
        let place = word(&self.page.memory, self.slot);
        let rung = place.is_some_and(|place| {
            place.compare_exchange(0, self.token, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        });
        match rung && ring(&self.page.memory, self.slot) {
            true => Ok(()),
            // The engine has to tell it.
            false => Err(TransportError::OfferEnded { why: EndedOffer::Used }),
        }
    }

    fn is_mine(&self, word: SlotWord) -> bool {
        word.is_of(self.token) && word.state() == SlotState::Claimed(std::process::id())
    }

    /// Changes the word as `next` says, which may change nothing.
    fn change(
        &self,
        next: impl Fn(SlotWord) -> Result<Option<SlotWord>, EndedOffer>,
    ) -> Result<(), TransportError> {
        let refused = |why| TransportError::OfferEnded { why };
        let place = word(&self.page.memory, self.slot).ok_or(refused(EndedOffer::Revoked))?;
        // Acquire, as the fence of a seqlock's reader: what was read before is not read after this. The callers' copies have
        // ended, and with them their threads' and engines' accesses.
        std::sync::atomic::fence(Ordering::Acquire);
        let mut seen = place.load(Ordering::Acquire);
        loop {
            let found = SlotWord::from_bits(seen);
            if !found.is_of(self.token) {
                // The slot is another offer's by now.
                return Err(refused(EndedOffer::Used));
            }
            let Some(wanted) = next(found).map_err(refused)? else { return Ok(()) };
            match place.compare_exchange(seen, wanted.bits(), Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Ok(()),
                Err(now) => seen = now,
            }
        }
    }
}

fn name(doorbell: &Doorbell) -> SharedName {
    let &Doorbell { pid, fd, name, length, .. } = doorbell;
    SharedName { pid, fd, name, len: length }
}

impl fmt::Debug for RemoteSlots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteSlots").field("open", &self.lock().len()).finish()
    }
}

/// Shows nothing that ends the offer.
impl fmt::Debug for RemoteSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteSlot").field("slot", &self.slot).finish_non_exhaustive()
    }
}
