//! The owner's page of offer slots.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex as ProcessMutex, MutexGuard as ProcessGuard, OnceLock, Weak};

use nixl_descriptor::SharedName;
use nixl_device::locks::lock as lock_process;
use nixl_device::{ForkGeneration, PerProcess};
use nixl_metadata::{NotificationKey, OperationKind, SharedFile, SlotAddress};

use super::doorbell::PageDoorbell;
use super::word::{SlotState, SlotWord};
use crate::EndedOffer;
use crate::mailbox::{Inbox, MailboxMessage, free_lanes_of, free_lanes_of_ended_foreign};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard, SharedMemory, lock};

/// The slots of one connection's offers, and its mailbox. The file is made with the first offer or the first message.
#[derive(Default)]
pub(crate) struct OfferPage {
    memory: OnceLock<SharedMemory>,
    table: Mutex<Table>,
    inbox: Mutex<Inbox>,
    /// Counter of invalid messages in the mailbox's lanes.
    unreadable_messages: AtomicU64,
}

#[derive(Default)]
struct Table {
    armed: HashMap<u32, Armed>,
    /// Reused in the order of release, so a late access rarely finds a new offer.
    free: VecDeque<u32>,
    /// Slots that were ever used.
    used: u32,
}

struct Armed {
    token: u64,
    kind: OperationKind,
    key: NotificationKey,
}

/// Uses of an offer that ended by its slot.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct SlotEvent {
    /// All uses.
    pub(crate) uses: u32,
    /// Successful uses.
    pub(crate) successes: u32,
}

/// Result of a revocation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Revocation {
    /// No initiator has claimed it, and none can any more.
    Unclaimed,
    /// The identifier of the claiming process; 0 for an agent's claim by message, or an overwritten word.
    Claimed(u32),
    /// Its last use has ended.
    Ended,
}

/// The slot of one offer. Dropping it frees the slot; a later initiator finds the offer ended.
pub struct OfferSlot {
    page: Arc<OfferPage>,
    address: SlotAddress,
    kind: OperationKind,
    generation: ForkGeneration,
}

impl OfferPage {
    /// A slot for a new offer. `None` without memory for a page, or if all slots are in use.
    pub(crate) fn arm(
        self: &Arc<Self>,
        key: &NotificationKey,
        kind: OperationKind,
    ) -> Option<OfferSlot> {
        let memory = self.or_make()?;
        let token = SlotWord::token_bits(uuid::Uuid::new_v4().as_u128() as u64).max(1);
        let slot = {
            let mut table = self.lock();
            let slot = table.next()?;
            table.armed.insert(slot, Armed { token, kind, key: key.clone() });
            slot
        };
        // Release: the application's writes to the offer's memory precede the opening of the slot.
        word(memory, slot)?.store(SlotWord::open(token).bits(), Ordering::Release);
        let SharedName { pid, fd, name, len } = memory.name();
        let file = SharedFile::new(pid, fd, name, len);
        let address = SlotAddress::new(file, slot, token);
        let generation = ForkGeneration::current();
        Some(OfferSlot { page: Arc::clone(self), address, kind, generation })
    }

    /// Passes the offers that ended by their slots since the last call to `ended`. Returns whether there was any.
    pub(crate) fn poll(&self, ended: &mut dyn FnMut(&NotificationKey, SlotEvent)) -> bool {
        let Some(memory) = self.memory.get() else { return false };
        let mut any = false;
        for group in take_bits(memory, 0) {
            for bit in take_bits(memory, 1 + group) {
                let slot = group as u32 * 64 + bit as u32;
                let Some(place) = word(memory, slot) else { continue };
                // Acquire: the initiator's bytes are visible before its word takes effect.
                let found = SlotWord::from_bits(place.load(Ordering::Acquire));
                let Some((key, event)) = self.lock().event(slot, found) else { continue };
                any = true;
                ended(&key, event);
            }
        }
        any
    }

