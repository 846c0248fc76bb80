//! The lanes of a page: the sender's and the owner's end.

use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard};

use nixl_descriptor::SharedName;
use nixl_device::locks::lock;
use nixl_metadata::{PeerInfo, SlotAddress};
use rustix::process::{Pid, test_kill_process};

use super::ring::{Ring, Taken};
use crate::slots::{PageDoorbell, take_bits};
use crate::sync::SharedMemory;

/// The sender's end: one lane of a page.
#[derive(Debug, Default)]
pub(crate) struct Lane(Mutex<Option<Claimed>>);

#[derive(Debug)]
struct Claimed {
    index: usize,
    claim: u64,
    written: u64,
}

impl Lane {
    pub(super) const PID_BITS: u32 = 22;

    /// Whether the owner takes a message: it is short enough, and its sender's name can be one.
    pub(super) fn fits(from: &str, payload: &[u8]) -> bool {
        PeerInfo::is_name(from) && Ring::words_of(from, payload) <= Ring::LONGEST
    }

    /// Claims a lane, unless this has one. `reply` is written next to the messages. Returns whether this has one now.
    pub(crate) fn claim(&self, memory: &SharedMemory, reply: Option<SharedName>) -> bool {
        let mut claimed = self.lock();
        if claimed.is_none() {
            *claimed = claim(memory, reply);
        }
        claimed.is_some()
    }

    /// Writes a message, and wakes the owner. Returns whether a thread woke; `None` if there was no room.
    pub(crate) fn post(&self, memory: &SharedMemory, from: &str, payload: &[u8]) -> Option<bool> {
        let mut claimed = self.lock();
        let lane = claimed.as_mut()?;
        if !Ring::of_page(lane.index).put(memory, &mut lane.written, from, payload) {
            return None;
        }
        if let Some(lanes) = memory.word(SlotAddress::MAILBOX) {
            lanes.fetch_or(1 << lane.index, Ordering::AcqRel);
        }
        drop(claimed);
        Some(PageDoorbell::of(memory).is_some_and(|doorbell| doorbell.ring()))
    }

