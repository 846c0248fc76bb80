//! The count of memory that was leaked on purpose, because an engine might still write into it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

static LEASES: AtomicU64 = AtomicU64::new(0);
static REGIONS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

/// What this process leaked on purpose since it started.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Leaked {
    pub(crate) leases: u64,
    regions: u64,
    pub(crate) bytes: u64,
}

impl Leaked {
    /// Leases given up by [`LeaseSet::leak`](crate::LeaseSet::leak) or [`Leased::leak`](crate::Leased::leak).
    #[must_use]
    pub fn leases(&self) -> u64 {
        self.leases
    }

    /// Regions whose memory was kept from the allocator because an engine failed to deregister it.
    #[must_use]
    pub fn regions(&self) -> u64 {
        self.regions
    }

    /// Bytes covered by those leases, plus the size of those regions.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// What this process leaked on purpose since it started. All zero in a healthy process.
#[must_use]
pub fn leaked() -> Leaked {
    Leaked {
        leases: LEASES.load(Relaxed),
        regions: REGIONS.load(Relaxed),
        bytes: BYTES.load(Relaxed),
    }
}

pub(crate) fn count_lease(bytes: u64) {
    LEASES.fetch_add(1, Relaxed);
    BYTES.fetch_add(bytes, Relaxed);
}

pub(crate) fn count_region(bytes: u64) {
    REGIONS.fetch_add(1, Relaxed);
    BYTES.fetch_add(bytes, Relaxed);
}
