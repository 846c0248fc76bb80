//! The part of one side in a two-sided transfer: source or sink, through pinned slots or slots on a GPU.

use std::sync::Arc;

use nixl_ops::{Hop, TransportError};

use super::chunking::Chunking;
use super::gpu_sink::GpuSink;
use super::gpu_source::GpuSource;
use super::sink::Sink;
use super::source::Source;
use crate::messages::Message;
use crate::sessions::{Quarantine, Sessions, failed, violated};

pub(super) enum Role {
    Source(Source),
    Sink(Sink),
    GpuSource(GpuSource),
    GpuSink(GpuSink),
}

/// The contents of a peer's message.
pub(super) enum Heard {
    /// Something of a chunk or slot.
    Progress,
    /// The peer's last message: `Done` to a source, `Stopped` to a sink.
    End(Result<(), TransportError>),
    /// The peer gives up, and waits for the source's last message.
    Refusal(TransportError),
}

/// The place from which this side looks.
pub(super) struct Surroundings<'a> {
    pub(super) sessions: &'a Sessions,
    pub(super) peer: &'a str,
    /// Whether the peer may be granted slots, or has some exported to it.
    pub(super) may_grant: bool,
}

impl Role {
    /// Whether bytes leave this side.
    pub(super) fn is_source(&self) -> bool {
        matches!(self, Self::Source(_) | Self::GpuSource(_))
    }

    /// Whether this side has GPU memory.
    pub(super) fn stages(&self) -> bool {
        match self {
            Self::Source(source) => source.stages(),
            Self::Sink(sink) => sink.stages(),
            Self::GpuSource(_) | Self::GpuSink(_) => true,
        }
    }

    /// Whether the chunks go through slots on a GPU, which the peer's GPU or that of this side copies out of. Then no side touches
    /// memory of the other's but slots.
    pub(super) fn is_on_gpu(&self) -> bool {
        matches!(self, Self::GpuSource(_) | Self::GpuSink(_))
    }

    /// Begins nothing more.
    pub(super) fn stop(&mut self) {
        match self {
            Self::Source(source) => source.stop(),
            Self::Sink(sink) => sink.stop(),
            Self::GpuSource(source) => source.stop(),
            Self::GpuSink(sink) => sink.stop(),
        }
    }

    /// Whether neither GPU nor engine of this side uses memory for the operation.
    pub(super) fn is_quiet(&self) -> bool {
        match self {
            Self::Source(source) => source.is_quiet(),
            Self::Sink(sink) => sink.is_quiet(),
            Self::GpuSource(source) => source.is_quiet(),
            Self::GpuSink(sink) => sink.is_quiet(),
        }
    }

    /// Whether the peer may have all chunks: the sink may complete the operation.
    pub(super) fn all_started(&self) -> bool {
        match self {
            Self::Source(source) => source.all_started(),
            Self::GpuSource(source) => source.all_started(),
            Self::Sink(_) | Self::GpuSink(_) => false,
        }
    }

    /// Whether all bytes are in place at this side.
    pub(super) fn is_complete(&self) -> bool {
        match self {
            Self::Sink(sink) => sink.is_complete(),
            Self::GpuSink(sink) => sink.is_complete(),
            Self::Source(_) | Self::GpuSource(_) => false,
        }
    }

    /// Whether the peer has nothing left to send to this side.
    fn all_arrived(&self) -> bool {
        match self {
            Self::Sink(sink) => sink.all_arrived(),
            Self::GpuSink(sink) => sink.all_arrived(),
            Self::Source(_) | Self::GpuSource(_) => false,
        }
    }

    pub(super) fn chunks(&self) -> u64 {
        self.chunking().count()
    }

    fn chunking(&self) -> &Arc<Chunking> {
        match self {
            Self::Source(source) => source.chunking(),
            Self::Sink(sink) => sink.chunking(),
            Self::GpuSource(source) => source.chunking(),
            Self::GpuSink(sink) => sink.chunking(),
        }
    }

