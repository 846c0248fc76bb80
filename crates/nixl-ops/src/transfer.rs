//! Transfers of an engine.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use nixl_descriptor::{Descriptor, LeaseMode, Leased, Registration};
use nixl_metadata::{OperationKind, SerializedDescriptor};

use crate::{Listed, PeerId, TransportError};

/// The ranges to move. `local` and `remote` pair up one to one, each pair of equal length.
#[derive(Debug)]
pub struct TransferSpec<'a> {
    pub(crate) kind: OperationKind,
    pub(crate) peer: &'a PeerId,
    pub(crate) local: &'a [Descriptor],
    pub(crate) leased: &'a Leased,
    pub(crate) remote: &'a [SerializedDescriptor],
    notification: Option<Bytes>,
    pub(crate) registrations: Arc<[Registration]>,
    is_repeated: bool,
    listed: Option<Listed<'a>>,
    connection: Option<NonZeroU64>,
}

impl<'a> TransferSpec<'a> {
    /// A transfer between `local` and the memory that `remote` names at `peer`.
    ///
    /// # Errors
    ///
    /// [`TransportError::NotLeased`] if the proof does not cover the local memory in the mode that the kind needs: writing
    /// for a read, reading for a write.
    pub fn new(
        kind: OperationKind,
        peer: &'a PeerId,
        (local, leased): (&'a [Descriptor], &'a Leased),
        remote: &'a [SerializedDescriptor],
        notification: Option<Bytes>,
        registrations: impl Into<Arc<[Registration]>>,
    ) -> Result<Self, TransportError> {
        let registrations = registrations.into();
        let mode_suits = kind == OperationKind::Write || leased.mode() == LeaseMode::Write;
        let uncovered = match mode_suits {
            true => local.iter().position(|descriptor| !leased.covers(descriptor)),
            false => Some(0),
        };
        match uncovered {
            Some(index) => Err(TransportError::NotLeased { index }),
            None => Ok(Self {
                kind,
                peer,
                local,
                leased,
                remote,
                notification,
                registrations,
                is_repeated: false,
                listed: None,
                connection: None,
            }),
        }
    }

    /// Notes that the transfer is made [ready again](Transfer::repeat) after its end: engines keep what they have prepared for it.
    #[must_use]
    pub fn repeated(mut self) -> Self {
        self.is_repeated = true;
        self
    }

    /// Whether the transfer is made ready again after its end.
    #[must_use]
    pub fn is_repeated(&self) -> bool {
        self.is_repeated
    }

    /// Notes where the pairs are in lists that the engine has prepared. Without effect if they are others, or the lists stale.
    #[must_use]
    pub fn listed(mut self, listed: Listed<'a>) -> Self {
        let pairs = (self.local, self.remote);
        self.listed = listed.name(self.peer, pairs, &self.registrations).then_some(listed);
        self
    }

    /// Where the pairs are in prepared lists: as many as [`local`](Self::local) has, the same ranges in the same order.
    #[must_use]
    pub fn listed_at(&self) -> Option<Listed<'a>> {
        self.listed
    }

    /// Binds the transfer to [one connection](crate::Transport::connection_to) to the peer: once that is not the current one, the
    /// engine refuses the transfer, or its post, as [`Reconnected`](TransportError::Reconnected).
    #[must_use]
    pub fn on_connection(mut self, connection: Option<NonZeroU64>) -> Self {
        self.connection = connection;
        self
    }

    /// The only connection that the transfer may use; `None` for any.
    #[must_use]
    pub fn connection(&self) -> Option<NonZeroU64> {
        self.connection
    }

    /// `Read` moves remote to local, `Write` local to remote.
    #[must_use]
    pub fn kind(&self) -> OperationKind {
        self.kind
    }

    /// The peer that owns the remote side.
    #[must_use]
    pub fn peer(&self) -> &'a PeerId {
        self.peer
    }

    /// Local memory, which [`leased`](Self::leased) covers.
    #[must_use]
    pub fn local(&self) -> &'a [Descriptor] {
        self.local
    }

    /// The proof that the local memory is leased. The transfer owns a clone until the engine is done with the memory.
    #[must_use]
    pub fn leased(&self) -> &'a Leased {
        self.leased
    }

    /// The peer's memory: numbers that mean something to the peer only.
    #[must_use]
    pub fn remote(&self) -> &'a [SerializedDescriptor] {
        self.remote
    }

    /// The notification for the peer once the bytes are in place.
    #[must_use]
    pub fn notification(&self) -> Option<&Bytes> {
        self.notification.as_ref()
    }

    /// What is sent to the peer once the bytes are in place, and the registrations of the local memory, which the transfer
    /// holds until it ends.
    #[must_use]
    pub fn into_owned_parts(self) -> (Option<Bytes>, Arc<[Registration]>) {
        (self.notification, self.registrations)
    }
}

