//! The check through the engine that a one-shot offer still stands: a request of its own, posted after the bytes have arrived.

use std::mem;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use nixl_descriptor::{Descriptor, DescriptorList, LeaseMode, Leased, Leases, copy_range_to_slice};
use nixl_device::{Device, SharedError};
use nixl_metadata::{MetadataError, OfferWord, OperationKind, RdmaMetadata, SerializedDescriptor};
use nixl_ops::{
    CompletionMode, CompletionNotifier, Execution, PathReport, PeerId, PeerMemory, Transfer,
    TransferSpec, TransportError,
};

use crate::connection::Connection;
use crate::moved::Moved;
use crate::{Connector, ConnectorError};

/// The request for an offer's word, and what follows it.
pub(crate) struct OfferCheck {
    transfer: Box<dyn Transfer>,
    word: OfferWord,
    found: Descriptor,
    leased: Leased,
    notifier: CompletionNotifier,
}

impl OfferCheck {
    /// The word of an offer that is to be read. `is_mapped` if the offer's slot is checked instead.
    ///
    /// # Errors
    ///
    /// [`ConnectorError::NoOfferWord`] if the offer has none.
    pub(crate) fn word_of(
        remote: &RdmaMetadata,
        is_mapped: bool,
    ) -> Result<Option<OfferWord>, ConnectorError> {
        if is_mapped {
            return Ok(None);
        }
        let reason = "it has no word: have its owner offer with OperationOptions::check_word, and send metadata in the native \
                      profile from version 4, or read without that option";
        remote.word().map(Some).ok_or(ConnectorError::NoOfferWord { reason })
    }

    /// Connects to the owner, and loads the offered memory and the word at once: a load may replace an earlier one.
    pub(crate) async fn connect(
        connection: &Connection,
        (word, remote): (OfferWord, &RdmaMetadata),
    ) -> Result<PeerId, ConnectorError> {
        let (agent, key) = (remote.agent_metadata().clone(), remote.notification_key().clone());
        let all = remote.descriptors().iter().copied().chain([place(word)?]).collect();
        let both = RdmaMetadata::new(OperationKind::Read, all, agent, key)?;
        let both = match remote.peer() {
            Some(peer) => both.with_peer(peer.clone()),
            None => both,
        };
        let both = match remote.terms() {
            Some(terms) => both.with_terms(*terms)?,
            None => both,
        };
        connection.connect(&both).await
    }

    /// Prepares the request, with memory for the word. `notifier` notifies the owner of a read that was right.
    pub(crate) async fn prepare(
        connector: &Connector,
        (word, peer): (OfferWord, &PeerId),
        notifier: CompletionNotifier,
    ) -> Result<Box<Self>, ConnectorError> {
        let connection = connector.connection();
        let found = connector.buffer(OfferWord::BYTES as usize)?.whole();
        let list = DescriptorList::from(found.clone());
        let registrations = connection.register(&list).await?;
        let leased = Leases::acquire_list(list.clone(), LeaseMode::Write)?;
        let (memory, there) = ((list.as_slice(), &leased), [place(word)?]);
        let kind = OperationKind::Read;
        let spec = TransferSpec::new(kind, peer, memory, &there, None, registrations)?;
        let transfer = connection.transport().prepare(spec)?;
        Ok(Box::new(Self { transfer, word, found, leased, notifier }))
    }

    /// The execution, and then the check and the notification. It notifies no owner itself.
    pub(crate) fn after(execution: Box<dyn Execution>, check: Box<Self>) -> Box<dyn Execution> {
        Box::new(Checked(Stage::Moving(execution, check)))
    }

    /// Polls the request. The bytes have arrived before its first poll, which posts it.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        ready!(self.transfer.poll(cx))?;
        let mut bytes = [0; OfferWord::BYTES as usize];
        let held = self.leased.begin_use().map_err(failed)?;
        copy_range_to_slice(&self.found, 0, &mut bytes, &[&held]).map_err(failed)?;
        // In the owner's byte order: engines reach peers of one architecture only.
        Poll::Ready(match u64::from_ne_bytes(bytes) == self.word.value() {
            true => Ok(()),
            false => Err(TransportError::Stale),
        })
    }
}

