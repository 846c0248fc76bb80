//! Metrics and log events of operations; docs/OBSERVABILITY.md lists them.

use std::fmt;
use std::sync::OnceLock;
use std::time::Duration;

use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram,
    gauge, histogram, with_recorder,
};

use crate::{
    Completion, Driver, EndedOffer, OperationError, PathReport, TransportError, contained,
};

/// A share of a gauge: added at creation, subtracted on drop.
///
/// Both go to the recorder installed at creation, so a gauge of a late recorder counts later begins only, and never falls below
/// zero.
pub struct GaugeShare {
    gauge: Gauge,
    amount: f64,
}

impl GaugeShare {
    /// Adds `amount` to the gauge of this name.
    #[must_use]
    pub fn new(name: &'static str, amount: u64) -> Self {
        Self::of(gauge!(name), amount)
    }

    #[allow(clippy::cast_precision_loss, reason = "gauges are floating-point numbers")]
    pub(crate) fn of(gauge: Gauge, amount: u64) -> Self {
        let amount = amount as f64;
        gauge.increment(amount);
        Self { gauge, amount }
    }
}

impl Drop for GaugeShare {
    fn drop(&mut self) {
        self.gauge.decrement(self.amount);
    }
}

impl fmt::Debug for GaugeShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("GaugeShare").field(&self.amount).finish()
    }
}

/// The identity of the installed recorder.
fn recorder_id() -> usize {
    with_recorder(|recorder| std::ptr::from_ref(recorder).cast::<()>().addr())
}

/// Handles of metrics, looked up once for each recorder: a look-up allocates and takes longer than the rest of an operation's
/// end. A look-up that was made before takes no lock.
pub struct PerRecorder<M> {
    /// Of the first two recorders: that of a process that has none, and the one that it installs.
    kept: [OnceLock<Kept<M>>; 2],
    describe: fn(),
}

struct Kept<M> {
    /// The recorder of the handles.
    recorder: usize,
    handles: M,
}

impl<M: Default> PerRecorder<M> {
    /// An empty cache. `describe` passes units and descriptions of the metrics to a recorder, before its first handle.
    #[must_use]
    pub fn new(describe: fn()) -> Self {
        Self { kept: [OnceLock::new(), OnceLock::new()], describe }
    }

    /// The handles of the installed recorder. Those of a third one, which only a thread can have, are looked up each time.
    pub fn with<R>(&self, used: impl FnOnce(&M) -> R) -> R {
        let recorder = recorder_id();
        let new = || {
            (self.describe)();
            Kept { recorder, handles: M::default() }
        };
        for kept in &self.kept {
            let kept = kept.get_or_init(new);
            if kept.recorder == recorder {
                return used(&kept.handles);
            }
        }
        used(&new().handles)
    }
}

/// For the metrics of this crate.
impl<M: Default> Default for PerRecorder<M> {
    fn default() -> Self {
        Self::new(describe)
    }
}

impl<M> fmt::Debug for PerRecorder<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PerRecorder").finish_non_exhaustive()
    }
}

/// Handles by the values of their labels, of which there are few: a list that only grows, and is read without a lock.
#[derive(Debug)]
pub struct ByLabels<L, H>(OnceLock<Box<Node<L, H>>>);

#[derive(Debug)]
struct Node<L, H> {
    labels: L,
    handle: H,
    next: ByLabels<L, H>,
}

impl<L, H> Default for ByLabels<L, H> {
    fn default() -> Self {
        Self(OnceLock::new())
    }
}

impl<L: Copy + PartialEq, H> ByLabels<L, H> {
    /// The handles of these labels, which `look_up` gets from the recorder the first time.
    pub fn get(&self, labels: L, look_up: impl Fn(L) -> H) -> &H {
        let mut at = self;
        loop {
            let made = || Box::new(Node { labels, handle: look_up(labels), next: Self::default() });
            // Another thread may have made it, of other labels.
            let node = at.0.get_or_init(made);
            if node.labels == labels {
                return &node.handle;
            }
            at = &node.next;
        }
    }
}

