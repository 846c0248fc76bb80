//! The reading side of a one-sided transfer: from the peer's host memory to a slot, and from there to the GPU.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use nixl_descriptor::LeaseMode;
use nixl_metadata::{OperationKind, SerializedDescriptor};
use nixl_ops::{Clock, Hop, PeerId, Transfer, TransferSpec, Transport, TransportError};

use super::chunking::Chunking;
use super::copies::{Copier, CopyDirection, Copying};
use super::hop_timer::HopTimer;
use super::source::lease;
use super::targets::Targets;
use crate::pinned_slots::{Member, Slot};

/// The chunks of one operation on their way from the peer.
pub(super) struct Pull {
    transport: Arc<dyn Transport>,
    peer: PeerId,
    chunking: Arc<Chunking>,
    copier: Copier,
    member: Member,
    sources: Targets,
    window: usize,
    crossing: Vec<(u64, Slot, Box<dyn Transfer>)>,
    landing: Vec<(Slot, Copying)>,
    next: u64,
    stopped: bool,
    hop_timers: (HopTimer, HopTimer),
}

impl Pull {
    pub(super) fn new(
        (transport, peer): (Arc<dyn Transport>, PeerId),
        chunking: Arc<Chunking>,
        copier: Copier,
        member: Member,
        remote: Vec<SerializedDescriptor>,
        window: usize,
    ) -> Self {
        Self {
            transport,
            peer,
            chunking,
            copier,
            member,
            sources: Targets::Known(remote),
            window,
            crossing: Vec::new(),
            landing: Vec::new(),
            next: 0,
            stopped: false,
            hop_timers: (HopTimer::new("peer to slot"), HopTimer::new("slot to gpu")),
        }
    }

    /// Moves the chunks on as far as they go now. Returns whether anything happened.
    ///
    /// # Errors
    ///
    /// The first failure. Chunks in flight must still be polled until [quiet](Self::is_quiet).
    pub(super) fn poll(&mut self, clock: &dyn Clock) -> Result<bool, TransportError> {
        let landed = self.land(clock)?;
        let crossed = self.cross(clock)?;
        Ok(self.start(clock)? | landed | crossed)
    }

    fn land(&mut self, clock: &dyn Clock) -> Result<bool, TransportError> {
        let (mut moved, mut at) = (false, 0);
        while let Some((_, copying)) = self.landing.get_mut(at) {
            let Poll::Ready(copied) = self.copier.poll(copying) else {
                at += 1;
                continue;
            };
            self.hop_timers.1.leave(clock.now());
            let (slot, _) = self.landing.swap_remove(at);
            copied?;
            slot.release();
            moved = true;
        }
        Ok(moved)
    }

    fn cross(&mut self, clock: &dyn Clock) -> Result<bool, TransportError> {
        let (mut moved, mut at) = (false, 0);
        while let Some((_, _, transfer)) = self.crossing.get_mut(at) {
            // One that was never posted would be now.
            let dropped = self.stopped && !transfer.in_flight();
            let polled = if dropped {
                Poll::Ready(Ok(()))
            } else {
                transfer.poll(&mut Context::from_waker(Waker::noop()))
            };
            let Poll::Ready(crossed) = polled else {
                at += 1;
                continue;
            };
            self.hop_timers.0.leave(clock.now());
            let (chunk, slot, _) = self.crossing.swap_remove(at);
            if self.stopped || crossed.is_err() {
                slot.release();
                crossed?;
                continue;
            }
            let copying =
                self.copier.start(&self.chunking, chunk, slot.range(), CopyDirection::Gpu)?;
            self.hop_timers.1.enter(clock.now());
            self.landing.push((slot, copying));
            moved = true;
        }
        Ok(moved)
    }

    fn start(&mut self, clock: &dyn Clock) -> Result<bool, TransportError> {
        let mut moved = false;
        while !self.stopped
            && self.next < self.chunking.count()
            && self.crossing.len() + self.landing.len() < self.window
        {
            // Not settled: it waits for its turn.
            let Some(slot) = self.member.take()? else { return Ok(moved) };
            let transfer = match self.fetch(self.next, &slot) {
                Ok(transfer) => transfer,
                Err(error) => {
                    slot.release();
                    return Err(error);
                }
            };
            self.hop_timers.0.enter(clock.now());
            self.crossing.push((self.next, slot, transfer));
            self.next += 1;
            moved = true;
        }
        self.member.settle();
        // The first poll posts.
        if moved {
            self.cross(clock)?;
        }
        Ok(moved)
    }

    fn fetch(&mut self, chunk: u64, slot: &Slot) -> Result<Box<dyn Transfer>, TransportError> {
        let source = self.sources.take(&self.chunking, chunk)?;
        let mut local = Vec::with_capacity(source.remote.len());
        let mut at = 0;
        for piece in self.chunking.pieces(chunk) {
            local.push(slot.part(at, piece.len)?);
            at += piece.len;
        }
        self.transport.prepare(TransferSpec::new(
            OperationKind::Read,
            &self.peer,
            (&local, &lease(&local, LeaseMode::Write)?),
            &source.remote,
            None,
            slot.registrations(),
        )?)
    }

    /// Starts with no more chunks.
    pub(super) fn stop(&mut self) {
        self.stopped = true;
        self.member.settle();
    }

    /// Whether neither GPU nor engine uses memory for this operation.
    pub(super) fn is_quiet(&self) -> bool {
        self.crossing.is_empty() && self.copier.is_quiet()
    }

    pub(super) fn is_complete(&self) -> bool {
        self.next == self.chunking.count() && self.crossing.is_empty() && self.landing.is_empty()
    }

    pub(super) fn hops(&self) -> Vec<Hop> {
        vec![self.hop_timers.0.hop(), self.hop_timers.1.hop()]
    }
}
