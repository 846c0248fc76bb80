//! The executions of operations, and the state of the peer's memory after them.

use std::task::{Context, Poll};
use std::time::Duration;

use crate::{CompletionMode, PathReport, Transfer, TransportError};

/// A running operation. Dropping it in flight has the consequences of [`Transfer`].
pub trait Execution: Send {
    /// Advances the operation, within microseconds or a bounded copy. The first poll posts.
    ///
    /// # Errors
    ///
    /// The failure. Not polled again after `Ready`.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>>;

    /// How it is learned, after a [`poll`](Self::poll) that was pending, that another may get further: of an execution that moves
    /// one transfer, as of that. By default it is [polled](CompletionMode::Polled).
    fn completion_mode(&self) -> CompletionMode {
        CompletionMode::Polled
    }

    /// The expected duration from its first poll to its end, if known; queried once, before that poll.
    /// Its waiter is woken shortly before, to poll closely. Only what wakes the driver at its end
    /// ([`Driver::waker`](crate::Driver::waker)) gains by an answer.
    fn expected(&self) -> Option<Duration> {
        None
    }

    /// Whether it learns of its end by a peer's notification, which the driver receives: then the driver polls closely when that is
    /// [expected](Self::expected), and not only its waiter.
    fn awaits_notification(&self) -> bool {
        false
    }

    /// The result is no longer wanted. Returns `true` if nothing is in flight, so that the memory may be
    /// given back now; on `false` it must be polled until it is ready.
    fn abandon(&mut self) -> bool;

    /// The path.
    fn report(&self) -> PathReport;

    /// Whether the first poll, which posts, takes microseconds however many bytes there are. As by default, engines may
    /// copy inside the post.
    fn posts_quickly(&self) -> bool {
        false
    }

    /// Whether its polls exclude those of other executions, as those of one engine do. Such are left to the driver while it is
    /// awake: one thread that polls all of them does more than several that find each other in the way.
    fn takes_turns(&self) -> bool {
        false
    }

    /// A number that grows with every step. The driver looks closely as long as it does; executions of one step, as by
    /// default, need none.
    fn steps(&self) -> u64 {
        0
    }

    /// Whether the other side may have learned that the operation is complete, although it fails here: it must not be
    /// tried by other means then. By default it never does, since this side completes the operation.
    fn target_told(&self) -> bool {
        false
    }

    /// What is left at the peer's memory if the execution ends now without success.
    fn peer_memory(&self) -> PeerMemory {
        PeerMemory::UNPROVEN
    }
}

/// State of a peer's memory after an execution. Ordered: of several executions the greatest counts.
///
/// The owner of the memory gives it back on this value, so only the parts of this workspace that know can say more than
/// [`UNPROVEN`](Self::UNPROVEN) without `unsafe`.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct PeerMemory(Access);

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Access {
    None,
    Over,
    Possible,
}

#[allow(unsafe_code, reason = "declares the caller's contract")]
impl PeerMemory {
    /// An access may be in flight, as after an engine's failure.
    pub const UNPROVEN: Self = Self(Access::Possible);
    pub(crate) const UNTOUCHED: Self = Self(Access::None);
    pub(crate) const QUIET: Self = Self(Access::Over);

    /// It was not accessed: the offer can be used again.
    ///
    /// # Safety
    ///
    /// No access of the execution to the peer's memory was begun.
    pub const unsafe fn untouched() -> Self {
        Self::UNTOUCHED
    }

    /// It was accessed, and no access is in flight.
    ///
    /// # Safety
    ///
    /// Every access of the execution to the peer's memory has ended.
    pub const unsafe fn quiet() -> Self {
        Self::QUIET
    }

    /// After a transfer that has not succeeded.
    pub fn after(transfer: &dyn Transfer) -> Self {
        if transfer.was_posted() { Self::UNPROVEN } else { Self::UNTOUCHED }
    }

    /// Whether it was not accessed.
    pub fn is_untouched(self) -> bool {
        self == Self::UNTOUCHED
    }

    /// Whether no access is in flight.
    pub fn is_quiet(self) -> bool {
        self <= Self::QUIET
    }
}
