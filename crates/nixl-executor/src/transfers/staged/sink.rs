//! The sink side of a staged transfer: granted slots and from there GPU memory, or host memory in place.

use std::collections::HashMap;
use std::sync::Arc;
use std::task::Poll;

use nixl_descriptor::{Descriptor, DescriptorList};
use nixl_ops::{Clock, Hop, TransportError};

use super::arrivals::Arrivals;
use super::chunking::Chunking;
use super::copies::{Copier, CopyDirection, Copying};
use super::hop_timer::HopTimer;
use crate::messages::{self, Message, SlotGrant};
use crate::pinned_slots::{Member, Slot};
use crate::sessions::{Quarantine, SlotsInUse, violated};

/// Where the bytes arrive.
pub(super) enum SinkMemory {
    /// Host memory; so many of its places have been granted.
    Host { granted: usize },
    /// GPU memory, and slots to get it in.
    Gpu(Copier, Member),
}

/// The chunks of one operation as they come in.
pub(super) struct Sink {
    list: DescriptorList,
    chunking: Arc<Chunking>,
    memory: SinkMemory,
    window: usize,
    /// Slots that the peer may write to, by number, with their round.
    granted: SlotsInUse,
    /// How often each slot was granted.
    rounds: HashMap<u16, u32>,
    /// Slots whose bytes are on their way to the GPU.
    landing: Vec<(Slot, Copying)>,
    arrivals: Arrivals,
    landed: u64,
    stopped: bool,
    hop_timer: HopTimer,
}

impl Sink {
    /// The most messages with places that are made at a time.
    const PLACES_AT_ONCE: usize = 16;

    pub(super) fn new(
        list: DescriptorList,
        chunking: Arc<Chunking>,
        memory: SinkMemory,
        window: usize,
    ) -> Self {
        Self {
            list,
            memory,
            window,
            granted: SlotsInUse::new(),
            rounds: HashMap::new(),
            landing: Vec::new(),
            arrivals: Arrivals::new(chunking.count()),
            landed: 0,
            stopped: false,
            hop_timer: HopTimer::new("slot to gpu"),
            chunking,
        }
    }

    pub(super) fn chunking(&self) -> &Arc<Chunking> {
        &self.chunking
    }

    /// Moves chunks on to the GPU, and, if it may, grants slots. Returns whether anything happened.
    ///
    /// # Errors
    ///
    /// The first failure. What is on its way must be polled until [quiet](Self::is_quiet) all the same.
    pub(super) fn poll(
        &mut self,
        clock: &dyn Clock,
        may_grant: bool,
        say: &mut dyn FnMut(Message),
    ) -> Result<bool, TransportError> {
        let landed = self.land(clock)?;
        if !may_grant || self.stopped {
            return Ok(landed);
        }
        Ok(self.grant(say)? | landed)
    }

    fn land(&mut self, clock: &dyn Clock) -> Result<bool, TransportError> {
        let SinkMemory::Gpu(copier, _) = &mut self.memory else { return Ok(false) };
        let mut moved = false;
        let mut at = 0;
        while let Some((_, copying)) = self.landing.get_mut(at) {
            let Poll::Ready(copied) = copier.poll(copying) else {
                at += 1;
                continue;
            };
            self.hop_timer.leave(clock.now());
            let (slot, _) = self.landing.swap_remove(at);
            copied?;
            slot.release();
            self.landed += 1;
            moved = true;
        }
        Ok(moved)
    }

    fn grant(&mut self, say: &mut dyn FnMut(Message)) -> Result<bool, TransportError> {
        match &mut self.memory {
            SinkMemory::Host { granted } => {
                let rest = self.list.as_slice().get(*granted..).unwrap_or_default();
                if rest.is_empty() {
                    return Ok(false);
                }
                for part in rest.chunks(messages::MAX_GRANTS).take(Self::PLACES_AT_ONCE) {
                    let addresses = part.iter().map(|d| d.address()).collect();
                    let first = u32::try_from(*granted)
                        .map_err(|_| violated("more descriptors than can be counted"))?;
                    say(Message::Places { first, addresses });
                    *granted += part.len();
                }
                Ok(true)
            }
            SinkMemory::Gpu(_, member) => {
                let mut slots = Vec::new();
                loop {
                    let open = self.granted.len() as u64;
                    if self.arrivals.count() + open >= self.chunking.count() {
                        member.settle();
                        break;
                    }
                    if self.granted.len() + self.landing.len() >= self.window {
                        member.settle();
                        break;
                    }
                    // Not settled: it waits for its turn.
                    let Some(slot) = member.take()? else { break };
                    let round = self.rounds.entry(slot.index()).or_insert(0);
                    *round += 1;
                    slots.push(SlotGrant {
                        slot: slot.index(),
                        round: *round,
                        address: slot.address(),
                        len: slot.len(),
                    });
                    self.granted.insert(slot.index(), (slot, *round));
                }
                for part in slots.chunks(messages::MAX_GRANTS) {
                    say(Message::Slots(part.to_vec()));
                }
                Ok(!slots.is_empty())
            }
        }
    }

