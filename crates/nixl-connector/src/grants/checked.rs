//! A read under a grant: the bytes, and then the word of the grant.

use std::mem;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use nixl_descriptor::{Descriptor, Leased, ReadOnlyWords, Registration, copy_range_to_slice};
use nixl_metadata::{OperationKind, SerializedDescriptor};
use nixl_ops::{
    Execution, PathReport, PeerId, PeerMemory, StaleRead, Transfer, TransferSpec, Transport,
    TransportError, WordCheck,
};

use crate::moved::Moved;

/// Where the words of an export are read.
pub(super) enum WordReader {
    /// Here: this process has them mapped.
    Mapped(Arc<ReadOnlyWords>),
    /// By a request of the engine's.
    Engine(WordRequest),
}

/// Reads one slot's words through the engine.
pub(super) struct WordRequest {
    pub(super) transport: Arc<dyn Transport>,
    pub(super) peer: PeerId,
    pub(super) registrations: Vec<Registration>,
    /// The words of the slot at the owner.
    pub(super) remote: SerializedDescriptor,
    /// As many bytes here, which `leased` covers for writing.
    pub(super) local: Descriptor,
    pub(super) leased: Leased,
}

impl WordRequest {
    fn prepare(&self) -> Result<Box<dyn Transfer>, TransportError> {
        self.transport.prepare(TransferSpec::new(
            OperationKind::Read,
            &self.peer,
            (std::slice::from_ref(&self.local), &self.leased),
            std::slice::from_ref(&self.remote),
            None,
            self.registrations.clone(),
        )?)
    }

    /// The slot's words, once they have arrived.
    fn arrived(&self) -> Result<[u64; 2], TransportError> {
        let failed = |reason: String| TransportError::Engine {
            engine: "grant",
            call: "read a word",
            reason: reason.into(),
        };
        let held = self.leased.begin_use().map_err(|error| failed(error.to_string()))?;
        let mut bytes = [0; 16];
        copy_range_to_slice(&self.local, 0, &mut bytes, &[&held])
            .map_err(|error| failed(error.to_string()))?;
        let [a, b, c, d, e, f, g, h, rest @ ..] = bytes;
        // In the owner's byte order: engines reach peers of one architecture only.
        Ok([u64::from_ne_bytes([a, b, c, d, e, f, g, h]), u64::from_ne_bytes(rest)])
    }
}

/// An execution that is complete only if the grant stood when all its bytes had arrived.
pub(super) struct Checked {
    stage: Stage,
    check: WordCheck,
    words: WordReader,
    /// The digest was found wrong once beside the right word: both may have been read while the slot was granted anew.
    asked_again: bool,
}

enum Stage {
    Moving(Box<dyn Execution>),
    /// Posted once the bytes had arrived: nothing orders the descriptors of one request.
    Asking(Moved, Box<dyn Transfer>),
    Over(Moved),
}

impl Checked {
    pub(super) fn after(
        execution: Box<dyn Execution>,
        check: WordCheck,
        words: WordReader,
    ) -> Box<dyn Execution> {
        Box::new(Self { stage: Stage::Moving(execution), check, words, asked_again: false })
    }

    /// The bytes are in place, and no part of the execution that moved them is left.
    fn ask(&mut self, moved: Moved) -> Poll<Result<(), TransportError>> {
        self.stage = Stage::Over(moved.clone());
        match &self.words {
            WordReader::Mapped(words) => Poll::Ready(said(self.check.check_mapped(words))),
            WordReader::Engine(request) => {
                self.stage = Stage::Asking(moved, request.prepare()?);
                self.poll_words()
            }
        }
    }

    fn poll_words(&mut self) -> Poll<Result<(), TransportError>> {
        let (Stage::Asking(moved, transfer), WordReader::Engine(request)) =
            (&mut self.stage, &self.words)
        else {
            return Poll::Ready(Ok(()));
        };
        let asked = ready!(transfer.poll());
        let moved = moved.clone();
        // The request is released before its memory is looked at.
        self.stage = Stage::Over(moved.clone());
        asked?;
        let [word, digest] = request.arrived()?;
        match self.check.compare(word, digest) {
            Err(StaleRead::NotGranted) if !mem::replace(&mut self.asked_again, true) => {
                self.stage = Stage::Asking(moved, request.prepare()?);
                self.poll_words()
            }
            checked => Poll::Ready(said(checked)),
        }
    }
}

fn said(checked: Result<(), StaleRead>) -> Result<(), TransportError> {
    checked.map_err(|stale| match stale {
        StaleRead::NotGranted => TransportError::NotGranted,
        _ => TransportError::Stale,
    })
}

#[deny(clippy::missing_trait_methods, reason = "a wrapper forwards every method")]
impl Execution for Checked {
    fn poll(&mut self) -> Poll<Result<(), TransportError>> {
        let Stage::Moving(execution) = &mut self.stage else { return self.poll_words() };
        ready!(execution.poll())?;
        let moved = Moved::by(&**execution);
        self.ask(moved)
    }

    fn expected(&self) -> Option<Duration> {
        match (&self.stage, &self.words) {
            (Stage::Moving(execution), WordReader::Mapped(_)) => execution.expected(),
            // A request more than the path expects.
            _ => None,
        }
    }

    fn awaits_notification(&self) -> bool {
        matches!(&self.stage, Stage::Moving(execution) if execution.awaits_notification())
    }

    fn abandon(&mut self) -> bool {
        match &mut self.stage {
            Stage::Moving(execution) => execution.abandon(),
            Stage::Asking(_, transfer) => !transfer.in_flight(),
            Stage::Over(_) => true,
        }
    }

    fn report(&self) -> PathReport {
        match &self.stage {
            Stage::Moving(execution) => execution.report(),
            Stage::Asking(moved, _) | Stage::Over(moved) => moved.report.clone(),
        }
    }

    fn posts_quickly(&self) -> bool {
        matches!(&self.stage, Stage::Moving(execution) if execution.posts_quickly())
    }

    fn takes_turns(&self) -> bool {
        match &self.stage {
            Stage::Moving(execution) => execution.takes_turns(),
            Stage::Asking(..) => true,
            Stage::Over(_) => false,
        }
    }

    fn steps(&self) -> u64 {
        match &self.stage {
            Stage::Moving(execution) => execution.steps(),
            Stage::Asking(moved, _) | Stage::Over(moved) => moved.steps + 1,
        }
    }

    fn target_told(&self) -> bool {
        matches!(&self.stage, Stage::Moving(execution) if execution.target_told())
    }

    fn peer_memory(&self) -> PeerMemory {
        match &self.stage {
            Stage::Moving(execution) => execution.peer_memory(),
            Stage::Asking(moved, _) | Stage::Over(moved) => moved.memory,
        }
    }
}
