//! What the two sides say to each other.

use nixl_executor::{ExportMetadata, Ticket};
use serde::{Deserialize, Serialize};

/// Answers `GET /export`.
#[derive(Serialize, Deserialize)]
pub(crate) struct Exported {
    pub(crate) export: ExportMetadata,
}

/// The body of `POST /prefill`.
#[derive(Serialize, Deserialize)]
pub(crate) struct Prompt {
    pub(crate) request: u64,
    pub(crate) blocks: usize,
}

/// Answers `POST /prefill`: the blocks of the request, and by what each was filled.
#[derive(Serialize, Deserialize)]
pub(crate) struct Prefilled {
    pub(crate) ticket: Ticket,
    pub(crate) seeds: Vec<u64>,
}

/// The body of `POST /cancel`.
#[derive(Serialize, Deserialize)]
pub(crate) struct Cancel {
    pub(crate) request: u64,
}
