//! Options of one operation.

use std::num::NonZeroU32;
use std::time::Duration;

use nixl_metadata::{ClaimDemand, RdmaMetadata, TraceContext};

use crate::PathPolicy;

/// Options of one operation.
///
/// ```
/// use std::time::Duration;
/// use nixl_ops::OperationOptions;
///
/// let options = OperationOptions::new().timeout(Duration::from_secs(5));
/// assert_eq!(options.deadline_after(), Some(Duration::from_secs(5)));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct OperationOptions {
    timeout: Option<Duration>,
    /// What of it has gone before the operation began.
    spent: Duration,
    policy: PathPolicy,
    life_time: Option<Duration>,
    claims: Option<ClaimDemand>,
    readers: Option<NonZeroU32>,
    spin: Option<Duration>,
    checksum: bool,
    trace_context: Option<TraceContext>,
}

impl OperationOptions {
    /// No deadline.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends the operation with [`TimedOut`](crate::OperationError::TimedOut) if it has not completed this
    /// long after it began.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// The allowed paths. For active operations only: the side that begins the transfer chooses.
    #[must_use]
    pub fn policy(mut self, policy: PathPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Which ways the bytes may go.
    pub fn path_policy(&self) -> PathPolicy {
        self.policy
    }

    /// How long initiators may begin to use an offer; by default [10 minutes](crate::OfferSpec::LIFE_TIME). The memory of an
    /// offer that is given up may stay allocated for so long. For passive operations in the native profile.
    #[must_use]
    pub fn life_time(mut self, life_time: Duration) -> Self {
        self.life_time = Some(life_time);
        self
    }

    /// Which initiators must claim a writable offer before they write; by default as the connector is configured, those of the
    /// offer's [host](ClaimDemand::SameHost). An unclaimed offer that demands claims [everywhere](ClaimDemand::Everywhere) ends
    /// at once when it is given up; another one once each agent that the owner knows on other hosts has said that it is not
    /// writing, which takes one that is cut off as long as its sockets. A claim between hosts costs a round trip of two messages
    /// before the write. For passive operations in the native profile.
    #[must_use]
    pub fn claims(mut self, claims: ClaimDemand) -> Self {
        self.claims = Some(claims);
        self
    }

    /// How many peers read a readable offer; by default one. It completes when as many reads have. For passive operations
    /// in the native profile.
    #[must_use]
    pub fn readers(mut self, readers: NonZeroU32) -> Self {
        self.readers = Some(readers);
        self
    }

    /// How long the first poll of a wait looks for the end of an active operation before it goes to sleep, in place of the
    /// connection's 50 us. The look holds the thread and its core that long, and is not part of the 5 % of an async thread's time that
    /// looks may take otherwise: for a thread of its own, or an operation whose end saves more than its neighbours lose.
    #[must_use]
    pub fn spin(mut self, spin: Duration) -> Self {
        self.spin = Some(spin);
        self
    }

    /// Whether a readable offer carries the checksum of its bytes (XXH3), which initiators verify when they have read them; by
    /// default not. A read that arrives damaged ends with [`Corrupted`](crate::TransportError::Corrupted). Both sides read all
    /// bytes again: up to 64 KiB where the operation is polled, more on a thread of the connection's.
    ///
    /// For host memory at both ends, on every path. Initiators verify offers of the native profile from version 4; those of
    /// other forms, and of earlier releases, read without it. The checksum finds accidents, not forgeries: metadata that is
    /// forged carries a checksum that is forged.
    #[must_use]
    pub fn checksum(mut self, checksum: bool) -> Self {
        self.checksum = checksum;
        self
    }

    /// The trace that the operation belongs to; by default none for an offer, and that of the offer for an initiator.
    ///
    /// An offer carries it to its initiators in the native profile from version 4, 33 bytes. It is the field `traceparent` of the
    /// operation's span, by which a subscriber can tie it to the caller's.
    #[must_use]
    pub fn trace_context(mut self, context: TraceContext) -> Self {
        self.trace_context = Some(context);
        self
    }

    /// These options, with the trace of an offer unless another was set.
    #[must_use]
    pub fn within_trace_of(mut self, remote: &RdmaMetadata) -> Self {
        self.trace_context = self.trace_context.or(remote.trace_context());
        self
    }

    /// The trace that the operation belongs to, if it was set.
    pub fn trace(&self) -> Option<TraceContext> {
        self.trace_context
    }

    /// Whether a readable offer carries a checksum.
    pub fn has_checksum(&self) -> bool {
        self.checksum
    }

    /// How long the first poll looks, if it was set.
    pub fn spin_time(&self) -> Option<Duration> {
        self.spin
    }

    /// How long initiators may begin, if it was set.
    pub fn offer_life_time(&self) -> Option<Duration> {
        self.life_time
    }

    /// Which initiators must claim, if it was set.
    pub fn claim_demand(&self) -> Option<ClaimDemand> {
        self.claims
    }

    /// How many peers read.
    pub fn reader_count(&self) -> NonZeroU32 {
        self.readers.unwrap_or(NonZeroU32::MIN)
    }

    /// Notes that some of the time has gone, in a step before the one that these options are for.
    #[must_use]
    pub fn spending(mut self, time: Duration) -> Self {
        self.spent = self.spent.saturating_add(time);
        self
    }

    pub(crate) fn spent(&self) -> Duration {
        self.spent
    }

    /// The time the operation is given, if it is bounded.
    pub fn deadline_after(&self) -> Option<Duration> {
        self.timeout
    }
}