/// The metrics of operations that end.
#[derive(Debug, Default)]
pub(crate) struct EndMetrics(PerRecorder<Ends>);

#[derive(Default)]
struct Ends {
    completed: ByLabels<(&'static str, &'static str), PathMetrics>,
    failed: ByLabels<(&'static str, &'static str, &'static str), Counter>,
}

impl Ends {
    fn failed(&self, kind: &'static str, transport: &'static str, cause: &'static str) {
        let failed = self.failed.get((kind, transport, cause), |_| {
            let labels = [("kind", kind), ("transport", transport), ("outcome", cause)];
            counter!("nixl_requests_total", &labels)
        });
        failed.increment(1);
    }
}

struct PathMetrics {
    requests: Counter,
    bytes: Counter,
    duration: Histogram,
}

impl EndMetrics {
    /// Counts a completed operation, and logs it at `DEBUG`.
    pub(crate) fn completed(&self, completion: &Completion) {
        let Some(report) = completion.path() else { return };
        let (bytes, duration) = (completion.bytes(), completion.elapsed());
        let labels = (report.kind().class(), transport_label(report.transport()));
        self.0.with(|ends| {
            let path = ends.completed.get(labels, PathMetrics::new);
            path.requests.increment(1);
            path.bytes.increment(bytes);
            path.duration.record(duration.as_secs_f64());
        });
        tracing::debug!(
            kind = report.kind().class(),
            transport = report.transport(),
            outcome = "ok",
            medium = report.medium().map(tracing::field::display),
            bytes,
            descriptors = report.descriptors(),
            chunks = report.chunks(),
            rails = report.rails(),
            elapsed_us = micros(duration),
            degraded = report.degraded(),
            rejected = report.rejected().len(),
            "operation completed"
        );
    }

    fn unbegun(&self, cause: &'static str) {
        // A recorder may panic.
        let _ = contained("metrics", || self.0.with(|ends| ends.failed("none", "other", cause)));
    }

    /// Counts a failed operation, and logs it: at `DEBUG` if its caller gave it up, else at `WARN`. `report` is of its path, if
    /// known.
    pub(crate) fn failed(
        &self,
        report: Option<&PathReport>,
        duration: Duration,
        error: &OperationError,
    ) {
        let kind = report.map_or("none", |report| report.kind().class());
        let transport = report.map_or("other", |report| transport_label(report.transport()));
        let cause = error.cause();
        self.0.with(|ends| ends.failed(kind, transport, cause));
        let elapsed_us = micros(duration);
        if matches!(error, OperationError::Cancelled) {
            tracing::debug!(kind, transport, outcome = cause, elapsed_us, "operation cancelled");
        } else {
            tracing::warn!(kind, transport, outcome = cause, elapsed_us, %error, "operation failed");
        }
    }
}

impl Driver {
    /// Counts an initiator's operation that failed before it reached the driver: its lists did not pair, its peer was not
    /// reached, or no path was found. The caller gets the error.
    pub fn note_unbegun(&self, cause: &'static str) {
        self.shared().metrics.unbegun(cause);
    }
}

impl PathMetrics {
    fn new((kind, transport): (&'static str, &'static str)) -> Self {
        let labels = [("kind", kind), ("transport", transport), ("outcome", "ok")];
        Self {
            requests: counter!("nixl_requests_total", &labels),
            bytes: counter!("nixl_bytes_total", &labels[..2]),
            duration: histogram!("nixl_request_duration_seconds", &labels[..2]),
        }
    }
}

pub(crate) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// The label of metrics for a transport's name, of a closed set, so names create no new series.
#[must_use]
pub fn transport_label(transport: &str) -> &'static str {
    let known = ["nixl", "memcpy", "cuda"];
    known.into_iter().find(|name| transport.starts_with(name)).unwrap_or("other")
}

