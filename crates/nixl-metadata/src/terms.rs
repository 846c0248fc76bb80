//! The terms of an offer: its end, its readers, its claims.

use std::fmt;
use std::num::{NonZeroU32, NonZeroU64};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::{ClaimDemand, MetadataError, OperationKind};

/// Until when an offer may be used, by how many initiators, and which of them claim it first. Travels in the native
/// profile only, from version 4.
///
/// The token signs messages about the offer, so `Debug` does not show it.
///
/// ```
/// use std::num::NonZeroU64;
/// use std::time::{Duration, SystemTime};
///
/// use nixl_metadata::{ClaimDemand, OfferTerms};
///
/// # fn main() -> Result<(), nixl_metadata::MetadataError> {
/// let token = NonZeroU64::new(0x0123_4567_89ab_cdef).expect("a random number that is not 0");
/// let terms = OfferTerms::new(SystemTime::now() + Duration::from_secs(600), token)?
///     .with_claims(ClaimDemand::SameHost);
/// assert_eq!(terms.readers().get(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct OfferTerms {
    /// Whole milliseconds after the epoch.
    expires: SystemTime,
    unix_millis: NonZeroU64,
    made_unix_millis: u64,
    readers: NonZeroU32,
    claims: ClaimDemand,
    token: NonZeroU64,
}

impl OfferTerms {
    /// Terms that no clock is before.
    pub(crate) const EXPIRED: Self = Self {
        expires: UNIX_EPOCH,
        unix_millis: NonZeroU64::MIN,
        made_unix_millis: 0,
        readers: NonZeroU32::MIN,
        claims: ClaimDemand::Everywhere,
        token: NonZeroU64::MIN,
    };

    /// The terms of an offer that ends at `expires`, cut to whole milliseconds: one initiator, which claims the offer
    /// where its slot is mapped.
    ///
    /// `token` is random; only holders of the offer know it.
    ///
    /// # Errors
    ///
    /// [`MetadataError::BadExpiry`] if `expires` is not at least a millisecond after the Unix epoch, or not counted by
    /// 64 bits of milliseconds.
    pub fn new(expires: SystemTime, token: NonZeroU64) -> Result<Self, MetadataError> {
        let millis = expires.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        Self::at(u64::try_from(millis).map_err(|_| MetadataError::BadExpiry)?, token)
    }

    /// The same by the number on the wire.
    pub(crate) fn at(unix_millis: u64, token: NonZeroU64) -> Result<Self, MetadataError> {
        let expires = UNIX_EPOCH.checked_add(Duration::from_millis(unix_millis));
        let unix_millis = NonZeroU64::new(unix_millis).ok_or(MetadataError::BadExpiry)?;
        Ok(Self {
            expires: expires.ok_or(MetadataError::BadExpiry)?,
            unix_millis,
            made_unix_millis: 0,
            readers: NonZeroU32::MIN,
            claims: ClaimDemand::default(),
            token,
        })
    }

    /// Sets when the offer is made, by the owner's clock, in milliseconds after the Unix epoch. An initiator that the owner
    /// does not know since an earlier time claims the offer, even if it does not [demand](Self::with_claims) claims.
    #[must_use]
    pub const fn with_made_unix_millis(mut self, made: u64) -> Self {
        self.made_unix_millis = made;
        self
    }

    /// Sets how many initiators may use the offer, one each. More than one is for readable offers only:
    /// [`RdmaMetadata::with_terms`](crate::RdmaMetadata::with_terms) checks this.
    #[must_use]
    pub const fn with_readers(mut self, readers: NonZeroU32) -> Self {
        self.readers = readers;
        self
    }

    /// Sets which initiators have to claim the offer.
    #[must_use]
    pub const fn with_claims(mut self, claims: ClaimDemand) -> Self {
        self.claims = claims;
        self
    }

    /// When the offer ends, by the owner's clock.
    #[must_use]
    pub const fn expires(&self) -> SystemTime {
        self.expires
    }

    /// [`expires`](Self::expires) in milliseconds after the Unix epoch, as on the wire.
    #[must_use]
    pub const fn expires_unix_millis(&self) -> NonZeroU64 {
        self.unix_millis
    }

    /// When the offer was made, by the owner's clock, in milliseconds after the Unix epoch; 0 if that is not known.
    #[must_use]
    pub const fn made_unix_millis(&self) -> u64 {
        self.made_unix_millis
    }

    /// How many initiators may use the offer; 1 for a writable one.
    #[must_use]
    pub const fn readers(&self) -> NonZeroU32 {
        self.readers
    }

    /// Which initiators have to claim the offer.
    #[must_use]
    pub const fn claims(&self) -> ClaimDemand {
        self.claims
    }

    /// The secret that signs messages about the offer.
    #[must_use]
    pub const fn token(&self) -> NonZeroU64 {
        self.token
    }

    /// Refuses terms that do not suit what is offered.
    pub(crate) fn check(&self, kind: OperationKind) -> Result<(), MetadataError> {
        match kind {
            OperationKind::Write if self.readers != NonZeroU32::MIN => {
                Err(MetadataError::ReadersOfWritable { readers: self.readers.get() })
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for OfferTerms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OfferTerms")
            .field("expires_unix_millis", &self.unix_millis)
            .field("made_unix_millis", &self.made_unix_millis)
            .field("readers", &self.readers)
            .field("claims", &self.claims)
            .finish_non_exhaustive()
    }
}
