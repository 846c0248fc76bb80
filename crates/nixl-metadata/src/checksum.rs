//! The checksum of offered bytes.

use std::fmt;

use crate::{MetadataError, OperationKind};

/// The XXH3 of the bytes of all descriptors of a readable offer, one after the other: with 64 bits, seed 0 and the default
/// secret. Travels in the native profile only, from version 4.
///
/// It does not depend on where one descriptor ends and the next begins. It finds accidents, not forgeries. `Debug` does not
/// show the number, by which short bytes can be guessed.
///
/// ```
/// use nixl_metadata::Checksum;
///
/// // Of no bytes at all.
/// let checksum = Checksum::xxh3(0x2d06_8005_38d3_94c2);
/// assert_eq!(checksum, Checksum::xxh3(checksum.value()));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Checksum {
    xxh3: u64,
}

impl Checksum {
    /// The algorithm's number on the wire.
    pub(crate) const XXH3: u16 = 1;

    /// A checksum that was computed.
    #[must_use]
    pub const fn xxh3(value: u64) -> Self {
        Self { xxh3: value }
    }

    /// The number.
    #[must_use]
    pub const fn value(&self) -> u64 {
        self.xxh3
    }

    /// Refuses a checksum that does not suit what is offered.
    pub(crate) const fn check(kind: OperationKind) -> Result<(), MetadataError> {
        match kind {
            OperationKind::Write => Err(MetadataError::ChecksumOfWritable),
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checksum").field("algorithm", &"xxh3").finish_non_exhaustive()
    }
}
