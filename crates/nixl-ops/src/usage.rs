//! An execution that uses a peer's offer, with its claim and completion.

use std::task::{Context, Poll, ready};

use crate::{Execution, KeyUse, PeerMemory, RemoteSlot, TransportError, forward_execution};

/// An execution that begins and ends a use of an offer: it claims a writable one at its first poll, before a byte moves, checks
/// that a readable one is still open, and undoes the claim if no byte of the peer was accessed.
#[allow(missing_debug_implementations, reason = "executions have none")]
pub struct OfferUse {
    execution: Box<dyn Execution>,
    slot: Option<RemoteSlot>,
    key: Option<KeyUse>,
    stage: Stage,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Stage {
    Unbegun,
    Begun,
    Ended,
}

impl OfferUse {
    /// A use of the execution's offer. No `key` if the slot refuses a second use.
    pub fn of(
        execution: Box<dyn Execution>,
        slot: Option<RemoteSlot>,
        key: Option<KeyUse>,
    ) -> Box<dyn Execution> {
        Box::new(Self { execution, slot, key, stage: Stage::Unbegun })
    }

    fn begin(&mut self) -> Result<(), TransportError> {
        if let Some(slot) = &self.slot {
            slot.begin()?;
        }
        self.stage = Stage::Begun;
        Ok(())
    }

    /// Ends the use after a failure, or after giving up with nothing in flight.
    fn fail(&mut self) {
        if self.stage != Stage::Begun {
            self.stage = Stage::Ended;
            return;
        }
        self.stage = Stage::Ended;
        let memory = self.execution.peer_memory();
        if !memory.is_untouched() {
            self.spend();
        }
        match &self.slot {
            Some(slot) if memory.is_untouched() => slot.undo(),
            Some(slot) if memory.is_quiet() => slot.fail(),
            // An error is no proof of quiet memory: the owner needs one.
            Some(_) | None => {}
        }
    }

    fn spend(&mut self) {
        if let Some(key) = self.key.take() {
            key.spend();
        }
    }
}

#[deny(clippy::missing_trait_methods, reason = "a wrapper forwards every method")]
impl Execution for OfferUse {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        if self.stage == Stage::Unbegun
            && let Err(error) = self.begin()
        {
            self.stage = Stage::Ended;
            return Poll::Ready(Err(error));
        }
        let result = ready!(self.execution.poll(cx));
        match &result {
            Ok(()) => {
                self.stage = Stage::Ended;
                self.spend();
            }
            Err(_) => self.fail(),
        }
        Poll::Ready(result)
    }

    fn abandon(&mut self) -> bool {
        let quiet = self.stage == Stage::Ended || self.execution.abandon();
        if quiet {
            self.fail();
        }
        quiet
    }

    fn peer_memory(&self) -> PeerMemory {
        match self.stage {
            Stage::Unbegun => PeerMemory::UNTOUCHED,
            Stage::Begun | Stage::Ended => self.execution.peer_memory(),
        }
    }

    forward_execution! { execution: awaits_notification completion_mode expected posts_quickly report steps takes_turns target_told }
}

impl Drop for OfferUse {
    fn drop(&mut self) {
        // In flight, it may still access the memory.
        if self.stage == Stage::Begun && !self.abandon() {
            self.spend();
        }
    }
}
