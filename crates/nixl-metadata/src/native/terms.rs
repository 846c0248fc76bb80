//! Encoding of the terms of an offer.

use std::num::{NonZeroU32, NonZeroU64};

use serde::{Deserialize, Serialize};

use crate::{ClaimDemand, MetadataError, OfferTerms};

#[derive(Serialize, Deserialize)]
pub(super) struct Terms {
    expires_unix_millis: u64,
    /// 0 if it is not known.
    made_unix_millis: u64,
    readers: u32,
    /// 0 where the slot is mapped, 1 on the same host, 2 everywhere.
    claims: u8,
    token: u64,
}

/// The size of the encoding.
pub(super) const ENCODED_LEN: u64 = 8 + 8 + 4 + 1 + 8;

impl Terms {
    pub(super) const fn new(terms: &OfferTerms) -> Self {
        Self {
            expires_unix_millis: terms.expires_unix_millis().get(),
            made_unix_millis: terms.made_unix_millis(),
            readers: terms.readers().get(),
            claims: terms.claims().to_wire(),
            token: terms.token().get(),
        }
    }

    /// Makes what the program uses; the offer checks whether it suits.
    pub(super) fn validate(self) -> Result<OfferTerms, MetadataError> {
        let token = NonZeroU64::new(self.token).ok_or(MetadataError::NoToken)?;
        let readers = NonZeroU32::new(self.readers).ok_or(MetadataError::NoReaders)?;
        let claims = ClaimDemand::from_wire(self.claims)?;
        Ok(OfferTerms::at(self.expires_unix_millis, token)?
            .with_made_unix_millis(self.made_unix_millis)
            .with_readers(readers)
            .with_claims(claims))
    }
}
