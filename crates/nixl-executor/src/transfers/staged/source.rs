//! The source side of a staged transfer: GPU memory to a slot, and from there, or directly from host memory, to the peer.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use nixl_descriptor::{Descriptor, DescriptorList, LeaseMode, Leased, Leases, Registration};
use nixl_metadata::OperationKind;
use nixl_ops::{Clock, Hop, PeerId, Transfer, TransferSpec, Transport, TransportError};

use super::chunking::Chunking;
use super::copies::{Copier, CopyDirection, Copying};
use super::hop_timer::HopTimer;
use super::targets::{Grants, Target, Targets};
use crate::messages::{Message, SessionId};
use crate::pinned_slots::{Member, Slot};
use crate::sessions::{failed, failed_by, violated};

/// Where the bytes come from.
pub(super) enum SourceMemory {
    /// Host memory, with what keeps it registered and the proof that it is leased.
    Host(Vec<Registration>, Leased),
    /// GPU memory, and slots to get it out.
    Gpu(Copier, Member),
}

/// The chunks of one operation on their way to the peer.
pub(super) struct Source {
    transport: Arc<dyn Transport>,
    peer: PeerId,
    /// The peer to notify of each chunk; `None` in a one-sided transfer.
    session: Option<SessionId>,
    list: DescriptorList,
    chunking: Arc<Chunking>,
    memory: SourceMemory,
    targets: Targets,
    window: usize,
    flights: Vec<InFlightChunk>,
    /// The next chunk to start with.
    next: u64,
    stopped: bool,
    copying: HopTimer,
    crossing: HopTimer,
}

/// A chunk on its way.
enum InFlightChunk {
    /// To a slot of this side. A slot is taken only once it is known where the chunk goes.
    Copying { chunk: u64, target: Target, slot: Slot, copying: Copying },
    /// To the peer.
    Crossing { slot: Option<Slot>, transfer: Box<dyn Transfer> },
}

impl Source {
    pub(super) fn new(
        (transport, peer): (Arc<dyn Transport>, PeerId),
        session: Option<SessionId>,
        (list, chunking): (DescriptorList, Arc<Chunking>),
        memory: SourceMemory,
        targets: Targets,
        window: usize,
    ) -> Self {
        let name = match memory {
            SourceMemory::Host(..) => "memory to peer",
            SourceMemory::Gpu(..) => "slot to peer",
        };
        Self {
            transport,
            peer,
            session,
            list,
            chunking,
            memory,
            targets,
            window,
            flights: Vec::new(),
            next: 0,
            stopped: false,
            copying: HopTimer::new("gpu to slot"),
            crossing: HopTimer::new(name),
        }
    }

    pub(super) fn chunking(&self) -> &Arc<Chunking> {
        &self.chunking
    }

    /// What the peer has granted.
    ///
    /// # Errors
    ///
    /// If it has nothing to grant.
    pub(super) fn grants(&mut self) -> Result<&mut Grants, TransportError> {
        match &mut self.targets {
            Targets::Granted(grants) => Ok(grants),
            Targets::Known(_) => Err(violated("an unrequested grant")),
        }
    }

    /// Moves the chunks on as far as they go now. Returns whether anything happened.
    ///
    /// # Errors
    ///
    /// The first failure. Chunks in flight must still be polled until [quiet](Self::is_quiet).
    pub(super) fn poll(&mut self, clock: &dyn Clock) -> Result<bool, TransportError> {
        let moved = self.advance(clock)?;
        Ok(self.start(clock)? | moved)
    }

    fn advance(&mut self, clock: &dyn Clock) -> Result<bool, TransportError> {
        let mut moved = false;
        let mut at = 0;
        while at < self.flights.len() {
            let (flight, progress) = match self.flights.swap_remove(at) {
                InFlightChunk::Copying { chunk, target, slot, copying } => {
                    self.copied(clock, chunk, target, slot, copying)?
                }
                InFlightChunk::Crossing { slot, transfer } => {
                    self.crossed(clock, slot, transfer)?
                }
            };
            moved |= progress;
            if let Some(flight) = flight {
                self.flights.push(flight);
                let last = self.flights.len() - 1;
                self.flights.swap(at, last);
                at += 1;
            }
        }
        Ok(moved)
    }

    fn copied(
        &mut self,
        clock: &dyn Clock,
        chunk: u64,
        target: Target,
        slot: Slot,
        mut copying: Copying,
    ) -> Result<(Option<InFlightChunk>, bool), TransportError> {
        let SourceMemory::Gpu(copier, _) = &mut self.memory else { return Ok((None, true)) };
        match copier.poll(&mut copying) {
            Poll::Pending => {
                return Ok((Some(InFlightChunk::Copying { chunk, target, slot, copying }), false));
            }
            Poll::Ready(copied) => {
                self.copying.leave(clock.now());
                if let Err(error) = copied {
                    return Err(given_up(copier, slot, error));
                }
            }
        }
        if self.stopped {
            slot.release();
            return Ok((None, true));
        }
        let transfer = match self.push(chunk, target, Some(&slot)) {
            Ok(transfer) => transfer,
            Err(error) => {
                slot.release();
                return Err(error);
            }
        };
        self.crossing.enter(clock.now());
        let (flight, _) = self.crossed(clock, Some(slot), transfer)?;
        Ok((flight, true))
    }

