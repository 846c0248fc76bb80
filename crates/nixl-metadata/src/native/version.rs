//! The versions of the native profile.

use std::fmt;

use crate::MetadataError;

/// A version of the native profile that this release reads and writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
#[repr(u16)]
pub enum NativeVersion {
    /// One fixed layout. Carries neither [`OfferTerms`](crate::OfferTerms) nor
    /// [`MessageVersions`](crate::MessageVersions).
    V3 = 3,
    /// A fixed core, and sections that readers skip or refuse if they do not know them.
    V4 = 4,
}

impl NativeVersion {
    /// The newest, and the default for writing.
    pub const CURRENT: Self = Self::V4;

    /// The number on the wire.
    #[must_use]
    pub const fn to_wire(self) -> u16 {
        self as u16
    }

    pub(super) const fn from_wire(version: u16) -> Result<Self, MetadataError> {
        match version {
            3 => Ok(Self::V3),
            4 => Ok(Self::V4),
            _ => Err(MetadataError::UnsupportedVersion { version }),
        }
    }
}

/// The number.
impl fmt::Display for NativeVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.to_wire(), f)
    }
}
