//! The slots of peers on this host.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use nixl_descriptor::{SharedMemoryError, SharedName};
use nixl_device::locks::lock;
use nixl_metadata::{OperationKind, RdmaMetadata, SlotAddress};

use super::page::{OfferPage, mark, ring, word};
use super::recent::RecentCheck;
use super::word::{SlotState, SlotWord};
use crate::mailbox::{Lane, Reached};
use crate::sync::SharedMemory;
use crate::sync::atomic::{Ordering, fence};
use crate::{EndedOffer, RecentMap, TransportError};

/// The pages of peers on this host, opened once each.
pub struct RemoteSlots {
    by_name: Mutex<RecentMap<SharedName, Known>>,
    /// The identifier of this process, for claims.
    pid: u32,
}

impl Default for RemoteSlots {
    fn default() -> Self {
        Self::of_pid(std::process::id())
    }
}

/// The state of an offer's slot here.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum FoundSlot {
    /// The slot is mapped.
    Mapped(RemoteSlot),
    /// The slot cannot be mapped.
    Unreachable,
    /// [Opening](RemoteSlots::open) its page was not tried.
    Unknown,
}

/// An opened page.
enum Known {
    Mapped(Arc<MappedPage>),
    /// Of another connection of this process.
    Own(Arc<OwnPage>),
    Unreachable,
}

/// A page of another process.
pub(crate) struct MappedPage {
    pub(crate) memory: SharedMemory,
    /// The check that the owner still has it open.
    owned: RecentCheck,
    /// The lane for this side's messages.
    pub(crate) lane: Lane,
    /// The owner is in another PID namespace, where the number of this process means another one or none.
    is_foreign: bool,
}

/// A page of another connection of this process.
pub(crate) struct OwnPage {
    pub(crate) page: Weak<OfferPage>,
    pub(crate) lane: Lane,
}

/// A usable page.
#[derive(Clone)]
enum Page {
    Mapped(Arc<MappedPage>),
    Own(Arc<OfferPage>),
}

impl MappedPage {
    /// Whether the owner has it open, or had within the last millisecond. Also if that cannot be known, as without `/proc`.
    pub(crate) fn is_owned(&self) -> bool {
        self.owned.get_or(|| !self.memory.name().is_gone())
    }

    /// A thread of the owner slept on the page just now. The check of the owner, a walk through `/proc`, would keep this processor from
    /// the thread that woke.
    pub(crate) fn woke(&self) {
        self.owned.confirm();
    }
}

impl Drop for MappedPage {
    fn drop(&mut self) {
        self.lane.release(&self.memory);
    }
}

impl Drop for OwnPage {
    fn drop(&mut self) {
        if let Some(page) = self.page.upgrade()
            && let Some(memory) = page.memory()
        {
            self.lane.release(memory);
        }
    }
}

impl Known {
    fn page(&self) -> Option<Page> {
        match self {
            Self::Mapped(mapped) => Some(Page::Mapped(Arc::clone(mapped))),
            Self::Own(own) => own.page.upgrade().map(Page::Own),
            Self::Unreachable => None,
        }
    }
}

impl Page {
    fn memory(&self) -> Option<&SharedMemory> {
        match self {
            Self::Mapped(mapped) => Some(&mapped.memory),
            Self::Own(page) => page.memory(),
        }
    }

    fn is_owned(&self) -> bool {
        match self {
            Self::Mapped(mapped) => mapped.is_owned(),
            Self::Own(_) => true,
        }
    }

    fn is_foreign(&self) -> bool {
        matches!(self, Self::Mapped(mapped) if mapped.is_foreign)
    }
}

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

#[cfg(all(test, not(loom)))]
impl RemoteSlots {
    /// The pages for a process of this identifier.
    pub(super) fn of_process(pid: u32) -> Self {
        Self::of_pid(pid)
    }
}

impl RemoteSlots {
    /// Bound on kept pages.
    const KEPT: usize = 256;
    /// This release's version of the slot protocol; it also supports the one before.
    pub const VERSION: u16 = 2;

    fn of_pid(pid: u32) -> Self {
        Self { by_name: Mutex::new(RecentMap::new(Self::KEPT)), pid }
    }

    /// Whether the page was opened, or opening it was tried.
    pub(crate) fn knows(&self, page: &SharedName) -> bool {
        self.lock().contains(page)
    }

    /// A page for messages to its owner, if open.
    pub(crate) fn reached(&self, page: &SharedName) -> Option<Reached> {
        match self.lock().get(page)? {
            Known::Mapped(mapped) => Some(Reached::Mapped(Arc::clone(mapped))),
            Known::Own(own) => Some(Reached::Own(Arc::clone(own))),
            Known::Unreachable => None,
        }
    }

    /// *Blocking.* Closes the pages of an ended process.
    pub fn close_of(&self, pid: u32) {
        let mut pages = self.lock();
        let of_pid: Vec<_> = pages.keys().filter(|name| name.pid == pid).copied().collect();
        let closed: Vec<_> = of_pid.iter().filter_map(|name| pages.remove(name)).collect();
        drop(pages);
        // Unmapped outside the lock.
        drop(closed);
    }

