//! The specification of a passive operation.

use std::sync::Arc;
use std::time::Duration;

use nixl_descriptor::{DescriptorList, Leased, Registration};
use nixl_metadata::RdmaMetadata;

use crate::{OfferSlot, OfferWord, WrittenBlocks};

/// Specification of a passive operation.
#[derive(Debug)]
pub struct OfferSpec {
    pub(crate) metadata: RdmaMetadata,
    pub(crate) descriptors: Arc<DescriptorList>,
    pub(crate) leased: Leased,
    pub(crate) registrations: Vec<Registration>,
    pub(crate) slot: Option<OfferSlot>,
    pub(crate) word: Option<OfferWord>,
    pub(crate) life_time: Duration,
    pub(crate) written: Option<WrittenBlocks>,
}

impl OfferSpec {
    /// The default time in which initiators may begin to use an offer.
    pub const LIFE_TIME: Duration = Duration::from_secs(600);

    /// An offer of `descriptors`, which `leased` covers, described by `metadata`.
    pub fn new(
        metadata: RdmaMetadata,
        descriptors: DescriptorList,
        leased: Leased,
        registrations: Vec<Registration>,
    ) -> Self {
        let life_time = Self::LIFE_TIME;
        let descriptors = Arc::new(descriptors);
        let (slot, word, written) = (None, None, None);
        Self { metadata, descriptors, leased, registrations, slot, word, life_time, written }
    }

    /// Adds a slot for the initiators on this host.
    #[must_use]
    pub fn with_slot(mut self, slot: Option<OfferSlot>) -> Self {
        self.slot = slot;
        self
    }

    /// Adds a word for initiators that check through the engine that the offer stands.
    #[must_use]
    pub fn with_word(mut self, word: Option<OfferWord>) -> Self {
        self.word = word;
        self
    }

    /// The blocks of an export that the offer grants: they are free once its memory is.
    #[must_use]
    pub fn of_blocks(mut self, written: Option<WrittenBlocks>) -> Self {
        self.written = written;
        self
    }

    /// Sets the life time.
    #[must_use]
    pub fn with_life_time(mut self, life_time: Duration) -> Self {
        self.life_time = life_time;
        self
    }
}
