//! Budgets for peers' memory that is pinned or mapped here.
#![allow(unsafe_code, reason = "keeps memory of peers pinned while GPUs use it")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nixl_ops::GaugeShare;

use crate::local::TransferBuffer;

/// Pinned memory of a peer. Field order: unpinned before it is given back.
pub(super) struct Pinned {
    pub(super) buffer: Box<dyn TransferBuffer>,
    pub(super) _allowance: PinPermit,
}

// SAFETY: as the buffer that it holds.
unsafe impl TransferBuffer for Pinned {
    fn address(&self) -> u64 {
        self.buffer.address()
    }
}

/// Mapped memory of a peer. Field order: unmapped before the address space is given back.
pub(super) struct Mapped {
    pub(super) buffer: Arc<dyn TransferBuffer>,
    pub(super) _allowance: PinPermit,
}

// SAFETY: as the buffer that it holds.
unsafe impl TransferBuffer for Mapped {
    fn address(&self) -> u64 {
        self.buffer.address()
    }
}

/// A part of the bytes that may be pinned or mapped, until dropped.
pub(super) struct PinPermit {
    taken: Arc<AtomicUsize>,
    bytes: usize,
    _gauge: GaugeShare,
}

impl PinPermit {
    /// `gauge` is the name of the gauge of what is taken.
    pub(super) fn take(
        gauge: &'static str,
        taken: &Arc<AtomicUsize>,
        bytes: usize,
        most: usize,
    ) -> Option<Self> {
        let fits = |now: usize| now.checked_add(bytes).filter(|sum| *sum <= most);
        taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits).ok()?;
        let gauge = GaugeShare::new(gauge, bytes as u64);
        Some(Self { taken: Arc::clone(taken), bytes, _gauge: gauge })
    }
}

impl Drop for PinPermit {
    fn drop(&mut self) {
        self.taken.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}
