//! Embeddings that an encode worker offers to be read.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::item::{DecodedMedia, from_json};
use crate::limits::at_most;
use crate::native::bounded;
use crate::{Field, Limits, MetadataError, OperationKind, RdmaMetadata, TensorDescription};

/// Dynamo's `TransferRequest` of embeddings that are read (`NixlReadEmbeddingSender`): a shape, a type, and an offer with its
/// notification key, so the owner learns of the read.
///
/// With serde it is Dynamo's JSON: `embeddings_shape`, `embedding_dtype_str`, such as `bfloat16`, and `serialized_request`.
#[derive(Clone, PartialEq)]
pub struct EmbeddingsRequest {
    shape: Vec<u64>,
    dtype: String,
    offer: RdmaMetadata,
}

#[derive(Deserialize)]
struct Wire {
    #[serde(deserialize_with = "bounded::<_, _, { TensorDescription::MAX_RANK }>")]
    embeddings_shape: Vec<u64>,
    embedding_dtype_str: String,
    serialized_request: RdmaMetadata,
}

#[derive(Serialize)]
struct WireRef<'a> {
    embeddings_shape: &'a [u64],
    embedding_dtype_str: &'a str,
    serialized_request: &'a RdmaMetadata,
}

impl EmbeddingsRequest {
    /// Describes embeddings of an offer to be read. `dtype` is the name of the type in PyTorch.
    ///
    /// # Errors
    ///
    /// [`MetadataError::TensorRank`] or [`MetadataError::TensorSize`] for a shape without elements or with too many,
    /// [`MetadataError::Empty`] or [`MetadataError::TooLarge`] for the name of the type, [`MetadataError::MediaOffer`] for an
    /// offer to be written.
    pub fn new(shape: Vec<u64>, dtype: String, offer: RdmaMetadata) -> Result<Self, MetadataError> {
        DecodedMedia::check_tensor(&shape, &dtype)?;
        match offer.operation_kind() {
            OperationKind::Read => Ok(Self { shape, dtype, offer }),
            OperationKind::Write => Err(MetadataError::MediaOffer),
        }
    }

    /// Parses a request within the default [`Limits`].
    ///
    /// # Errors
    ///
    /// The [`MetadataError`] that names the first fault. Panics: never.
    pub fn from_json(json: &[u8]) -> Result<Self, MetadataError> {
        at_most(Field::Document, json.len(), Limits::default().encoded_bytes)?;
        from_json::<Wire>(json)?.check()
    }

    /// The sizes of the dimensions, in row-major order.
    #[must_use]
    pub fn shape(&self) -> &[u64] {
        &self.shape
    }

    /// The name of the type of the elements in PyTorch.
    #[must_use]
    pub fn dtype(&self) -> &str {
        &self.dtype
    }

    /// The offer to read.
    #[must_use]
    pub const fn offer(&self) -> &RdmaMetadata {
        &self.offer
    }
}

impl Wire {
    fn check(self) -> Result<EmbeddingsRequest, MetadataError> {
        let Self { embeddings_shape, embedding_dtype_str, serialized_request } = self;
        EmbeddingsRequest::new(embeddings_shape, embedding_dtype_str, serialized_request)
    }
}

impl Serialize for EmbeddingsRequest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (embeddings_shape, embedding_dtype_str) = (&self.shape[..], &self.dtype[..]);
        let serialized_request = &self.offer;
        WireRef { embeddings_shape, embedding_dtype_str, serialized_request }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for EmbeddingsRequest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Wire::deserialize(deserializer)?.check().map_err(de::Error::custom)
    }
}

impl fmt::Debug for EmbeddingsRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddingsRequest")
            .field("shape", &self.shape)
            .field("dtype", &self.dtype)
            .field("offer", &self.offer)
            .finish()
    }
}
