//! A read under a grant: the bytes, and then the word of the grant.

use std::mem;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use nixl_descriptor::ReadOnlyWords;
use nixl_ops::{Execution, PathReport, PeerMemory, StaleRead, Transfer, TransportError, WordCheck};

use super::words::WordRequest;

/// Where the words of an export are read.
pub(super) enum WordReader {
    /// Here: this process has them mapped.
    Mapped(Arc<ReadOnlyWords>),
    /// By a request of the engine's.
    Engine(WordRequest),
}

/// An execution that is complete only if the grant stood when all its bytes had arrived.
pub(super) struct Checked {
    stage: Stage,
    /// That of the bytes; it has ended in all stages but the first.
    moving: Box<dyn Execution>,
    check: WordCheck,
    words: WordReader,
    /// The digest was found wrong once beside the right word: both may have been read while the slot was granted anew.
    asked_again: bool,
}

enum Stage {
    Moving,
    /// Posted once the bytes had arrived: nothing orders the descriptors of one request.
    Asking(Box<dyn Transfer>),
    Over,
}

impl Checked {
    pub(super) fn after(
        moving: Box<dyn Execution>,
        check: WordCheck,
        words: WordReader,
    ) -> Box<dyn Execution> {
        Box::new(Self { stage: Stage::Moving, moving, check, words, asked_again: false })
    }

    /// The bytes are in place.
    fn ask(&mut self) -> Poll<Result<(), TransportError>> {
        self.stage = Stage::Over;
        match &self.words {
            WordReader::Mapped(words) => Poll::Ready(said(self.check.check_mapped(words))),
            WordReader::Engine(request) => {
                self.stage = Stage::Asking(request.prepare()?);
                self.poll_words()
            }
        }
    }

    fn poll_words(&mut self) -> Poll<Result<(), TransportError>> {
        let (Stage::Asking(transfer), WordReader::Engine(request)) =
            (&mut self.stage, &mut self.words)
        else {
            return Poll::Ready(Ok(()));
        };
        let asked = ready!(transfer.poll());
        // The request is released before its memory is looked at.
        self.stage = Stage::Over;
        asked?;
        let [word, digest] = request.arrived()?;
        match self.check.compare(word, digest) {
            Err(StaleRead::NotGranted) if !mem::replace(&mut self.asked_again, true) => {
                self.stage = Stage::Asking(request.prepare()?);
                self.poll_words()
            }
            checked => {
                request.give_back();
                Poll::Ready(said(checked))
            }
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
        let Stage::Moving = self.stage else { return self.poll_words() };
        ready!(self.moving.poll())?;
        self.ask()
    }

    fn expected(&self) -> Option<Duration> {
        match (&self.stage, &self.words) {
            (Stage::Moving, WordReader::Mapped(_)) => self.moving.expected(),
            // A request more than the path expects.
            _ => None,
        }
    }

    fn awaits_notification(&self) -> bool {
        matches!(self.stage, Stage::Moving) && self.moving.awaits_notification()
    }

    fn abandon(&mut self) -> bool {
        match &self.stage {
            Stage::Moving => self.moving.abandon(),
            Stage::Asking(transfer) => !transfer.in_flight(),
            Stage::Over => true,
        }
    }

    fn report(&self) -> PathReport {
        self.moving.report()
    }

    fn posts_quickly(&self) -> bool {
        matches!(self.stage, Stage::Moving) && self.moving.posts_quickly()
    }

    fn takes_turns(&self) -> bool {
        match &self.stage {
            Stage::Moving => self.moving.takes_turns(),
            Stage::Asking(_) => true,
            Stage::Over => false,
        }
    }

    fn steps(&self) -> u64 {
        match &self.stage {
            Stage::Moving => self.moving.steps(),
            Stage::Asking(_) | Stage::Over => self.moving.steps() + 1,
        }
    }

    fn target_told(&self) -> bool {
        matches!(self.stage, Stage::Moving) && self.moving.target_told()
    }

    fn peer_memory(&self) -> PeerMemory {
        self.moving.peer_memory()
    }
}
