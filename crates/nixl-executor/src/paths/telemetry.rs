//! Counters and events: what was asked for, apart from what was tried.
//!
//! | counter | labels | counts |
//! |---|---|---|
//! | `nixl_requests_total` | `kind`, `transport`, `outcome` | operations that ended |
//! | `nixl_attempts_total` | `kind`, `transport`, `outcome` | paths that were tried for them |
//! | `nixl_bytes_total` | `kind`, `transport` | bytes of operations that completed |
//!
//! Labels are from closed sets: [`PathKind::class`] or `none`; `nixl`, `memcpy`, `cuda` or `other`; `ok` or a word for
//! the error.

use metrics::counter;
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
    let kind = report.map_or("none", |report| report.kind.class());
    let transport = label(report.map_or("", |report| &report.transport));
    let labels = [("kind", kind), ("transport", transport), ("outcome", outcome)];
    counter!("nixl_requests_total", &labels).increment(1);
    match (report, result) {
        (Some(report), Ok(())) => {
            counter!("nixl_bytes_total", &labels[..2]).increment(report.bytes);
            tracing::debug!(
                kind,
                transport = %report.transport,
                outcome,
                carrier = report.carrier.map(tracing::field::display),
                bytes = report.bytes,
                descriptors = report.descriptors,
                chunks = report.chunks,
                rails = report.rails,
                elapsed_us = micros(report.elapsed),
                degraded = report.degraded.as_deref(),
                rejected = report.rejected.len(),
                "operation completed"
            );
        }
        (report, Ok(())) => {
            tracing::debug!(kind, outcome, has_report = report.is_some(), "operation completed")
        }
        (report, Err(error)) => tracing::warn!(
            kind,
            transport,
            outcome,
            bytes = report.map(|report| report.bytes),
            %error,
            "operation failed"
        ),
    }
}

fn micros(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn label(transport: &str) -> &'static str {
    match transport.split('/').next() {
        Some("nixl") => "nixl",
        Some("memcpy") => "memcpy",
        Some("cuda") => "cuda",
        _ => "other",
    }
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
