//! The rights that a ticket grants.

use crate::MetadataError;

/// What the holder of a ticket may do with its blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(
    clippy::exhaustive_enums,
    reason = "one-sided transfers read or write; callers match both"
)]
pub enum Rights {
    /// Read them.
    Read,
    /// Write them.
    Write,
}

impl Rights {
    const WRITE: u8 = 1 << 0;

    /// The flags of a ticket.
    pub(super) const fn to_flags(self) -> u8 {
        match self {
            Self::Read => 0,
            Self::Write => Self::WRITE,
        }
    }

    pub(super) const fn from_flags(flags: u8) -> Result<Self, MetadataError> {
        match flags {
            0 => Ok(Self::Read),
            Self::WRITE => Ok(Self::Write),
            _ => Err(MetadataError::UnsupportedTicketFlags { flags }),
        }
    }
}
