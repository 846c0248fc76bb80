//! Encoding of the word of an offer.

use serde::{Deserialize, Serialize};

use crate::{MetadataError, OfferWord as Checked};

#[derive(Serialize, Deserialize)]
pub(super) struct OfferWord {
    address: u64,
    value: u64,
}

/// The size of the encoding.
pub(super) const ENCODED_LEN: u64 = 8 + 8;

impl OfferWord {
    pub(super) const fn new(word: Checked) -> Self {
        Self { address: word.address(), value: word.value() }
    }

    /// Makes the value that the program uses; the offer checks whether it suits.
    pub(super) const fn validate(self) -> Result<Checked, MetadataError> {
        Checked::new(self.address, self.value)
    }
}
