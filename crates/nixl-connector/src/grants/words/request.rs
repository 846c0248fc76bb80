//! One request of the engine's for words.

use std::ops::Range;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use nixl_descriptor::{Descriptor, LeaseUse, copy_range_to_slice};
use nixl_device::{Device, SharedError};
use nixl_metadata::{OperationKind, SerializedDescriptor, WordsLocation};
use nixl_ops::{
    CompletionMode, Execution, GrantWords, PathKind, PathReport, PeerId, Transfer, TransferSpec,
    Transport, TransportError,
};

use super::persistent_requests::WINDOW;
use super::queue::{Answer, Batch, Entry, Queue, Slots};
use super::room::Room;

/// A request for the words of some reads. It gives each its words; if it is dropped before, they join the next.
pub(super) struct WordRequest {
    queue: Arc<Queue>,
    batch: Batch,
    transfer: Option<Result<Box<dyn Transfer>, TransportError>>,
    /// Field order: the request goes before the room that it brings words to.
    room: Option<Room>,
    whole: Descriptor,
    /// Where in the room the words come to, in slots.
    at: usize,
    /// The part of the room and the window of a request that is posted again.
    window: Option<(usize, u32)>,
    peer: PeerId,
    transport: Arc<dyn Transport>,
}

impl WordRequest {
    /// Of the words of an owner. A failure is that of the request.
    pub(super) fn new(
        (queue, transport): (&Arc<Queue>, &Arc<dyn Transport>),
        (words, peer): (&WordsLocation, &PeerId),
        (batch, room): (Batch, Room),
    ) -> Self {
        let (queue, transport) = (Arc::clone(queue), Arc::clone(transport));
        let (whole, room, peer) = (room.region.whole(), Some(room), peer.clone());
        let (transfer, at, window) = (None, 0, None);
        let mut new = Self { queue, batch, transfer, room, whole, at, window, peer, transport };
        new.transfer = Some(new.prepared(words));
        new
    }

    /// Where the words come to.
    pub(super) fn memory(&self) -> Descriptor {
        self.whole.clone()
    }

    fn prepared(&mut self, words: &WordsLocation) -> Result<Box<dyn Transfer>, TransportError> {
        let Some(room) = &mut self.room else { return Err(TransportError::Closed) };
        match &self.batch.slots {
            Slots::Runs(runs) => {
                let spec = (&self.transport, &self.peer, false);
                prepare(spec, words, &*room, runs.each())
            }
            &Slots::Window(window) => {
                let (part, prepared) = room.persistent.take(window, &self.peer);
                (self.at, self.window) = (part * WINDOW as usize, Some((part, window)));
                if let Some(prepared) = prepared {
                    return Ok(prepared);
                }
                let first = window.saturating_mul(WINDOW);
                let slots = first..first.saturating_add(WINDOW).min(words.slots);
                let spec = (&self.transport, &self.peer, true);
                prepare(spec, words, &*room, [(slots, self.at)].into_iter())
            }
        }
    }

    /// Gives each read the words that have arrived for it.
    fn answer(&mut self, asked: &Result<(), TransportError>) {
        let held = self.room.as_ref().map(|room| room.leased.begin_use());
        for (entry, place) in self.batch.reads.drain(..) {
            let answer: Answer = match (asked, &held) {
                (Err(error), _) => Err(error.clone()),
                (Ok(()), Some(Ok(held))) => first_words(&self.whole, self.at + place, held),
                (Ok(()), Some(Err(error))) => Err(failed(error.clone())),
                (Ok(()), None) => Err(TransportError::Closed),
            };
            entry.answer(answer);
        }
    }

    /// Keeps what is posted again, and releases the request otherwise.
    fn keep(&mut self, ended: &Result<(), TransportError>) {
        let transfer = self.transfer.take();
        if let (Ok(()), Some(Ok(transfer)), Some(place), Some(room)) =
            (ended, transfer, self.window, &mut self.room)
        {
            room.persistent.keep(place, self.peer.clone(), transfer);
        }
    }
}

