//! The specification of a passive operation.

use std::sync::Arc;
use std::time::Duration;

use nixl_descriptor::{DescriptorList, Leased, Registration};
use nixl_metadata::RdmaMetadata;

use crate::OfferSlot;

/// What a passive operation is made of.
#[derive(Debug)]
#[non_exhaustive]
pub struct OfferSpec {
    /// What the peer will get. Its key is the one the peer's notification must carry.
    pub metadata: RdmaMetadata,
    /// The memory offered.
    pub descriptors: Arc<DescriptorList>,
    /// The proof that it is leased: for reading by a readable operation, for writing by a writable one.
    pub leased: Leased,
    /// Its registrations.
    pub registrations: Vec<Registration>,
    /// The slot that the metadata names, if it names one.
    pub slot: Option<OfferSlot>,
    /// How long initiators may begin to use the offer.
    pub life_time: Duration,
}

impl OfferSpec {
    /// How long initiators may begin to use an offer, unless its owner says otherwise.
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
        Self { metadata, descriptors, leased, registrations, slot: None, life_time }
    }

    /// The same offer with a slot for the initiators of this host.
    #[must_use]
    pub fn with_slot(mut self, slot: Option<OfferSlot>) -> Self {
        self.slot = slot;
        self
    }

    /// The same offer with this life time.
    #[must_use]
    pub fn with_life_time(mut self, life_time: Duration) -> Self {
        self.life_time = life_time;
        self
    }
}
