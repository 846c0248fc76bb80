//! Encoding of the checksum of an offer's bytes.

use serde::{Deserialize, Serialize};

use crate::{Checksum as Checked, MetadataError};

#[derive(Serialize, Deserialize)]
pub(super) struct Checksum {
    /// 1 for XXH3. Another algorithm takes a section of its own.
    algorithm: u16,
    value: u64,
}

/// The size of the encoding.
pub(super) const ENCODED_LEN: u64 = 2 + 8;

impl Checksum {
    pub(super) const fn new(checksum: Checked) -> Self {
        Self { algorithm: Checked::XXH3, value: checksum.value() }
    }

    /// Makes the value that the program uses; the offer checks whether it suits.
    pub(super) const fn validate(self) -> Result<Checked, MetadataError> {
        match self.algorithm {
            Checked::XXH3 => Ok(Checked::xxh3(self.value)),
            algorithm => Err(MetadataError::UnknownChecksum { algorithm }),
        }
    }
}
