//! The progress of an export that is being made.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How far an export has come: give it to [`ExportOptions::progress`](crate::ExportOptions::progress), and look at a clone from
/// another task or thread. One shows one export.
#[derive(Clone, Debug, Default)]
pub struct ExportProgress(Arc<Bytes>);

#[derive(Debug, Default)]
struct Bytes {
    total: AtomicU64,
    populated: AtomicU64,
    registered: AtomicU64,
}

impl ExportProgress {
    /// Of an export that has not begun.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes of the export's layouts; 0 before it begins.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.total.load(Ordering::Acquire)
    }

    /// Bytes whose pages have been [allocated ahead](crate::ExportOptions::populate): at most the [total](Self::total).
    #[must_use]
    pub fn bytes_populated(&self) -> u64 {
        self.0.populated.load(Ordering::Acquire)
    }

    /// Bytes that are registered: the [total](Self::total) at the end.
    #[must_use]
    pub fn bytes_registered(&self) -> u64 {
        self.0.registered.load(Ordering::Acquire)
    }

    pub(super) fn begin(&self, total: u64) {
        self.0.populated.store(0, Ordering::Release);
        self.0.registered.store(0, Ordering::Release);
        self.0.total.store(total, Ordering::Release);
    }

    pub(super) fn populated(&self, bytes: u64) {
        self.0.populated.fetch_add(bytes, Ordering::AcqRel);
    }

    pub(super) fn registered(&self, bytes: u64) {
        self.0.registered.fetch_add(bytes, Ordering::AcqRel);
    }
}