    /// Passes the mailbox's messages to `receive`. Returns whether there was any, or may be more.
    pub(crate) fn take_messages(&self, receive: &mut dyn FnMut(MailboxMessage<'_>)) -> bool {
        let Some(memory) = self.memory() else { return false };
        // Most scans find nothing, and take no lock.
        if memory.word(SlotAddress::MAILBOX).is_none_or(|lanes| lanes.load(Ordering::Relaxed) == 0)
        {
            return false;
        }
        let mut inbox = lock(&self.inbox);
        let any = inbox.take(memory, receive);
        self.unreadable_messages.store(inbox.garbage(), Ordering::Relaxed);
        any
    }

    /// Frees the mailbox's lanes of a process that has ended.
    pub(crate) fn free_lanes_of(&self, pid: u32) {
        if let Some(memory) = self.memory() {
            free_lanes_of(memory, pid);
        }
    }

    /// Frees the mailbox's lanes of senders in other PID namespaces, if all that have this page have ended.
    pub(crate) fn free_lanes_of_ended_foreign(&self) {
        if let Some(memory) = self.memory() {
            free_lanes_of_ended_foreign(memory);
        }
    }

    /// Counter of invalid messages in the mailbox's lanes.
    pub(crate) fn unreadable_messages(&self) -> u64 {
        self.unreadable_messages.load(Ordering::Relaxed)
    }

    /// The page's memory, made on first use. `None` if the system refuses it; the next use tries again.
    pub(crate) fn or_make(self: &Arc<Self>) -> Option<&SharedMemory> {
        if self.memory.get().is_none() {
            self.allocate()?;
        }
        self.memory.get()
    }

    /// The page of this process with this file name.
    pub(super) fn own(name: &[u8; 16]) -> Option<Weak<Self>> {
        own_pages().get(name).cloned()
    }

    pub(crate) fn memory(&self) -> Option<&SharedMemory> {
        self.memory.get()
    }

    /// The doorbell, with which initiators wake the owner. `None` before the first offer.
    pub(crate) fn doorbell(&self) -> Option<PageDoorbell<'_>> {
        PageDoorbell::of(self.memory()?)
    }

    fn word(&self, slot: u32) -> Option<&AtomicU64> {
        word(self.memory()?, slot)
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        lock(&self.table)
    }
}

impl Table {
    fn next(&mut self) -> Option<u32> {
        if self.used < SlotAddress::SLOTS {
            self.used += 1;
            return Some(self.used - 1);
        }
        self.free.pop_front()
    }

    fn event(&self, slot: u32, found: SlotWord) -> Option<(NotificationKey, SlotEvent)> {
        let armed = self.armed.get(&slot).filter(|armed| found.is_of(armed.token))?;
        Some((armed.key.clone(), SlotEvent::of(found, armed.kind)?))
    }
}

impl SlotEvent {
    fn of(found: SlotWord, kind: OperationKind) -> Option<Self> {
        let (uses, successes) = found.uses(kind);
        (uses > 0).then_some(Self { uses, successes })
    }
}

impl OfferSlot {
    /// The most readers that a slot counts.
    pub const MAX_READERS: u32 = SlotWord::MAX_READERS;

    /// The identity of the slot for initiators on this host.
    pub fn address(&self) -> SlotAddress {
        self.address
    }

    /// The ended uses.
    pub(crate) fn event(&self) -> Option<SlotEvent> {
        let place = self.page.word(self.address.slot())?;
        let found = SlotWord::from_bits(place.load(Ordering::Acquire));
        SlotEvent::of(found, self.kind).filter(|_| found.is_of(self.address.token()))
    }

    /// Claims the offer for an agent that cannot reach the slot.
    pub(crate) fn claim_for_agent(&self) -> Result<(), EndedOffer> {
        let Some(place) = self.page.word(self.address.slot()) else { return Ok(()) };
        let open = SlotWord::open(self.address.token()).bits();
        let claimed = SlotWord::from_bits(open).claimed_by_agent().bits();
        match place.compare_exchange(open, claimed, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Ok(()),
            Err(found) if SlotWord::from_bits(found).is_of(self.address.token()) => {
                Err(SlotWord::from_bits(found).state().ended())
            }
            Err(_) => Err(EndedOffer::Claimed),
        }
    }

