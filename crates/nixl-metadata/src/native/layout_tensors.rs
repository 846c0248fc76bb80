//! Encoding of the tensors that the blocks of an export's layouts are.

use serde::{Deserialize, Serialize};

use super::sequence::{each, sequence};
use super::tensor::Tensor;
use crate::{ExportMetadata, MetadataError, TensorDescription};

#[derive(Serialize, Deserialize)]
pub(super) struct LayoutTensors {
    #[serde(deserialize_with = "sequence::<_, _, { ExportMetadata::MAX_LAYOUTS }>")]
    tensors: Vec<LayoutTensor>,
}

#[derive(Serialize, Deserialize)]
struct LayoutTensor {
    /// The position of the layout.
    layout: u16,
    tensor: Tensor,
}

impl LayoutTensors {
    pub(super) fn new(tensors: &[(u16, TensorDescription)]) -> Self {
        let tensor = |(layout, tensor): &(u16, TensorDescription)| LayoutTensor {
            layout: *layout,
            tensor: Tensor::new(tensor),
        };
        Self { tensors: tensors.iter().map(tensor).collect() }
    }

    /// Makes the values that the program uses; the export checks whether they suit its layouts.
    pub(super) fn validate(self) -> Result<Vec<(u16, TensorDescription)>, MetadataError> {
        each(self.tensors, |_, LayoutTensor { layout, tensor }| Ok((layout, tensor.validate()?)))
    }
}
