//! Counters and events of operations and attempts.
//!
//! | counter | labels | counts |
//! |---|---|---|
//! | `nixl_requests_total` | `kind`, `transport`, `outcome` | operations that ended |
//! | `nixl_attempts_total` | `kind`, `transport`, `outcome` | paths that were tried for them |
//! | `nixl_bytes_total` | `kind`, `transport` | bytes of operations that completed |
//!
//! Labels are from closed sets: [`PathKind::class`] or `none`; `nixl`, `memcpy`, `cuda` or `other`; `ok` or a word for
//! the error.

use std::sync::{Mutex, PoisonError};

use metrics::{Counter, counter};
use nixl_ops::{OperationError, PathKind, PathReport, TransportError};

/// Counts a path that was tried, when it is known how that went.
pub fn note_attempt(kind: PathKind, transport: &str, result: Result<(), &TransportError>) {
    let outcome = result.err().map_or("ok", of_transport);
    let labels = [("kind", kind.class()), ("transport", label(transport)), ("outcome", outcome)];
    counter!("nixl_attempts_total", &labels).increment(1);
}

/// Counts an operation that ended, and tells `tracing`: at level `DEBUG` if it completed, at `WARN` if not. `report` is
/// none if it never got a path.
pub fn note_end(report: Option<&PathReport>, result: Result<(), &OperationError>) {
    let outcome = result.err().map_or("ok", of_operation);
    let kind = report.map_or("none", |report| report.kind().class());
    let transport = label(report.map_or("", |report| report.transport()));
    let labels = [("kind", kind), ("transport", transport), ("outcome", outcome)];
    counter!("nixl_requests_total", &labels).increment(1);
    match (report, result) {
        (Some(report), Ok(())) => {
            counter!("nixl_bytes_total", &labels[..2]).increment(report.bytes());
            tell_end(report);
        }
        (report, Ok(())) => {
            tracing::debug!(kind, outcome, has_report = report.is_some(), "operation completed")
        }
        (report, Err(error)) => tracing::warn!(
            kind,
            transport,
            outcome,
            bytes = report.map(|report| report.bytes()),
            %error,
            "operation failed"
        ),
    }
}

/// Tells `tracing` of an operation that completed, at level `DEBUG`.
pub(crate) fn tell_end(report: &PathReport) {
    tracing::debug!(
        kind = report.kind().class(),
        transport = %report.transport(),
        outcome = "ok",
        carrier = report.medium().map(tracing::field::display),
        bytes = report.bytes(),
        descriptors = report.descriptors(),
        chunks = report.chunks(),
        rails = report.rails(),
        elapsed_us = micros(report.elapsed()),
        degraded = report.degraded(),
        rejected = report.rejected().len(),
        "operation completed"
    );
}

/// The counters of operations that go well. A connection asks its recorder for each once, since that takes longer than all
/// else that is done at the end of an operation: a recorder must be installed before.
#[derive(Default)]
pub(crate) struct Successes(Mutex<Vec<Success>>);

struct Success {
    kind: &'static str,
    transport: &'static str,
    attempts: Counter,
    requests: Counter,
    bytes: Counter,
}

impl Successes {
    /// As [`note_attempt`].
    pub(crate) fn attempt(&self, kind: PathKind, transport: &str) {
        self.with(kind, transport, |success| success.attempts.increment(1));
    }

    /// As [`note_end`], but that it tells `tracing` nothing.
    pub(crate) fn end(&self, kind: PathKind, transport: &str, bytes: u64) {
        self.with(kind, transport, |success| {
            success.requests.increment(1);
            success.bytes.increment(bytes);
        });
    }

    fn with(&self, kind: PathKind, transport: &str, count: impl FnOnce(&Success)) {
        let (kind, transport) = (kind.class(), label(transport));
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match all.iter().find(|s| s.kind == kind && s.transport == transport) {
            Some(success) => count(success),
            None => {
                let success = Success::new(kind, transport);
                count(&success);
                all.push(success);
            }
        }
    }
}