    /// Undoes a [claim](Self::claim_for_agent): no byte was moved, or none is in flight.
    pub(crate) fn unclaim_for_agent(&self) {
        let Some(place) = self.page.word(self.address.slot()) else { return };
        let open = SlotWord::open(self.address.token()).bits();
        let claimed = SlotWord::from_bits(open).claimed_by_agent().bits();
        // Any other word stays.
        let _ = place.compare_exchange(claimed, open, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// Ends the offer unless an initiator has claimed it. No later claim succeeds.
    pub(crate) fn revoke(&self) -> Revocation {
        let Some(place) = self.page.word(self.address.slot()) else {
            return Revocation::Unclaimed;
        };
        let mut seen = place.load(Ordering::Acquire);
        loop {
            let found = SlotWord::from_bits(seen);
            if !found.is_of(self.address.token()) {
                // A peer that misuses the page has overwritten the word. No honest initiator can claim it any more, but one may
                // have claimed it before.
                return Revocation::Claimed(0);
            }
            match found.state() {
                SlotState::Revoked => return Revocation::Unclaimed,
                SlotState::Claimed(pid) => return Revocation::Claimed(pid),
                SlotState::Done => return Revocation::Ended,
                SlotState::Open => {}
            }
            // Sequentially consistent, as the fence of a seqlock's writer: the bytes are overwritten after this.
            match place.compare_exchange(
                seen,
                found.revoked().bits(),
                Ordering::SeqCst,
                Ordering::Acquire,
            ) {
                Ok(_) => return Revocation::Unclaimed,
                Err(now) => seen = now,
            }
        }
    }
}

impl Drop for OfferSlot {
    fn drop(&mut self) {
        // A fork's children share the page, but do not own the offer.
        if !self.generation.is_current() {
            return;
        }
        let slot = self.address.slot();
        if let Some(place) = self.page.word(slot) {
            // Late initiators recognise a revoked slot only.
            let _ = place.fetch_update(Ordering::SeqCst, Ordering::Relaxed, |bits| {
                let word = SlotWord::from_bits(bits);
                let open = matches!(word.state(), SlotState::Open | SlotState::Claimed(_));
                (open && word.is_of(self.address.token())).then(|| word.revoked().bits())
            });
        }
        let mut table = self.page.lock();
        table.armed.remove(&slot);
        table.free.push_back(slot);
    }
}

impl OfferPage {
    fn allocate(self: &Arc<Self>) -> Option<()> {
        let memory = SharedMemory::new(SlotAddress::LENGTH_WITH_MAILBOX);
        let memory = memory.inspect_err(|e| tracing::debug!(%e, "no page for offer slots")).ok()?;
        let name = memory.name().name;
        // Under the lock, no use of the page comes before it is known by its name.
        let mut pages = own_pages();
        // Another caller's is kept, if it was first.
        if self.memory.set(memory).is_ok() {
            pages.insert(name, Arc::downgrade(self));
        }
        Some(())
    }
}

impl Drop for OfferPage {
    fn drop(&mut self) {
        if let Some(memory) = self.memory() {
            own_pages().remove(&memory.name().name);
        }
    }
}

/// The pages of this process, by file name: its connectors use each other's without a system call.
fn own_pages() -> ProcessGuard<'static, HashMap<[u8; 16], Weak<OfferPage>>> {
    // Outside loom's models: it outlives each.
    static PAGES: PerProcess<ProcessMutex<HashMap<[u8; 16], Weak<OfferPage>>>> =
        PerProcess::new(ProcessMutex::default);
    lock_process(PAGES.get())
}

/// The word of a slot.
pub(super) fn word(memory: &SharedMemory, slot: u32) -> Option<&AtomicU64> {
    memory.word(65 + slot as usize)
}

/// Sets the bits that lead the owner to a slot, and wakes it if it sleeps.
pub(crate) fn ring(memory: &SharedMemory, slot: u32) -> Option<bool> {
    let is_marked = mark(memory, slot);
    is_marked.then(|| PageDoorbell::of(memory).is_some_and(|doorbell| doorbell.ring()))
}

/// Sets the bits that lead the owner to a slot in its next scan.
pub(crate) fn mark(memory: &SharedMemory, slot: u32) -> bool {
    let group = slot as usize / 64;
    let (Some(bits), Some(groups)) = (memory.word(1 + group), memory.word(0)) else {
        return false;
    };
    bits.fetch_or(1 << (slot % 64), Ordering::AcqRel);
    groups.fetch_or(1 << (group % 64), Ordering::AcqRel);
    true
}

/// Takes the set bits of a word.
pub(crate) fn take_bits(memory: &SharedMemory, word: usize) -> impl Iterator<Item = usize> + use<> {
    let taken = memory.word(word).map_or(0, |word| match word.load(Ordering::Relaxed) {
        // A load alone leaves the cache line shared.
        0 => 0,
        _ => word.swap(0, Ordering::AcqRel),
    });
    (0..64).filter(move |bit| taken & (1 << bit) != 0)
}

impl fmt::Debug for OfferPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OfferPage").field("armed", &self.lock().armed.len()).finish_non_exhaustive()
    }
}

/// Does not print the token, which ends the offer.
impl fmt::Debug for OfferSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OfferSlot").field("slot", &self.address.slot()).finish_non_exhaustive()
    }
}
