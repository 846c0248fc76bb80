//! The claim that an offer demands of its initiators.

use std::fmt;

use crate::MetadataError;

/// Which initiators have to claim an offer before they use it.
///
/// A claim is a compare-and-swap of the offer's slot where the initiator maps it, else a message to the owner and its
/// answer. The discriminants are the numbers on the wire. They ascend with the demand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum ClaimDemand {
    /// Only initiators that map the offer's slot. Others use the offer without a word.
    #[default]
    WhereMapped = 0,
    /// Every initiator on the owner's host, by slot or by message.
    SameHost = 1,
    /// Every initiator, by slot or by message.
    Everywhere = 2,
}

impl ClaimDemand {
    /// The number on the wire.
    #[must_use]
    pub const fn to_wire(self) -> u8 {
        self as u8
    }

    /// Reads the number on the wire.
    ///
    /// # Errors
    ///
    /// [`MetadataError::UnknownClaimDemand`] for any other than 0 to 2: an initiator cannot meet a demand that it does
    /// not know.
    pub const fn from_wire(value: u8) -> Result<Self, MetadataError> {
        match value {
            0 => Ok(Self::WhereMapped),
            1 => Ok(Self::SameHost),
            2 => Ok(Self::Everywhere),
            _ => Err(MetadataError::UnknownClaimDemand { value }),
        }
    }

    /// Whether an initiator without claims must not use the offer.
    #[must_use]
    pub const fn is_binding(self) -> bool {
        matches!(self, Self::Everywhere)
    }
}

/// A phrase such as `on the same host`.
impl fmt::Display for ClaimDemand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::WhereMapped => "where the slot is mapped",
            Self::SameHost => "on the same host",
            Self::Everywhere => "everywhere",
        })
    }
}