    /// The peer has written a chunk.
    ///
    /// # Errors
    ///
    /// If it was not asked to, there.
    pub(super) fn filled(
        &mut self,
        clock: &dyn Clock,
        chunk: u64,
        slot: Option<(u16, u32)>,
    ) -> Result<(), TransportError> {
        self.arrivals.check(chunk)?;
        match (&mut self.memory, slot) {
            (SinkMemory::Host { granted }, None) => {
                if self.chunking.last_descriptor(chunk) >= *granted {
                    return Err(violated(format!("chunk {chunk}, whose place it cannot know")));
                }
                self.landed += 1;
            }
            (SinkMemory::Gpu(copier, _), Some((index, round))) => {
                let granted = self.granted.get(&index).filter(|(_, current)| *current == round);
                if granted.is_none() {
                    return Err(violated(format!(
                        "chunk {chunk} in slot {index} of round {round}, which was not granted"
                    )));
                }
                let Some((slot, _)) = self.granted.remove(&index) else { return Ok(()) };
                if self.stopped {
                    slot.release();
                } else {
                    let copying =
                        copier.start(&self.chunking, chunk, slot.range(), CopyDirection::Gpu)?;
                    self.hop_timer.enter(clock.now());
                    self.landing.push((slot, copying));
                }
            }
            (SinkMemory::Host { .. }, Some(_)) => {
                return Err(violated(format!("chunk {chunk} in a slot, and none was granted")));
            }
            (SinkMemory::Gpu(..), None) => {
                return Err(violated(format!("chunk {chunk} in no slot")));
            }
        }
        self.arrivals.note(chunk);
        Ok(())
    }

    /// Grants nothing more and copies nothing more. What is granted stays so.
    pub(super) fn stop(&mut self) {
        self.stopped = true;
        if let SinkMemory::Gpu(_, member) = &self.memory {
            member.settle();
        }
    }

    /// The peer will never write again: takes back what it was granted.
    pub(super) fn peer_is_quiet(&mut self) {
        self.granted.drain().for_each(|(_, (slot, _))| slot.release());
    }

    /// The slots that the peer may still write to.
    pub(super) fn take_granted(&mut self) -> Quarantine {
        Quarantine::of_granted(std::mem::take(&mut self.granted))
    }

    /// Whether no copies are queued on the GPU.
    pub(super) fn is_quiet(&self) -> bool {
        match &self.memory {
            SinkMemory::Host { .. } => true,
            SinkMemory::Gpu(copier, _) => copier.is_quiet(),
        }
    }

    /// Whether the peer was granted something that it has not filled.
    pub(super) fn may_be_written(&self) -> bool {
        match &self.memory {
            SinkMemory::Host { granted } => *granted > 0 && !self.all_arrived(),
            SinkMemory::Gpu(..) => !self.granted.is_empty(),
        }
    }

    /// Whether the peer has nothing left to write.
    pub(super) fn all_arrived(&self) -> bool {
        self.arrivals.are_all()
    }

    /// Whether the peer writes to this side's slots only, and not to the operation's memory.
    pub(super) fn stages(&self) -> bool {
        matches!(self.memory, SinkMemory::Gpu(..))
    }

    /// Where the bytes end up.
    pub(super) fn memory(&self) -> &[Descriptor] {
        self.list.as_slice()
    }

    /// Whether all bytes are in place.
    pub(super) fn is_complete(&self) -> bool {
        self.landed == self.chunking.count()
    }

    pub(super) fn hops(&self) -> Vec<Hop> {
        match self.memory {
            SinkMemory::Host { .. } => Vec::new(),
            SinkMemory::Gpu(..) => vec![self.hop_timer.hop()],
        }
    }
}
