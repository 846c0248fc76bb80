//! Media items, and decoded media in a peer's memory.

use std::fmt;

use nixl_device::Device;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};
use serde_json::error::Category;

use super::metadata::MediaMetadata;
use super::wire::{self, Decoded, Item};
use crate::limits::at_most;
use crate::{
    AgentMetadata, Field, Limits, MetadataError, NotificationKey, OperationKind, RdmaMetadata,
    SerializedDescriptor, TensorDescription,
};

/// One element of Dynamo's `multi_modal_data`.
///
/// With serde it is Dynamo's JSON, within the default [`Limits`].
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub enum MediaItem {
    /// Media to fetch. It may hold the media itself, as a `data:` URL.
    Url(String),
    /// Decoded media, to be read from the frontend's memory.
    Decoded(Box<DecodedMedia>),
    /// Media that the worker has in its cache by this id.
    UuidOnly(String),
}

impl MediaItem {
    /// Parses one item within the default [`Limits`].
    ///
    /// # Errors
    ///
    /// The [`MetadataError`] that names the first fault. Panics: never.
    pub fn from_json(json: &[u8]) -> Result<Self, MetadataError> {
        Self::from_json_with(json, &Limits::default())
    }

    /// [`from_json`](Self::from_json) within limits of your own.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn from_json_with(json: &[u8], limits: &Limits) -> Result<Self, MetadataError> {
        at_most(Field::Document, json.len(), limits.encoded_bytes)?;
        from_json::<Item<'_>>(json)?.check(limits)
    }
}

/// Parses a message, of which errors name the place and quote nothing.
pub(super) fn from_json<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, MetadataError> {
    serde_json::from_slice(json).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        match error.classify() {
            Category::Eof => MetadataError::Truncated { field: Field::Document },
            Category::Data => MetadataError::BadMedia { line, column },
            Category::Syntax | Category::Io => MetadataError::NotJson { line, column },
        }
    })
}

impl Serialize for MediaItem {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let Self::Decoded(media) = self {
            media.check_offer().map_err(ser::Error::custom)?;
        }
        Item::from(self).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for MediaItem {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Item::deserialize(deserializer)?.check(&Limits::default()).map_err(de::Error::custom)
    }
}

/// Shows sizes, and no content.
impl fmt::Debug for MediaItem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(url) => write!(f, "Url({} bytes)", url.len()),
            Self::Decoded(media) => f.debug_tuple("Decoded").field(media).finish(),
            Self::UuidOnly(uuid) => write!(f, "UuidOnly({} bytes)", uuid.len()),
        }
    }
}

/// Decoded media in the memory of a frontend, which any number of workers read.
///
/// Its holder can read that memory. `Debug` shows no address and no agent metadata.
#[derive(Clone, PartialEq)]
pub struct DecodedMedia {
    agent_metadata: AgentMetadata,
    memory: SerializedDescriptor,
    shape: Vec<u64>,
    dtype: String,
    metadata: Option<MediaMetadata>,
    content_hash: Option<u64>,
    offer: Option<RdmaMetadata>,
}

impl DecodedMedia {
    /// The longest name of a type, in bytes.
    pub const MAX_DTYPE_BYTES: usize = 32;

    /// Describes media in one piece of memory. `dtype` is Dynamo's name of the type, `UINT8` in 1.6.1.
    ///
    /// # Errors
    ///
    /// [`MetadataError::TensorRank`], [`MetadataError::TensorSize`] for a shape without elements or with too many,
    /// [`MetadataError::Empty`] or [`MetadataError::TooLarge`] for the name of the type or of a format,
    /// [`MetadataError::MediaFrames`], [`MetadataError::MediaFrameLimit`] or [`MetadataError::MediaNumber`] for the metadata of a
    /// video, and [`MetadataError::MediaMemory`] for memory that Dynamo's message cannot name.
    pub fn new(
        agent_metadata: AgentMetadata,
        memory: SerializedDescriptor,
        shape: Vec<u64>,
        dtype: String,
        metadata: Option<MediaMetadata>,
    ) -> Result<Self, MetadataError> {
        if !wire::is_named(memory.device()) {
            let device_id = memory.device().index().into();
            return Err(MetadataError::MediaMemory { device_id });
        }
        Self::check_tensor(&shape, &dtype)?;
        if let Some(metadata) = &metadata {
            metadata.check(&shape)?;
        }
        let (content_hash, offer) = (None, None);
        Ok(Self { agent_metadata, memory, shape, dtype, metadata, content_hash, offer })
    }