    /// *Blocking.* Opens the slot's page. One that failed is tried again only if the system was short of something.
    pub fn open(&self, address: &SlotAddress) {
        self.open_page(&page_of(address));
    }

    /// *Blocking.* As [`open`](Self::open).
    pub(crate) fn open_page(&self, name: &SharedName) {
        if self.knows(name) {
            return;
        }
        let known = match name.is_own() {
            // Found by its name alone; other metadata may differ.
            true => OfferPage::own(&name.name).map_or(Known::Unreachable, |page| {
                Known::Own(Arc::new(OwnPage { page, lane: Lane::default() }))
            }),
            false => match SharedMemory::open(&bounded(name)) {
                Ok(memory) => Known::Mapped(Arc::new(MappedPage {
                    is_foreign: name.is_by_rendezvous(),
                    memory,
                    owned: RecentCheck::default(),
                    lane: Lane::default(),
                })),
                Err(error) => {
                    tracing::debug!(%error, "the slots of this peer cannot be mapped");
                    if !lasts(&error) {
                        return;
                    }
                    Known::Unreachable
                }
            },
        };
        let closed = self.lock().insert(*name, known);
        // Unmapped outside the lock.
        drop(closed);
    }

    /// *Blocking.* Closes the pages whose owners have closed them or ended.
    pub fn sweep(&self) {
        let names: Vec<_> = self.lock().keys().copied().collect();
        for name in names.iter().filter(|name| name.is_gone()) {
            let closed = self.lock().remove(name);
            drop(closed);
        }
    }

    /// The slot of an offer.
    pub fn find(&self, remote: &RdmaMetadata) -> FoundSlot {
        let Some(address) = remote.slot_address() else { return FoundSlot::Unreachable };
        let page = match self.lock().get(&page_of(address)) {
            Some(known) => known.page(),
            None => return FoundSlot::Unknown,
        };
        let slot = page.and_then(|page| self.slot(page, address, remote));
        slot.map_or(FoundSlot::Unreachable, FoundSlot::Mapped)
    }

    fn slot(&self, page: Page, address: &SlotAddress, remote: &RdmaMetadata) -> Option<RemoteSlot> {
        let (readers, protocol) = match remote.terms() {
            Some(terms) => (terms.readers().get(), Protocol::State),
            None => (1, Protocol::Token),
        };
        let (slot, token, kind) = (address.slot(), address.token(), remote.operation_kind());
        word(page.memory()?, slot)?;
        let pid = if page.is_foreign() { 0 } else { self.pid };
        Some(RemoteSlot { page, slot, token, kind, readers, pid, protocol })
    }

    fn lock(&self) -> MutexGuard<'_, RecentMap<SharedName, Known>> {
        lock(&self.by_name)
    }
}

impl RemoteSlot {
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

/// Whether a page that cannot be opened for this reason never can.
const fn lasts(error: &SharedMemoryError) -> bool {
    !matches!(error, SharedMemoryError::Exhausted { .. })
}

fn ended(why: EndedOffer) -> TransportError {
    TransportError::OfferEnded { why }
}

/// The part of a page that the protocol uses: its owner chooses how long the file is, and could exhaust the address space here.
fn bounded(name: &SharedName) -> SharedName {
    SharedName { len: name.len.min(SlotAddress::LENGTH_WITH_MAILBOX as u64), ..*name }
}

pub(crate) fn page_of(address: &SlotAddress) -> SharedName {
    let file = address.file();
    SharedName { pid: file.pid(), fd: file.fd(), name: file.name(), len: file.length() }
}

impl fmt::Debug for RemoteSlots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteSlots").field("open", &self.lock().len()).finish()
    }
}

/// Does not print the token, which ends the offer.
impl fmt::Debug for RemoteSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteSlot").field("slot", &self.slot).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_shortage_passes_and_what_is_not_there_stays_so() {
        let (call, message) = ("open", String::new());
        let error = || std::io::Error::other("refused").into();
        assert!(!lasts(&SharedMemoryError::Exhausted { call, message, error: error() }));
        assert!(lasts(&SharedMemoryError::Refused { call, error: error() }));
        assert!(lasts(&SharedMemoryError::Gone));
    }

    #[test]
    fn of_many_pages_the_latest_stay_open() {
        let slots = RemoteSlots::default();
        let name = |number: u32| SharedName { pid: u32::MAX, fd: number, name: [0; 16], len: 4096 };
        let first = 0..u32::try_from(RemoteSlots::KEPT).unwrap();
        first.clone().for_each(|number| slots.open_page(&name(number)));
        assert!(first.clone().all(|number| slots.knows(&name(number))));
        slots.open_page(&name(first.end));
        assert!(!slots.knows(&name(0)));
        assert!((1..=first.end).all(|number| slots.knows(&name(number))));
    }
}