/// The way in which a transfer reports progress.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[allow(clippy::exhaustive_enums, reason = "the driver must handle each")]
pub enum CompletionMode {
    /// By polls only: the driver polls it until it is ready, closely at first, then at growing intervals. For engines without a
    /// completion event, such as NIXL.
    Polled,
    /// By the waker of the latest poll, called once another poll may progress. The driver sleeps until then, and still polls at
    /// the deadline and once a second, which bounds the cost of a lost wake.
    Wakes,
}

/// One transfer of an engine.
///
/// # Safety
///
/// An implementor promises that the engine accesses the local memory of the [`TransferSpec`] only while
/// [`in_flight`](Self::in_flight) is true, and that the transfer owns the spec's [`Leased`] as long. Dropping it in flight
/// [leaks](Leased::leak) the lease, the engine's request and the registrations, never releases them: the engine may still
/// write.
///
/// ```compile_fail,E0200
/// # use std::task::{Context, Poll};
/// # use nixl_ops::{Transfer, TransportError};
/// struct Careless;
///
/// // Not `unsafe impl`: the compiler refuses it.
/// impl Transfer for Careless {
///     fn poll(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
///         Poll::Ready(Ok(()))
///     }
///     fn in_flight(&self) -> bool {
///         false
///     }
///     fn was_posted(&self) -> bool {
///         false
///     }
///     fn descriptors(&self) -> usize {
///         1
///     }
/// }
/// ```
#[allow(unsafe_code, reason = "declares what engines promise")]
pub unsafe trait Transfer: Send {
    /// Posts the transfer at the first call, later queries its state. Engines that send the completion notification from here
    /// do so: a posted transfer must be polled until it is ready.
    ///
    /// A transfer that [wakes](CompletionMode::Wakes) wakes the waker of the latest call.
    ///
    /// # Errors
    ///
    /// The failure. Not polled again after `Ready`.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>>;

    /// How it is learned, after a [`poll`](Self::poll) that was pending, that another may get further. By default the transfer
    /// is [polled](CompletionMode::Polled).
    fn completion_mode(&self) -> CompletionMode {
        CompletionMode::Polled
    }

    /// Whether the engine may access the memory now.
    fn in_flight(&self) -> bool;

    /// Whether the engine got the transfer, so the peer's memory may have been accessed.
    fn was_posted(&self) -> bool;

    /// Makes a transfer that has ended with success one that is not posted: the next [`poll`](Self::poll) posts it again, between
    /// the same memories. `false`, as by default, if another must be prepared instead.
    fn repeat(&mut self) -> bool {
        false
    }

    /// Descriptor pairs handed to the engine, after neighbours were merged.
    fn descriptors(&self) -> usize;

    /// Whether the engine gets positions in [prepared lists](TransferSpec::listed), not the ranges. By default it is not.
    fn is_listed(&self) -> bool {
        false
    }

    /// The engine's estimate of its duration, before it was posted. `None` without an estimate, or without one just now.
    fn estimate(&self) -> Option<Duration> {
        None
    }
}
