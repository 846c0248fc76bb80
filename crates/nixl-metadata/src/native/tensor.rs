//! Encoding of the description of a tensor.

use serde::{Deserialize, Serialize};

use super::sequence::sequence;
use crate::{MetadataError, TensorDescription};

#[derive(Serialize, Deserialize)]
pub(super) struct Tensor {
    /// DLPack's code and bits.
    code: u8,
    bits: u8,
    /// Size and stride.
    #[serde(deserialize_with = "sequence::<_, _, { TensorDescription::MAX_RANK }>")]
    dimensions: Vec<(u64, u64)>,
}

/// The size of the encoding.
pub(super) const fn encoded_len(description: &TensorDescription) -> u64 {
    1 + 1 + 8 + (8 + 8) * description.dimensions().len() as u64
}

impl Tensor {
    pub(super) fn new(description: &TensorDescription) -> Self {
        let dimensions = description.dimensions().to_vec();
        Self { code: description.code(), bits: description.bits(), dimensions }
    }

    /// Makes the value that the program uses; the offer checks whether it suits its bytes.
    pub(super) fn validate(self) -> Result<TensorDescription, MetadataError> {
        TensorDescription::new(self.code, self.bits, self.dimensions)
    }
}