impl Success {
    fn new(kind: &'static str, transport: &'static str) -> Self {
        let labels = [("kind", kind), ("transport", transport), ("outcome", "ok")];
        Self {
            kind,
            transport,
            attempts: counter!("nixl_attempts_total", &labels),
            requests: counter!("nixl_requests_total", &labels),
            bytes: counter!("nixl_bytes_total", &labels[..2]),
        }
    }
}

fn micros(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn label(transport: &str) -> &'static str {
    let known = ["nixl", "memcpy", "cuda"];
    known.into_iter().find(|name| transport.starts_with(name)).unwrap_or("other")
}

fn of_operation(error: &OperationError) -> &'static str {
    match error {
        OperationError::Cancelled => "cancelled",
        OperationError::TimedOut { .. } => "timed-out",
        OperationError::QueueFull { .. } => "queue-full",
        OperationError::Transport(error) => of_transport(error),
        _ => "failed",
    }
}

fn of_transport(error: &TransportError) -> &'static str {
    match error {
        TransportError::BadMetadata { .. }
        | TransportError::OwnIdentity { .. }
        | TransportError::IdentityConflict { .. }
        | TransportError::NotRegistered { .. } => "bad-metadata",
        TransportError::UnknownPeer { .. } | TransportError::PeerGone { .. } => "peer-gone",
        TransportError::PeerBusy { .. } => "peer-busy",
        TransportError::NotificationFailed { .. } => "notification-failed",
        TransportError::NoPath { .. } => "no-path",
        TransportError::Closed => "closed",
        _ => "failed",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Arc, Mutex};

    use metrics::{
        Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit, with_local_recorder,
    };

    use super::*;

    /// Keeps the counters, by name and labels.
    #[derive(Default)]
    struct Counters(Mutex<BTreeMap<String, Arc<AtomicU64>>>);

    impl Counters {
        fn take(self) -> Vec<(String, u64)> {
            let all = self.0.into_inner().unwrap();
            all.into_iter().map(|(name, count)| (name, count.load(Ordering::Relaxed))).collect()
        }
    }

    impl Recorder for Counters {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
            let labels: Vec<_> = key.labels().map(|label| label.value()).collect();
            let name = format!("{} {}", key.name(), labels.join(" "));
            Counter::from_arc(Arc::clone(self.0.lock().unwrap().entry(name).or_default()))
        }

        fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
            Gauge::noop()
        }

        fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::noop()
        }
    }

    #[test]
    fn requests_are_counted_apart_from_attempts() {
        let counters = Counters::default();
        with_local_recorder(&counters, || {
            let gone = TransportError::PeerGone { name: "a peer's own words".to_owned() };
            note_attempt(PathKind::CudaIpc, "cuda", Err(&gone));
            note_attempt(PathKind::StagedBothSides, "nixl/UCX", Ok(()));
            note_end(Some(&PathReport::new(PathKind::StagedBothSides, "nixl/UCX", 70, 1)), Ok(()));
            let local = PathReport::new(PathKind::Local("kernel"), "any", 5, 1);
            note_end(Some(&local), Err(&OperationError::Cancelled));
            note_end(None, Err(&OperationError::Transport(gone)));
            let successes = Successes::default();
            successes.attempt(PathKind::StagedBothSides, "nixl/UCX");
            successes.end(PathKind::StagedBothSides, "nixl/UCX", 30);
            successes.end(PathKind::CudaIpc, "copies", 1);
        });
        let expected = [
            ("nixl_attempts_total cuda-ipc cuda peer-gone", 1),
            ("nixl_attempts_total cuda-ipc other ok", 0),
            ("nixl_attempts_total staged-both-sides nixl ok", 2),
            ("nixl_bytes_total cuda-ipc other", 1),
            ("nixl_bytes_total staged-both-sides nixl", 100),
            ("nixl_requests_total cuda-ipc other ok", 1),
            ("nixl_requests_total local other cancelled", 1),
            ("nixl_requests_total none other peer-gone", 1),
            ("nixl_requests_total staged-both-sides nixl ok", 2),
        ];
        let expected = expected.map(|(name, count)| (name.to_owned(), count));
        assert_eq!(counters.take(), expected);
    }
}
