//! Counts of memory that is held for peers.

/// Memory that is held for peers.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Held {
    pub(crate) offers: usize,
    pub(crate) bytes: u64,
}

impl Held {
    pub(super) fn add(&mut self, bytes: u64) {
        self.offers += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Offers that hold it.
    #[must_use]
    pub fn offers(&self) -> usize {
        self.offers
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// Counts of a table of passive operations.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PassiveStats {
    pub(crate) quarantined: Held,
    pub(crate) quarantined_without_terms: Held,
    pub(crate) retained: Held,
    pub(crate) second_completions: u64,
}