/// Prepares a request for these ranges of slots, each to its place in the room.
fn prepare(
    (transport, peer, is_repeated): (&Arc<dyn Transport>, &PeerId, bool),
    words: &WordsLocation,
    room: &Room,
    ranges: impl Iterator<Item = (Range<u32>, usize)>,
) -> Result<Box<dyn Transfer>, TransportError> {
    let (mut local, mut remote) = (Vec::new(), Vec::new());
    for (slots, place) in ranges {
        let len = slots.len() * GrantWords::SLOT_BYTES;
        let at = place * GrantWords::SLOT_BYTES;
        local.push(room.region.descriptor(at..at + len).map_err(failed)?);
        // Inside the address space, as the metadata was checked.
        let at = words.address + GrantWords::offset(slots.start) as u64;
        let of_peer = SerializedDescriptor::new(Device::HOST, at, len as u64);
        remote.push(of_peer.map_err(failed)?);
    }
    let memory = (local.as_slice(), &room.leased);
    let registrations = room.registrations.clone();
    let kind = OperationKind::Read;
    let spec = TransferSpec::new(kind, peer, memory, &remote, None, registrations)?;
    transport.prepare(if is_repeated { spec.repeated() } else { spec })
}

/// The first three words of the slot at this place, in the owner's byte order: engines reach peers of one architecture only.
fn first_words(room: &Descriptor, place: usize, held: &LeaseUse) -> Answer {
    let mut bytes = [0; 24];
    let at = place * GrantWords::SLOT_BYTES;
    copy_range_to_slice(room, at, &mut bytes, &[held]).map_err(failed)?;
    let mut words = [0; 3];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = u64::from_ne_bytes(*bytes);
    }
    Ok(words)
}

fn failed(error: impl Into<SharedError>) -> TransportError {
    TransportError::Engine { engine: "grant", call: "read a word", reason: error.into() }
}

impl Execution for WordRequest {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        let asked = match &mut self.transfer {
            Some(Ok(transfer)) => ready!(transfer.poll(cx)),
            Some(Err(error)) => Err(error.clone()),
            None => Err(TransportError::Closed),
        };
        // The request is released, or made ready again, before its memory is looked at.
        self.keep(&asked);
        self.answer(&asked);
        // A part of a failed request may still arrive.
        let room = self.room.take().filter(|_| asked.is_ok());
        self.queue.ended(room, Vec::new());
        // Each has got the failure.
        Poll::Ready(Ok(()))
    }

    fn completion_mode(&self) -> CompletionMode {
        match &self.transfer {
            Some(Ok(transfer)) => transfer.completion_mode(),
            Some(Err(_)) | None => CompletionMode::Polled,
        }
    }

    fn abandon(&mut self) -> bool {
        match &self.transfer {
            Some(Ok(transfer)) => !transfer.in_flight(),
            _ => true,
        }
    }

    fn report(&self) -> PathReport {
        let (slots, descriptors) = match &self.batch.slots {
            Slots::Window(_) => (WINDOW as usize, 1),
            Slots::Runs(runs) => (runs.slots(), runs.each().count()),
        };
        let bytes = (slots * GrantWords::SLOT_BYTES) as u64;
        let engine = self.transport.name().to_owned();
        PathReport::new(PathKind::Direct, engine, bytes, descriptors)
    }

    fn takes_turns(&self) -> bool {
        true
    }
}

impl Drop for WordRequest {
    fn drop(&mut self) {
        // One in flight keeps its memory; the room is not used again.
        let unused = match &self.transfer {
            None => self.room.take(),
            Some(_) => None,
        };
        self.transfer = None;
        if unused.is_some() || !self.batch.reads.is_empty() {
            let unanswered: Vec<Arc<Entry>> =
                self.batch.reads.drain(..).map(|(entry, _)| entry).collect();
            self.queue.ended(unused, unanswered);
        }
    }
}