    /// Refuses shapes without elements or with too many, and names of types that are none.
    pub(super) fn check_tensor(shape: &[u64], dtype: &str) -> Result<(), MetadataError> {
        // A byte for each element at least: a shape that is too long for that fits no memory.
        let dimensions: Vec<_> = shape.iter().map(|&size| (size, 0)).collect();
        TensorDescription::new(0, 8, dimensions)?;
        if dtype.is_empty() {
            return Err(MetadataError::Empty { field: Field::MediaDtype });
        }
        at_most(Field::MediaDtype, dtype.len(), Self::MAX_DTYPE_BYTES)
    }

    /// Describes media of an offer that is one piece of memory to be read.
    ///
    /// The offer counts as one [without terms](RdmaMetadata::was_encoded_without_terms) from now on, since readers by Dynamo's
    /// fields know none.
    ///
    /// # Errors
    ///
    /// [`MetadataError::MediaOffer`] for another offer, and those of [`new`](Self::new).
    pub fn of_offer(
        offer: RdmaMetadata,
        shape: Vec<u64>,
        dtype: String,
        metadata: Option<MediaMetadata>,
    ) -> Result<Self, MetadataError> {
        let &[memory] = offer.descriptors() else { return Err(MetadataError::MediaOffer) };
        offer.note_without_terms();
        let agent = offer.agent_metadata().clone();
        Self::new(agent, memory, shape, dtype, metadata)?.with_offer(offer)
    }

    /// Adds the owner's offer, for readers that know this library.
    ///
    /// # Errors
    ///
    /// [`MetadataError::MediaOffer`] if it is not for reading exactly this memory.
    pub fn with_offer(mut self, offer: RdmaMetadata) -> Result<Self, MetadataError> {
        let is_read = offer.operation_kind() == OperationKind::Read;
        if !is_read || offer.descriptors() != [self.memory] {
            return Err(MetadataError::MediaOffer);
        }
        self.offer = Some(offer);
        Ok(self)
    }

    /// Adds the [content hash](super::ContentHasher).
    #[must_use]
    pub fn with_content_hash(mut self, hash: u64) -> Self {
        self.content_hash = Some(hash);
        self
    }

    /// The metadata of the owner's engine.
    #[must_use]
    pub const fn agent_metadata(&self) -> &AgentMetadata {
        &self.agent_metadata
    }

    /// The memory that holds the media.
    #[must_use]
    pub const fn memory(&self) -> SerializedDescriptor {
        self.memory
    }

    /// The device of the memory.
    #[must_use]
    pub const fn device(&self) -> Device {
        self.memory.device()
    }

    /// The sizes of the dimensions, in row-major order.
    #[must_use]
    pub fn shape(&self) -> &[u64] {
        &self.shape
    }

    /// Dynamo's name of the type of the elements.
    #[must_use]
    pub fn dtype(&self) -> &str {
        &self.dtype
    }

    /// The metadata of the image or video.
    #[must_use]
    pub const fn metadata(&self) -> Option<&MediaMetadata> {
        self.metadata.as_ref()
    }

    /// The content hash that the owner states.
    #[must_use]
    pub const fn content_hash(&self) -> Option<u64> {
        self.content_hash
    }

    /// The owner's offer, if its frontend runs this library.
    #[must_use]
    pub const fn offer(&self) -> Option<&RdmaMetadata> {
        self.offer.as_ref()
    }

    /// The offer to read: the owner's, or one with a new key, of which the owner will not learn.
    ///
    /// # Errors
    ///
    /// Those of [`RdmaMetadata::new`].
    pub fn to_read(&self) -> Result<RdmaMetadata, MetadataError> {
        match &self.offer {
            Some(offer) => Ok(offer.clone()),
            None => RdmaMetadata::new(
                OperationKind::Read,
                vec![self.memory],
                self.agent_metadata.clone(),
                NotificationKey::random(),
            ),
        }
    }

    /// Refuses an offer that cannot be encoded.
    fn check_offer(&self) -> Result<(), MetadataError> {
        self.offer.as_ref().map_or(Ok(()), |offer| offer.to_native_bytes().map(drop))
    }

    pub(super) fn encoded_offer(&self) -> Option<Vec<u8>> {
        self.offer.as_ref()?.to_native_bytes().ok()
    }
}

impl Serialize for DecodedMedia {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.check_offer().map_err(ser::Error::custom)?;
        Decoded::from(self).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for DecodedMedia {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Decoded::deserialize(deserializer)?.check(&Limits::default()).map_err(de::Error::custom)
    }
}

impl fmt::Debug for DecodedMedia {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DecodedMedia")
            .field("device", &self.device())
            .field("bytes", &self.memory.size())
            .field("shape", &self.shape)
            .field("dtype", &self.dtype)
            .field("metadata", &self.metadata)
            .field("content_hash", &self.content_hash)
            .field("offer", &self.offer)
            .finish_non_exhaustive()
    }
}
