//! The sink side of a transfer that is staged on a GPU: this side's GPU copies out of the peer's slots.

use std::collections::{HashSet, VecDeque};
use std::mem;
use std::sync::Arc;
use std::task::Poll;

use nixl_ops::{Clock, Hop, TransportError};

use super::arrivals::Arrivals;
use super::chunking::Chunking;
use super::copies::{Copier, CopyDirection, Copying};
use super::hop_timer::HopTimer;
use crate::local::{SharedHandle, TransferBuffer};
use crate::messages::{Message, ReadyChunk};
use crate::remote_memory::{Found, ImportCache, RemoteMemoryKey};
use crate::sessions::{Sessions, failed, violated};
use crate::transfers::opening::Opening;

/// The chunks of one operation as they are copied out of the peer's slots.
pub(super) struct GpuSink {
    imports: Arc<ImportCache>,
    /// The GPU here that copies.
    gpu: u32,
    /// The peer's process.
    process: u32,
    chunking: Arc<Chunking>,
    copier: Copier,
    /// The memory of the peer's slots, of which there is one.
    handle: Option<SharedHandle>,
    memory: SlotMemory,
    /// Chunks that wait for that to be open.
    waiting: VecDeque<ReadyChunk>,
    landing: Vec<(ReadyChunk, Copying)>,
    /// Slots out of which chunks are to be copied.
    exported: HashSet<u16>,
    arrivals: Arrivals,
    landed: u64,
    stopped: bool,
    hop_timer: HopTimer,
}

enum SlotMemory {
    Closed,
    Opening(Opening),
    Open(Arc<dyn TransferBuffer>),
}

impl GpuSink {
    pub(super) fn new(
        imports: &Arc<ImportCache>,
        (gpu, process): (u32, u32),
        chunking: Arc<Chunking>,
        copier: Copier,
    ) -> Self {
        Self {
            imports: Arc::clone(imports),
            gpu,
            process,
            copier,
            handle: None,
            memory: SlotMemory::Closed,
            waiting: VecDeque::new(),
            landing: Vec::new(),
            exported: HashSet::new(),
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

    /// The peer has put a chunk into a slot.
    ///
    /// # Errors
    ///
    /// If that cannot be.
    pub(super) fn ready(&mut self, ready: ReadyChunk) -> Result<(), TransportError> {
        let ReadyChunk { chunk, slot, handle, offset, .. } = ready;
        self.arrivals.check(chunk)?;
        let [.., a, b, c, d, e, f, g, h] = handle;
        let length = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        let len = self.chunking.len(chunk);
        if offset.checked_add(len).is_none_or(|end| end > length) {
            return Err(violated(format!("{len} bytes exported from {offset} on, of {length}")));
        }
        // Each is opened by a call of the driver, and kept open.
        if *self.handle.get_or_insert(handle) != handle {
            return Err(violated("slots in several pieces of memory"));
        }
        if !self.exported.insert(slot) {
            return Err(violated(format!("slot {slot} exported twice")));
        }
        self.arrivals.note(chunk);
        if !self.stopped {
            self.waiting.push_back(ready);
        }
        Ok(())
    }

    /// Moves the chunks on as far as they go now, and releases the slots that it no longer needs. Returns whether anything happened.
    ///
    /// # Errors
    ///
    /// The first failure. What is on its way must be polled until [quiet](Self::is_quiet) all the same.
    pub(super) fn poll(
        &mut self,
        (sessions, peer): (&Sessions, &str),
        say: &mut dyn FnMut(Message),
    ) -> Result<bool, TransportError> {
        let clock = &**sessions.link().clock();
        let landed = self.land(clock, say)?;
        if self.waiting.is_empty() {
            return Ok(landed);
        }
        let opened = self.open(sessions, peer)?;
        Ok(self.start(clock)? | opened | landed)
    }

    fn land(
        &mut self,
        clock: &dyn Clock,
        say: &mut dyn FnMut(Message),
    ) -> Result<bool, TransportError> {
        let (mut moved, mut at) = (false, 0);
        while let Some((_, copying)) = self.landing.get_mut(at) {
            let Poll::Ready(copied) = self.copier.poll(copying) else {
                at += 1;
                continue;
            };
            self.hop_timer.leave(clock.now());
            let (ReadyChunk { slot, round, .. }, _) = self.landing.swap_remove(at);
            copied?;
            self.exported.remove(&slot);
            self.landed += 1;
            // The last message releases all.
            if !self.is_complete() && !self.stopped {
                say(Message::Taken { slot, round });
            }
            moved = true;
        }
        Ok(moved)
    }

    /// Opens the slots' memory, or looks whether it is open. Returns whether anything happened.
    fn open(&mut self, sessions: &Sessions, peer: &str) -> Result<bool, TransportError> {
        let Some(handle) = self.handle else { return Ok(false) };
        match &self.memory {
            SlotMemory::Open(_) => Ok(false),
            SlotMemory::Closed => {
                self.memory = match self.imports.find(&RemoteMemoryKey::Gpu(self.gpu, handle)) {
                    Found::Open(memory) => SlotMemory::Open(memory),
                    Found::Gone => return Err(TransportError::PeerGone { name: peer.to_owned() }),
                    Found::Closed => {
                        let (owner, memory) =
                            ((peer, Some(self.process)), (self.gpu, vec![handle]));
                        let opening = Opening::begin(sessions, &self.imports, owner, memory);
                        SlotMemory::Opening(opening)
                    }
                };
                Ok(true)
            }
            SlotMemory::Opening(opening) => {
                let Some(opened) = opening.take() else { return Ok(false) };
                let opened = opened.map_err(|reason| {
                    failed("import", format!("the peer's slots cannot be opened: {reason}"))
                })?;
                let opened = opened.into_iter().next();
                self.memory = opened.map_or(SlotMemory::Closed, SlotMemory::Open);
                Ok(true)
            }
        }
    }

    fn start(&mut self, clock: &dyn Clock) -> Result<bool, TransportError> {
        let SlotMemory::Open(memory) = &self.memory else { return Ok(false) };
        let mut moved = false;
        while let Some(ready) = self.waiting.pop_front() {
            // Inside the memory, as was checked when the message came and when the memory was opened.
            let address = memory.address().wrapping_add(ready.offset);
            let slot = (address, self.chunking.len(ready.chunk));
            let copying =
                self.copier.start(&self.chunking, ready.chunk, slot, CopyDirection::Gpu)?;
            self.hop_timer.enter(clock.now());
            self.landing.push((ready, copying));
            moved = true;
        }
        Ok(moved)
    }

    /// Copies nothing more.
    pub(super) fn stop(&mut self) {
        self.stopped = true;
        self.waiting.clear();
    }

    /// Whether no copies are queued on the GPU: then no slot of the peer's is read any more.
    pub(super) fn is_quiet(&self) -> bool {
        self.copier.is_quiet()
    }

    /// Whether every chunk is in a slot, or was.
    pub(super) fn all_arrived(&self) -> bool {
        self.arrivals.are_all()
    }

    /// Whether all bytes are in place.
    pub(super) fn is_complete(&self) -> bool {
        self.landed == self.chunking.count()
    }

    pub(super) fn hops(&self) -> Vec<Hop> {
        vec![self.hop_timer.hop()]
    }
}

impl Drop for GpuSink {
    fn drop(&mut self) {
        // The GPU may still read what is open.
        if !self.is_quiet() {
            mem::forget(mem::replace(&mut self.memory, SlotMemory::Closed));
        }
    }
}
