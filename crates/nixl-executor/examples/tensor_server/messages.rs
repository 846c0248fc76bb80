//! Messages of the two sides, as JSON.

use nixl_executor::{ExportMetadata, Ticket};
use serde::{Deserialize, Serialize};

/// Answers `GET /export`.
#[derive(Serialize, Deserialize)]
pub(crate) struct Exported {
    pub(crate) export: ExportMetadata,
    /// The names of the tensors.
    pub(crate) names: Vec<String>,
}

/// The body of `POST /tensor`.
#[derive(Serialize, Deserialize)]
pub(crate) struct Wanted {
    pub(crate) name: String,
}

/// Answers `POST /tensor`.
#[derive(Serialize, Deserialize)]
pub(crate) struct Granted {
    /// For the blocks that hold the tensor.
    pub(crate) ticket: Ticket,
    /// The type of the elements, by its name in safetensors.
    pub(crate) dtype: String,
    pub(crate) shape: Vec<usize>,
    /// Bytes before the tensor in the first block.
    pub(crate) skip: usize,
}