    fn crossed(
        &mut self,
        clock: &dyn Clock,
        slot: Option<Slot>,
        mut transfer: Box<dyn Transfer>,
    ) -> Result<(Option<InFlightChunk>, bool), TransportError> {
        if self.stopped && !transfer.in_flight() {
            // It was never posted, and would be now.
            self.crossing.leave(clock.now());
            slot.into_iter().for_each(Slot::release);
            return Ok((None, true));
        }
        match transfer.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => Ok((Some(InFlightChunk::Crossing { slot, transfer }), false)),
            Poll::Ready(result) => {
                self.crossing.leave(clock.now());
                slot.into_iter().for_each(Slot::release);
                result.map(|()| (None, true))
            }
        }
    }

    fn start(&mut self, clock: &dyn Clock) -> Result<bool, TransportError> {
        let mut moved = false;
        if let SourceMemory::Gpu(copier, _) = &self.memory
            && !self.stopped
            && self.next < self.chunking.count()
        {
            copier.check_grant()?;
        }
        while !self.stopped && self.next < self.chunking.count() && self.flights.len() < self.window
        {
            let chunk = self.next;
            if !self.targets.has(&self.chunking, chunk) {
                break;
            }
            let flight = match &mut self.memory {
                SourceMemory::Host(..) => {
                    let target = self.targets.take(&self.chunking, chunk)?;
                    let transfer = self.push(chunk, target, None)?;
                    self.crossing.enter(clock.now());
                    self.crossed(clock, None, transfer)?.0
                }
                SourceMemory::Gpu(copier, member) => {
                    // Not settled: it waits for its turn.
                    let Some(slot) = member.take()? else { return Ok(moved) };
                    let target = match self.targets.take(&self.chunking, chunk) {
                        Ok(target) => target,
                        Err(error) => {
                            slot.release();
                            return Err(error);
                        }
                    };
                    let (chunking, range) = (&self.chunking, slot.range());
                    let copying = match copier.start(chunking, chunk, range, CopyDirection::Slot) {
                        Ok(copying) => copying,
                        Err(error) => return Err(given_up(copier, slot, error)),
                    };
                    self.copying.enter(clock.now());
                    Some(InFlightChunk::Copying { chunk, target, slot, copying })
                }
            };
            self.flights.extend(flight);
            self.next += 1;
            moved = true;
        }
        self.settle();
        Ok(moved)
    }

    /// Others need not wait for this one.
    fn settle(&self) {
        if let SourceMemory::Gpu(_, member) = &self.memory {
            member.settle();
        }
    }

    fn push(
        &self,
        chunk: u64,
        target: Target,
        slot: Option<&Slot>,
    ) -> Result<Box<dyn Transfer>, TransportError> {
        let mut local = Vec::with_capacity(target.remote.len());
        let mut at = 0;
        for piece in self.chunking.pieces(chunk) {
            local.push(match slot {
                Some(slot) => slot.part(at, piece.len)?,
                None => part(&self.list, piece.index, piece.offset, piece.len)?,
            });
            at += piece.len;
        }
        let (registrations, leased) = match (&self.memory, slot) {
            (_, Some(slot)) => (slot.registrations(), lease(&local, LeaseMode::Read)?),
            (SourceMemory::Host(registrations, leased), None) => {
                (registrations.clone(), leased.clone())
            }
            (SourceMemory::Gpu(..), None) => return Err(failed("cut", "a chunk without a slot")),
        };
        let filled = Message::Filled { chunk, slot: target.slot };
        self.transport.prepare(TransferSpec::new(
            OperationKind::Write,
            &self.peer,
            (&local, &leased),
            &target.remote,
            self.session.map(|session| filled.encode(session)),
            registrations,
        )?)
    }

    /// Starts with no more chunks.
    pub(super) fn stop(&mut self) {
        self.stopped = true;
        self.settle();
    }

    /// Whether neither GPU nor engine uses memory for this operation.
    pub(super) fn is_quiet(&self) -> bool {
        self.flights.is_empty()
    }

    /// Whether every chunk was started with.
    pub(super) fn all_started(&self) -> bool {
        self.next == self.chunking.count()
    }

    pub(super) fn hops(&self) -> Vec<Hop> {
        match self.memory {
            SourceMemory::Host(..) => vec![self.crossing.hop()],
            SourceMemory::Gpu(..) => vec![self.copying.hop(), self.crossing.hop()],
        }
    }

    pub(super) fn stages(&self) -> bool {
        matches!(self.memory, SourceMemory::Gpu(..))
    }
}

/// A copy to a slot has failed. What was queued is done, and the slot is free, unless the GPU is lost.
fn given_up(copier: &Copier, slot: Slot, error: TransportError) -> TransportError {
    if !copier.is_lost() {
        slot.release();
    }
    error
}

/// The lease of a slot's parts for one transfer.
pub(super) fn lease(parts: &[Descriptor], mode: LeaseMode) -> Result<Leased, TransportError> {
    Leases::acquire(parts, mode).map(Leased::from).map_err(|e| failed_by("lease", e))
}

/// `len` bytes of a list's descriptor, from `offset` on.
pub(super) fn part(
    list: &DescriptorList,
    index: usize,
    offset: u64,
    len: u64,
) -> Result<Descriptor, TransportError> {
    let range = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    let descriptor =
        list.as_slice().get(index).ok_or_else(|| failed("cut", "a piece outside the list"))?;
    descriptor
        .slice(range(offset)..range(offset.saturating_add(len)))
        .map_err(|e| failed_by("cut", e))
}