/// Passes the units and descriptions of this crate's metrics to the installed recorder.
fn describe() {
    use Unit::{Bytes, Count, Seconds};
    describe_counter!("nixl_requests_total", Count, "Operations of initiators that ended");
    describe_counter!("nixl_bytes_total", Bytes, "Bytes of operations that completed");
    describe_histogram!(
        "nixl_request_duration_seconds",
        Seconds,
        "From the begin of an operation to its completion"
    );
    describe_gauge!("nixl_requests_in_flight", Count, "Operations whose engine is not quiet");
    describe_gauge!("nixl_offers", Count, "Offers that a peer may still use");
    describe_counter!("nixl_offers_ended_total", Count, "Offers that ended");
    describe_counter!("nixl_offer_bytes_total", Bytes, "Bytes of offers that completed");
    describe_histogram!(
        "nixl_offer_duration_seconds",
        Seconds,
        "From the making of an offer to its completion"
    );
    describe_gauge!("nixl_held_offers", Count, "Offers given up that a peer may still use");
    describe_gauge!("nixl_held_bytes", Bytes, "Bytes of offers given up that a peer may still use");
    describe_counter!(
        "nixl_second_completions_total",
        Count,
        "Completions of offers that had ended"
    );
    describe_gauge!("nixl_overdue_operations", Count, "Operations past their drain time");
    describe_gauge!("nixl_overdue_bytes", Bytes, "Bytes of operations past their drain time");
    describe_counter!(
        "nixl_unexpected_notifications_total",
        Count,
        "Notifications for no operation"
    );
    describe_counter!(
        "nixl_unexpected_notification_bytes_total",
        Bytes,
        "Bytes of notifications for no operation"
    );
    describe_counter!(
        "nixl_unreadable_notifications_total",
        Count,
        "Notifications whose sender the engine cannot name"
    );
    describe_counter!(
        "nixl_dropped_export_notifications_total",
        Count,
        "Notifications of importers that were dropped"
    );
    describe_gauge!("nixl_peers", Count, "Peers that the engines are connected to");
    describe_gauge!("nixl_grants", Count, "Grants that have not ended");
    describe_gauge!("nixl_granted_blocks", Count, "Blocks of grants that have not ended");
    describe_counter!("nixl_grants_ended_total", Count, "Grants for reading that ended");
}

impl OperationError {
    /// The cause, one word of a closed set, as a label of metrics.
    #[must_use]
    pub fn cause(&self) -> &'static str {
        match self {
            Self::Cancelled => "cancelled",
            Self::TimedOut { .. } => "timed-out",
            Self::QueueFull { .. } => "queue-full",
            Self::Transport(error) => error.cause(),
            _ => "failed",
        }
    }
}

impl TransportError {
    /// The cause, one word of a closed set, as a label of metrics.
    #[must_use]
    pub fn cause(&self) -> &'static str {
        match self {
            Self::BadMetadata { .. }
            | Self::OutdatedMetadata { .. }
            | Self::OwnIdentity { .. }
            | Self::IdentityConflict { .. }
            | Self::NotRegistered { .. } => "bad-metadata",
            Self::UnknownPeer { .. } | Self::PeerGone { .. } => "peer-gone",
            Self::PeerBusy { .. } | Self::Reconnected { .. } => "peer-busy",
            Self::Stale => "stale",
            Self::NotReady { .. } => "not-ready",
            Self::NotGranted => "not-granted",
            Self::OfferEnded { why: EndedOffer::OwnerGone } => "peer-gone",
            Self::OfferEnded { .. } => "offer-ended",
            Self::NotificationFailed { .. } => "notification-failed",
            Self::NoPath { .. } => "no-path",
            Self::Closed => "closed",
            _ => "failed",
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::*;

    #[test]
    fn each_label_is_looked_up_once_however_many_threads_ask() {
        let (handles, look_ups) = (ByLabels::default(), AtomicUsize::new(0));
        let look_up = |label: usize| {
            look_ups.fetch_add(1, Ordering::Relaxed);
            label * 3
        };
        thread::scope(|scope| {
            for start in 0..4 {
                let (handles, look_up) = (&handles, &look_up);
                scope.spawn(move || {
                    for at in 0..160 {
                        let label = (start * 5 + at) % 16;
                        assert_eq!(*handles.get(label, look_up), label * 3);
                    }
                });
            }
        });
        assert_eq!(look_ups.into_inner(), 16);
    }
}
