//! The word of a readable offer, by which initiators check through the engine that the offer stands.

use std::fmt;

use crate::{MetadataError, OperationKind};

/// Where the owner publishes a number of 8 bytes for as long as a readable offer stands, in its byte order. Travels in the native
/// profile only, from version 4.
///
/// An initiator that cannot map the offer's [slot](crate::SlotAddress) reads the word through the engine after its bytes have arrived. Any
/// other number than [`value`](Self::value) means that the offer has ended, and the bytes may be of the memory's next use. No number
/// is published twice. `Debug` does not show the address.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct OfferWord {
    address: u64,
    value: u64,
}

impl OfferWord {
    /// The bytes of the word.
    pub const BYTES: u64 = 8;

    /// A word at this address of the owner, in host memory, with this number.
    ///
    /// # Errors
    ///
    /// [`MetadataError::BadOfferWord`] if there is no word at that address.
    pub const fn new(address: u64, value: u64) -> Result<Self, MetadataError> {
        let is_word = address.is_multiple_of(Self::BYTES);
        if address == 0 || !is_word || address.checked_add(Self::BYTES).is_none() {
            return Err(MetadataError::BadOfferWord {
                reason: "the address is not that of a word",
            });
        }
        Ok(Self { address, value })
    }

    /// The address.
    #[must_use]
    pub const fn address(&self) -> u64 {
        self.address
    }

    /// The number of the offer.
    #[must_use]
    pub const fn value(&self) -> u64 {
        self.value
    }

    /// Refuses a word that does not suit the offer.
    pub(crate) const fn check(kind: OperationKind) -> Result<(), MetadataError> {
        match kind {
            OperationKind::Write => {
                Err(MetadataError::BadOfferWord { reason: "the offer is to be written" })
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for OfferWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OfferWord").finish_non_exhaustive()
    }
}