    pub(super) fn hops(&self) -> Vec<Hop> {
        match self {
            Self::Source(source) => source.hops(),
            Self::Sink(sink) => sink.hops(),
            Self::GpuSource(source) => source.hops(),
            Self::GpuSink(sink) => sink.hops(),
        }
    }

    /// Moves the chunks on as far as they go now. Returns whether anything happened.
    ///
    /// # Errors
    ///
    /// The first failure. What is on its way must be polled until [quiet](Self::is_quiet) all the same.
    pub(super) fn poll(
        &mut self,
        from: &Surroundings<'_>,
        say: &mut dyn FnMut(Message),
    ) -> Result<bool, TransportError> {
        let clock = &**from.sessions.link().clock();
        match self {
            Self::Source(source) => source.poll(clock),
            Self::Sink(sink) => sink.poll(clock, from.may_grant, say),
            Self::GpuSource(source) => source.poll(clock, from.may_grant, say),
            Self::GpuSink(sink) => sink.poll((from.sessions, from.peer), say),
        }
    }

    /// Hears a message of the peer.
    ///
    /// # Errors
    ///
    /// If the peer must not have sent it.
    pub(super) fn hear(
        &mut self,
        sessions: &Sessions,
        message: Message,
    ) -> Result<Heard, TransportError> {
        let gave_up = |reason| failed("peer", format!("the peer gave up: {reason}"));
        match (self, message) {
            (Self::Sink(_) | Self::GpuSource(_), Message::Accept) => {}
            (Self::Sink(sink), Message::Filled { chunk, slot }) => {
                sink.filled(&**sessions.link().clock(), chunk, slot)?;
            }
            (Self::GpuSink(sink), Message::Ready(ready)) => sink.ready(ready)?,
            // What it gave up after its last chunk does not matter here.
            (
                sink @ (Self::Sink(_) | Self::GpuSink(_)),
                Message::Stopped { .. } | Message::GrantRefused(_),
            ) if sink.all_arrived() => return Ok(Heard::End(Ok(()))),
            (Self::Sink(_) | Self::GpuSink(_), Message::Stopped { reason }) => {
                return Ok(Heard::End(Err(gave_up(reason))));
            }
            (Self::Sink(_) | Self::GpuSink(_), Message::GrantRefused(refusal)) => {
                return Ok(Heard::End(Err(refusal.error())));
            }
            (Self::Source(source), Message::Slots(slots)) => {
                let chunking = Arc::clone(source.chunking());
                source.grants()?.add_slots(&chunking, slots)?;
            }
            (Self::Source(source), Message::Places { first, addresses }) => {
                let chunking = Arc::clone(source.chunking());
                source.grants()?.add_places(&chunking, first, &addresses)?;
            }
            (Self::GpuSource(source), Message::Taken { slot, round }) => {
                source.taken(slot, round)?;
            }
            (source @ (Self::Source(_) | Self::GpuSource(_)), Message::Done) => {
                if !source.all_started() {
                    return Err(violated("done before all was sent"));
                }
                source.peer_is_quiet();
                return Ok(Heard::End(Ok(())));
            }
            (source @ (Self::Source(_) | Self::GpuSource(_)), Message::Stop { reason }) => {
                if source.is_on_gpu() {
                    source.peer_is_quiet();
                }
                return Ok(Heard::Refusal(gave_up(reason)));
            }
            (role, other) => {
                let side = if role.is_source() { "sends" } else { "receives" };
                return Err(violated(format!("{} to the side that {side}", other.name())));
            }
        }
        Ok(Heard::Progress)
    }

    /// The peer will use no slot of this side's any more.
    pub(super) fn peer_is_quiet(&mut self) {
        match self {
            Self::Sink(sink) => sink.peer_is_quiet(),
            Self::GpuSource(source) => source.peer_is_quiet(),
            Self::Source(_) | Self::GpuSink(_) => {}
        }
    }

    /// The slots that the peer may still use.
    pub(super) fn take_slots_in_use(&mut self) -> Option<Quarantine> {
        match self {
            Self::Sink(sink) => Some(sink.take_granted()),
            Self::GpuSource(source) => source.take_exported(),
            Self::Source(_) | Self::GpuSink(_) => None,
        }
    }
}
