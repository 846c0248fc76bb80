//! The source side of a transfer that is staged on a GPU: GPU memory to slots on that GPU, out of which the peer's GPU copies.

use std::collections::HashMap;
use std::sync::Arc;
use std::task::Poll;

use nixl_device::ProcessWatch;
use nixl_ops::{Clock, Hop, TransportError};

use super::chunking::Chunking;
use super::copies::{Copier, CopyDirection, Copying};
use super::hop_timer::HopTimer;
use crate::messages::{Message, ReadyChunk};
use crate::pinned_slots::{GpuMember, Slot};
use crate::sessions::{Quarantine, SlotsInUse, failed, violated};

/// The chunks of one operation on their way through slots.
pub(super) struct GpuSource {
    chunking: Arc<Chunking>,
    copier: Copier,
    member: GpuMember,
    window: usize,
    /// Chunks on their way to a slot.
    filling: Vec<(u64, Slot, Copying)>,
    /// Chunks in a slot of which the peer does not know.
    filled: Vec<(u64, Slot)>,
    /// Slots out of which the peer may copy.
    exported: SlotsInUse,
    /// How often each slot was exported.
    rounds: HashMap<u16, u32>,
    /// The next chunk to start with.
    next: u64,
    stopped: bool,
    /// The peer's process. `None` once the exported slots were taken out.
    process: Option<ProcessWatch>,
    hop_timer: HopTimer,
}

impl GpuSource {
    pub(super) fn new(
        chunking: Arc<Chunking>,
        copier: Copier,
        member: GpuMember,
        process: ProcessWatch,
        window: usize,
    ) -> Self {
        Self {
            chunking,
            copier,
            member,
            window,
            filling: Vec::new(),
            filled: Vec::new(),
            exported: SlotsInUse::new(),
            rounds: HashMap::new(),
            next: 0,
            stopped: false,
            process: Some(process),
            hop_timer: HopTimer::new("gpu to slot"),
        }
    }

    pub(super) fn chunking(&self) -> &Arc<Chunking> {
        &self.chunking
    }

    /// Moves the chunks on as far as they go now, and, if it may, reports those in their slots. Returns whether anything happened.
    ///
    /// # Errors
    ///
    /// The first failure. What is on its way must be polled until [quiet](Self::is_quiet) all the same.
    pub(super) fn poll(
        &mut self,
        clock: &dyn Clock,
        may_lend: bool,
        say: &mut dyn FnMut(Message),
    ) -> Result<bool, TransportError> {
        let mut moved = self.fill(clock)?;
        if self.stopped {
            self.filled.drain(..).for_each(|(_, slot)| slot.release());
            return Ok(moved);
        }
        moved |= self.start(clock)?;
        if may_lend {
            moved |= !self.filled.is_empty();
            self.export(say)?;
        }
        Ok(moved)
    }

    fn fill(&mut self, clock: &dyn Clock) -> Result<bool, TransportError> {
        let (mut moved, mut at) = (false, 0);
        while let Some((_, _, copying)) = self.filling.get_mut(at) {
            let Poll::Ready(copied) = self.copier.poll(copying) else {
                at += 1;
                continue;
            };
            self.hop_timer.leave(clock.now());
            // In the order in which they began.
            let (chunk, slot, _) = self.filling.remove(at);
            if let Err(error) = copied {
                return Err(self.failed(slot, error));
            }
            self.filled.push((chunk, slot));
            moved = true;
        }
        Ok(moved)
    }

    fn start(&mut self, clock: &dyn Clock) -> Result<bool, TransportError> {
        let mut moved = false;
        if self.next < self.chunking.count() {
            self.copier.check_grant()?;
        }
        while self.next < self.chunking.count()
            && self.filling.len() + self.filled.len() + self.exported.len() < self.window
        {
            // Not settled: it waits for its turn.
            let Some(slot) = self.member.take()? else { return Ok(moved) };
            let (chunking, range) = (&self.chunking, slot.range());
            let copying = match self.copier.start(chunking, self.next, range, CopyDirection::Slot) {
                Ok(copying) => copying,
                Err(error) => return Err(self.failed(slot, error)),
            };
            self.hop_timer.enter(clock.now());
            self.filling.push((self.next, slot, copying));
            self.next += 1;
            moved = true;
        }
        self.member.settle();
        Ok(moved)
    }

    /// A copy to a slot has failed. What was queued is done, and the slot is free, unless the GPU is lost.
    fn failed(&self, slot: Slot, error: TransportError) -> TransportError {
        if !self.copier.is_lost() {
            slot.release();
        }
        error
    }

    fn export(&mut self, say: &mut dyn FnMut(Message)) -> Result<(), TransportError> {
        for (chunk, slot) in self.filled.drain(..) {
            let (handle, offset) = self
                .member
                .place(&slot)
                .ok_or_else(|| failed("export", "a slot without a handle"))?;
            let index = slot.index();
            let round = self.rounds.entry(index).or_insert(0);
            *round += 1;
            say(Message::Ready(ReadyChunk { chunk, slot: index, round: *round, handle, offset }));
            self.exported.insert(index, (slot, *round));
        }
        Ok(())
    }

    /// The peer has copied the bytes of a slot.
    ///
    /// # Errors
    ///
    /// If it was not exported.
    pub(super) fn taken(&mut self, index: u16, round: u32) -> Result<(), TransportError> {
        if self.exported.get(&index).is_none_or(|(_, exported)| *exported != round) {
            return Err(violated(format!("slot {index} of round {round}, which is not exported")));
        }
        self.exported.remove(&index).into_iter().for_each(|(slot, _)| slot.release());
        Ok(())
    }

    /// The peer copies out of no slot any more.
    pub(super) fn peer_is_quiet(&mut self) {
        self.exported.drain().for_each(|(_, (slot, _))| slot.release());
    }

    /// Starts with no more chunks, and exports no more slots.
    pub(super) fn stop(&mut self) {
        self.stopped = true;
        self.member.settle();
        self.filled.drain(..).for_each(|(_, slot)| slot.release());
    }

    /// Whether the GPU of this side uses no memory for this operation.
    pub(super) fn is_quiet(&self) -> bool {
        self.filling.is_empty() && self.copier.is_quiet()
    }

    /// Whether every chunk was reported to the peer.
    pub(super) fn all_started(&self) -> bool {
        self.next == self.chunking.count() && self.filling.is_empty() && self.filled.is_empty()
    }

    /// The slots out of which the peer may still copy.
    pub(super) fn take_exported(&mut self) -> Option<Quarantine> {
        let process = self.process.take()?;
        Some(Quarantine::of_exported(std::mem::take(&mut self.exported), process))
    }

    pub(super) fn hops(&self) -> Vec<Hop> {
        vec![self.hop_timer.hop()]
    }
}
