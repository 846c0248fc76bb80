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
    /// The part used up before the operation began.
    spent: Duration,
    policy: PathPolicy,
    life_time: Option<Duration>,
    claims: Option<ClaimDemand>,
    readers: Option<NonZeroU32>,
    spin: Option<Duration>,
    checksum: bool,
    word: bool,
    trace_context: Option<TraceContext>,
    unmetered: bool,
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

    /// The allowed paths.
    pub fn path_policy(&self) -> PathPolicy {
        self.policy
    }

    /// The time in which initiators may begin to use an offer; by default [10 minutes](crate::OfferSpec::LIFE_TIME). The memory
    /// of an offer that was given up may stay allocated for that time. For passive operations in the native profile.
    #[must_use]
    pub fn life_time(mut self, life_time: Duration) -> Self {
        self.life_time = Some(life_time);
        self
    }

    /// The initiators that must claim a writable offer before they write; by default those of the connector's setting, or of
    /// the offer's [host](ClaimDemand::SameHost). An unclaimed offer that demands claims [everywhere](ClaimDemand::Everywhere)
    /// ends at once when it is given up; another one after each known agent on other hosts has reported that it is not writing,
    /// for an unreachable agent only once its sockets end. A claim between hosts costs a round trip of two messages before the
    /// write. For passive operations in the native profile.
    #[must_use]
    pub fn claims(mut self, claims: ClaimDemand) -> Self {
        self.claims = Some(claims);
        self
    }

    /// The number of readers of a readable offer; by default one. It completes when as many reads have. For passive operations
    /// in the native profile.
    #[must_use]
    pub fn readers(mut self, readers: NonZeroU32) -> Self {
        self.readers = Some(readers);
        self
    }

    /// The spin of the first poll of a wait for an active operation before it sleeps, instead of the connection's 50 us. It
    /// occupies the thread and its core, and does not count for the 5 % of an async thread's time that spins may take: for a
    /// dedicated thread, or an operation whose latency matters more than other tasks.
    #[must_use]
    pub fn spin(mut self, spin: Duration) -> Self {
        self.spin = Some(spin);
        self
    }

    /// Whether a readable offer carries the checksum of its bytes (XXH3), which initiators verify after the read, with or without this
    /// option; by default not. Of an initiator, it demands the verification: a read of an offer without a checksum, a write, and a
    /// transfer by ticket are errors then. [`PathReport::has_verified_checksum`](crate::PathReport::has_verified_checksum) is the
    /// result. A damaged read ends with [`Corrupted`](crate::TransportError::Corrupted). Both sides read all bytes again: up to 64
    /// KiB in the poll of the operation, more on a thread of the connection.
    ///
    /// For host memory on both sides, on every path. Initiators verify offers of the native profile from version 4; those of
    /// other forms, and of earlier releases, read without it. The checksum detects accidents, not forgeries: forged metadata
    /// carries a forged checksum.
    #[must_use]
    pub fn checksum(mut self, checksum: bool) -> Self {
        self.checksum = checksum;
        self
    }

    /// Whether a readable offer publishes a word of 8 bytes, by which initiators with this option check that it stands once their bytes
    /// have arrived; by default not. Of an initiator, it demands that check: a read of an offer that has ended meanwhile is
    /// [`Stale`](crate::TransportError::Stale) on every path, and a read that cannot be checked, and a write, are errors.
    ///
    /// Reads by ticket, and reads where the initiator maps the offer's slot, are checked anyway. Others take a further request of the
    /// engine's after that of the bytes, and then a message to the owner. For offers in the native profile from version 4.
    #[must_use]
    pub fn check_word(mut self, check: bool) -> Self {
        self.word = check;
        self
    }

    /// The operation's trace context; by default none for an offer, and the offer's for an initiator.
    ///
    /// An offer carries it to its initiators in the native profile from version 4, 33 bytes. It is the field `traceparent` of
    /// the operation's span, by which a subscriber can link it to the caller's.
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

    /// The trace context, if set.
    pub fn trace(&self) -> Option<TraceContext> {
        self.trace_context
    }

    /// Whether a readable offer carries a checksum.
    pub fn has_checksum(&self) -> bool {
        self.checksum
    }

    /// Whether the word of an offer is published, or checked.
    pub fn checks_word(&self) -> bool {
        self.word
    }

    /// The spin of the first poll, if set.
    pub(crate) fn spin_time(&self) -> Option<Duration> {
        self.spin
    }

    /// The life time of the offer, if set.
    pub fn offer_life_time(&self) -> Option<Duration> {
        self.life_time
    }

    /// The initiators that must claim, if set.
    pub fn claim_demand(&self) -> Option<ClaimDemand> {
        self.claims
    }

    /// The number of readers.
    pub fn reader_count(&self) -> NonZeroU32 {
        self.readers.unwrap_or(NonZeroU32::MIN)
    }

    /// Subtracts time that an earlier step has used.
    #[must_use]
    pub fn spending(mut self, time: Duration) -> Self {
        self.spent = self.spent.saturating_add(time);
        self
    }

    /// Ends the operation no later than after this time from now.
    #[must_use]
    pub fn within(mut self, left: Duration) -> Self {
        let most = self.spent.saturating_add(left);
        self.timeout = Some(self.timeout.map_or(most, |timeout| timeout.min(most)));
        self
    }

    /// Leaves the operation out of the metrics. For connectors: an operation of their own, such as a probe, is not a user's.
    #[must_use]
    pub fn unmetered(mut self) -> Self {
        self.unmetered = true;
        self
    }

    pub(crate) fn is_unmetered(&self) -> bool {
        self.unmetered
    }

    pub(crate) fn spent(&self) -> Duration {
        self.spent
    }

    /// The deadline after the begin, if any.
    pub fn deadline_after(&self) -> Option<Duration> {
        self.timeout
    }
}
