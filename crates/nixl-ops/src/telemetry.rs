//! Metrics and log events of operations; docs/OBSERVABILITY.md lists them.

use std::fmt;
use std::time::Duration;

use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram,
    gauge, histogram, with_recorder,
};
use nixl_metadata::OperationKind;

use crate::sync::{Mutex, lock};
use crate::{Completion, OperationError, PathReport, TransportError};

/// An amount in a gauge: added when it is made, and taken back when it is dropped.
///
/// Both go to the recorder that was installed when it was made, so that a gauge of a recorder that is installed late counts what
/// began since, and never falls below zero.
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

/// A number that tells the recorder that is installed from others.
#[must_use]
pub fn recorder_id() -> usize {
    with_recorder(|recorder| std::ptr::from_ref(recorder).cast::<()>().addr())
}

/// The metrics of operations that complete. They are looked up once for each recorder, since that takes longer than all else that
/// is done at the end of an operation.
#[derive(Default)]
pub(crate) struct EndMetrics(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    /// Of which recorder they are.
    recorder: usize,
    paths: Vec<PathMetrics>,
}

struct PathMetrics {
    kind: &'static str,
    transport: &'static str,
    requests: Counter,
    bytes: Counter,
    duration: Histogram,
}

impl EndMetrics {
    /// Counts an operation that has completed, and tells `tracing` at `DEBUG`.
    pub(crate) fn completed(&self, completion: &Completion) {
        let Some(report) = completion.path() else { return };
        let (bytes, duration) = (completion.bytes(), completion.elapsed());
        self.with(report.kind().class(), transport_label(report.transport()), |path| {
            path.requests.increment(1);
            path.bytes.increment(bytes);
            path.duration.record(duration.as_secs_f64());
        });
        tracing::debug!(
            kind = report.kind().class(),
            transport = report.transport(),
            outcome = "ok",
            carrier = report.medium().map(tracing::field::display),
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

    /// Counts an operation that has failed, and tells `tracing`: at `DEBUG` if its caller gave it up, else at `WARN`. `report` is
    /// of the path that it took, if that is known.
    pub(crate) fn failed(report: Option<&PathReport>, duration: Duration, error: &OperationError) {
        let kind = report.map_or("none", |report| report.kind().class());
        let transport = report.map_or("other", |report| transport_label(report.transport()));
        let cause = error.cause();
        let labels = [("kind", kind), ("transport", transport), ("outcome", cause)];
        counter!("nixl_requests_total", &labels).increment(1);
        let elapsed_us = micros(duration);
        if matches!(error, OperationError::Cancelled) {
            tracing::debug!(kind, transport, outcome = cause, elapsed_us, "operation cancelled");
        } else {
            tracing::warn!(kind, transport, outcome = cause, elapsed_us, %error, "operation failed");
        }
    }

    fn with(&self, kind: &'static str, transport: &'static str, note: impl FnOnce(&PathMetrics)) {
        let recorder = recorder_id();
        let mut kept = lock(&self.0);
        if kept.recorder != recorder {
            describe();
            *kept = Kept { recorder, paths: Vec::new() };
        }
        match kept.paths.iter().find(|path| path.kind == kind && path.transport == transport) {
            Some(path) => note(path),
            None => {
                let path = PathMetrics::new(kind, transport);
                note(&path);
                kept.paths.push(path);
            }
        }
    }
}

impl fmt::Debug for EndMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndMetrics").finish_non_exhaustive()
    }
}

impl PathMetrics {
    fn new(kind: &'static str, transport: &'static str) -> Self {
        let labels = [("kind", kind), ("transport", transport), ("outcome", "ok")];
        Self {
            kind,
            transport,
            requests: counter!("nixl_requests_total", &labels),
            bytes: counter!("nixl_bytes_total", &labels[..2]),
            duration: histogram!("nixl_request_duration_seconds", &labels[..2]),
        }
    }
}

/// Counts an offer that has ended, and tells `tracing` at `DEBUG`.
pub(crate) fn note_offer(
    kind: OperationKind,
    bytes: u64,
    duration: Duration,
    outcome: Result<(), &OperationError>,
) {
    let kind = match kind {
        OperationKind::Read => "read",
        OperationKind::Write => "write",
    };
    let cause = outcome.err().map_or("ok", OperationError::cause);
    let labels = [("kind", kind), ("outcome", cause)];
    counter!("nixl_offers_ended_total", &labels).increment(1);
    if outcome.is_ok() {
        counter!("nixl_offer_bytes_total", &labels[..1]).increment(bytes);
        histogram!("nixl_offer_duration_seconds", &labels[..1]).record(duration.as_secs_f64());
    }
    tracing::debug!(kind, outcome = cause, bytes, elapsed_us = micros(duration), "offer ended");
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn transport_label(transport: &str) -> &'static str {
    let known = ["nixl", "memcpy", "cuda"];
    known.into_iter().find(|name| transport.starts_with(name)).unwrap_or("other")
}

/// Tells the recorder that is installed the units and meanings of the metrics of this crate.
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
    describe_gauge!("nixl_peers", Count, "Peers that the engines are connected to");
}

impl OperationError {
    /// The cause in one word of a closed set, for the labels of metrics.
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
    /// The cause in one word of a closed set, for the labels of metrics.
    #[must_use]
    pub fn cause(&self) -> &'static str {
        match self {
            Self::BadMetadata { .. }
            | Self::OwnIdentity { .. }
            | Self::IdentityConflict { .. }
            | Self::NotRegistered { .. } => "bad-metadata",
            Self::UnknownPeer { .. } | Self::PeerGone { .. } => "peer-gone",
            Self::PeerBusy { .. } => "peer-busy",
            Self::NotificationFailed { .. } => "notification-failed",
            Self::NoPath { .. } => "no-path",
            Self::Closed => "closed",
            _ => "failed",
        }
    }
}