fn place(word: OfferWord) -> Result<SerializedDescriptor, MetadataError> {
    SerializedDescriptor::new(Device::HOST, word.address(), OfferWord::BYTES)
}

fn failed(error: impl Into<SharedError>) -> TransportError {
    TransportError::Engine { engine: "offer", call: "read its word", reason: error.into() }
}

/// An execution with the check of its offer's word at the end.
struct Checked(Stage);

enum Stage {
    Moving(Box<dyn Execution>, Box<OfferCheck>),
    Checking(Moved, Box<OfferCheck>),
    Notifying(Moved, CompletionNotifier),
    Over(Moved),
}

impl Stage {
    fn moving(&self) -> Option<&dyn Execution> {
        match self {
            Self::Moving(execution, _) => Some(&**execution),
            _ => None,
        }
    }

    fn moved(&self) -> Moved {
        match self {
            Self::Moving(execution, _) => Moved::by(&**execution),
            Self::Checking(moved, _) | Self::Notifying(moved, _) | Self::Over(moved) => {
                moved.clone()
            }
        }
    }
}

impl Checked {
    /// Goes on to the next stage. An execution or a request that has ended is dropped.
    fn end_stage(&mut self) {
        let moved = self.0.moved();
        self.0 = match mem::replace(&mut self.0, Stage::Over(moved.clone())) {
            Stage::Moving(_, check) => Stage::Checking(moved, check),
            Stage::Checking(_, check) => Stage::Notifying(moved, check.notifier),
            Stage::Notifying(..) | Stage::Over(_) => Stage::Over(moved),
        };
    }
}

#[deny(clippy::missing_trait_methods, reason = "a wrapper forwards every method")]
impl Execution for Checked {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        loop {
            match &mut self.0 {
                Stage::Moving(execution, _) => ready!(execution.poll(cx))?,
                Stage::Checking(_, check) => ready!(check.poll(cx))?,
                Stage::Notifying(_, notifier) => ready!(notifier.notify())?,
                Stage::Over(_) => return Poll::Ready(Ok(())),
            }
            self.end_stage();
        }
    }

    fn expected(&self) -> Option<Duration> {
        // The check adds to the path's expected time.
        None
    }

    fn completion_mode(&self) -> CompletionMode {
        match &self.0 {
            Stage::Moving(execution, _) => execution.completion_mode(),
            Stage::Checking(_, check) => check.transfer.completion_mode(),
            Stage::Notifying(..) | Stage::Over(_) => CompletionMode::Polled,
        }
    }

    fn awaits_notification(&self) -> bool {
        self.0.moving().is_some_and(Execution::awaits_notification)
    }

    fn abandon(&mut self) -> bool {
        match &mut self.0 {
            Stage::Moving(execution, _) => execution.abandon(),
            Stage::Checking(_, check) => !check.transfer.in_flight(),
            Stage::Notifying(..) | Stage::Over(_) => true,
        }
    }

    fn report(&self) -> PathReport {
        self.0.moved().report
    }

    fn posts_quickly(&self) -> bool {
        self.0.moving().is_some_and(Execution::posts_quickly)
    }

    fn takes_turns(&self) -> bool {
        self.0.moving().is_none_or(Execution::takes_turns)
    }

    fn steps(&self) -> u64 {
        match &self.0 {
            Stage::Moving(execution, _) => execution.steps(),
            Stage::Checking(moved, _) => moved.steps + 1,
            Stage::Notifying(moved, _) | Stage::Over(moved) => moved.steps + 2,
        }
    }

    fn target_told(&self) -> bool {
        matches!(self.0, Stage::Notifying(..) | Stage::Over(_))
    }

    fn peer_memory(&self) -> PeerMemory {
        match &self.0 {
            Stage::Moving(execution, _) => execution.peer_memory(),
            Stage::Checking(moved, _) | Stage::Notifying(moved, _) | Stage::Over(moved) => {
                moved.memory
            }
        }
    }
}