    /// Releases the lane to another sender. Sent messages stay there.
    pub(crate) fn release(&self, memory: &SharedMemory) {
        let Some(lane) = self.lock().take() else { return };
        if let Some(word) = memory.word(Ring::of_page(lane.index).word(0)) {
            let _ = word.compare_exchange(lane.claim, 0, Ordering::AcqRel, Ordering::Relaxed);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Claimed>> {
        lock(&self.0)
    }
}

/// A lane that is free, or whose sender has ended: its written messages are whole.
fn claim(memory: &SharedMemory, reply: Option<SharedName>) -> Option<Claimed> {
    // Senders in other PID namespaces cannot judge each other's ends by numbers: they claim by that of a process which all have and
    // which does not end, and take no lane of another.
    let is_foreign = memory.name().is_by_rendezvous();
    let pid = if is_foreign { FOREIGN } else { std::process::id() };
    let own = uuid::Uuid::new_v4().as_u128() as u64;
    let own = own << Lane::PID_BITS | u64::from(pid) & pid_mask();
    let take = |index: usize, from: u64| {
        let word = memory.word(Ring::of_page(index).word(0))?;
        word.compare_exchange(from, own, Ordering::AcqRel, Ordering::Relaxed).ok()?;
        let ring = Ring::of_page(index);
        let reply = reply.map_or([0; 4], |name| words_of(&name));
        for (word, value) in (ring.word(Ring::REPLY)..).zip(reply) {
            // Visible with the first message.
            memory.word(word)?.store(value, Ordering::Relaxed);
        }
        Some(Claimed { index, claim: own, written: ring.written(memory) })
    };
    let claims: Vec<_> = (0..SlotAddress::LANES)
        .map(|index| memory.word(Ring::of_page(index).word(0)).map(|w| w.load(Ordering::Relaxed)))
        .collect::<Option<_>>()?;
    let free = claims.iter().enumerate().filter(|(_, claim)| **claim == 0);
    let abandoned =
        claims.iter().enumerate().filter(|(_, claim)| !is_foreign && has_ended(**claim));
    free.chain(abandoned).find_map(|(index, from)| take(index, *from))
}

/// Frees the lanes of senders of a process that has ended, for senders that cannot detect its end. Written messages are whole, and stay.
pub(crate) fn free_lanes_of(memory: &SharedMemory, pid: u32) {
    for index in 0..SlotAddress::LANES {
        let Some(word) = memory.word(Ring::of_page(index).word(0)) else { return };
        let claim = word.load(Ordering::Relaxed);
        // The number is no other process's so soon. Against another claim meanwhile.
        if claim != 0 && claim & pid_mask() == u64::from(pid) {
            let _ = word.compare_exchange(claim, 0, Ordering::AcqRel, Ordering::Relaxed);
        }
    }
}

/// Frees the lanes of senders in other PID namespaces if all that got the page's file have ended: which has which lane is not known.
pub(crate) fn free_lanes_of_ended_foreign(memory: &SharedMemory) {
    let places = (0..SlotAddress::LANES).filter_map(|at| memory.word(Ring::of_page(at).word(0)));
    let claims = places.map(|word| (word, word.load(Ordering::Acquire)));
    let claims: Vec<_> =
        claims.filter(|(_, claim)| claim & pid_mask() == u64::from(FOREIGN)).collect();
    // After the look at the claims: a process that got the file since has another.
    if claims.is_empty() || memory.name().is_held_elsewhere() {
        return;
    }
    for (word, claim) in claims {
        let _ = word.compare_exchange(claim, 0, Ordering::AcqRel, Ordering::Relaxed);
    }
}

/// The number by which senders in other PID namespaces claim.
const FOREIGN: u32 = 1;

const fn pid_mask() -> u64 {
    (1 << Lane::PID_BITS) - 1
}

fn has_ended(claim: u64) -> bool {
    let pid = i32::try_from(claim & pid_mask()).ok().and_then(Pid::from_raw);
    pid.is_none_or(|pid| test_kill_process(pid) == Err(rustix::io::Errno::SRCH))
}

/// A page's name, in the form next to the messages.
fn words_of(name: &SharedName) -> [u64; 4] {
    let SharedName { pid, fd, name, len } = name;
    let name = u128::from_ne_bytes(*name);
    [u64::from(*pid) | u64::from(*fd) << 32, name as u64, (name >> 64) as u64, *len]
}

fn name_of(words: [u64; 4]) -> Option<SharedName> {
    let [process, low, high, len] = words;
    let name = (u128::from(low) | u128::from(high) << 64).to_ne_bytes();
    // A page longer than slots with a mailbox is not mapped for a sender.
    let can_be = len != 0 && len <= SlotAddress::LENGTH_WITH_MAILBOX as u64;
    can_be.then_some(SharedName { pid: process as u32, fd: (process >> 32) as u32, name, len })
}

/// A message for its owner.
#[derive(Debug)]
pub(crate) struct MailboxMessage<'a> {
    /// The claimed agent.
    pub(crate) from: &'a str,
    /// The page of its sender.
    pub(crate) reply: Option<SharedName>,
    pub(crate) payload: &'a [u8],
}

/// The owner's end of all lanes.
#[derive(Debug)]
pub(crate) struct Inbox {
    /// The words read from each lane. The page's own count is not trusted.
    read: [u64; SlotAddress::LANES],
    buffer: Vec<u8>,
    /// Counter of invalid messages in lanes.
    garbage: u64,
}

impl Default for Inbox {
    fn default() -> Self {
        Self { read: [0; SlotAddress::LANES], buffer: Vec::new(), garbage: 0 }
    }
}

impl Inbox {
    /// Messages received from one lane at a time.
    const BURST: usize = 64;

    /// Passes on messages, at most `BURST` of a lane. Returns whether there was any, or is more.
    pub(crate) fn take(
        &mut self,
        memory: &SharedMemory,
        receive: &mut dyn FnMut(MailboxMessage<'_>),
    ) -> bool {
        let mut any = false;
        for index in take_bits(memory, SlotAddress::MAILBOX) {
            any = true;
            self.take_lane(memory, index, receive);
        }
        any
    }

    fn take_lane(
        &mut self,
        memory: &SharedMemory,
        index: usize,
        receive: &mut dyn FnMut(MailboxMessage<'_>),
    ) {
        let (ring, Some(read)) = (Ring::of_page(index), self.read.get_mut(index)) else { return };
        let reply = [0, 1, 2, 3].map(|word| {
            let word = memory.word(ring.word(Ring::REPLY) + word);
            word.map_or(0, |word| word.load(Ordering::Relaxed))
        });
        for _ in 0..Self::BURST {
            match ring.take(memory, read, &mut self.buffer) {
                Taken::Nothing => return,
                Taken::Garbage => self.garbage += 1,
                Taken::MailboxMessage { from, payload } => {
                    let (from, rest) = self.buffer.split_at(from);
                    let from = std::str::from_utf8(from).ok();
                    let Some(from) = from.filter(|from| PeerInfo::is_name(from)) else {
                        self.garbage += 1;
                        continue;
                    };
                    let payload = rest.get(..payload).unwrap_or_default();
                    receive(MailboxMessage { from, reply: name_of(reply), payload });
                }
            }
        }
        // The rest follows after the other lanes.
        if let Some(lanes) = memory.word(SlotAddress::MAILBOX) {
            lanes.fetch_or(1 << index, Ordering::AcqRel);
        }
    }

    /// Counter of invalid messages in lanes.
    pub(crate) fn garbage(&self) -> u64 {
        self.garbage
    }
}
