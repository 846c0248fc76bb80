//! The JSON of media, field by field and in the order of Dynamo.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nixl_device::{Device, DeviceKind};
use serde::{Deserialize, Serialize};

use super::item::{DecodedMedia, MediaItem};
use super::metadata::MediaMetadata;
use crate::dynamo::text;
use crate::limits::at_most;
use crate::native::bounded;
use crate::{Field, Limits, MetadataError, RdmaMetadata, SerializedDescriptor, TensorDescription};

#[derive(Serialize, Deserialize)]
pub(super) enum Item<'a> {
    #[serde(borrow)]
    Url(Cow<'a, str>),
    #[serde(borrow)]
    Decoded(Box<Decoded<'a>>),
    #[serde(borrow)]
    UuidOnly(Cow<'a, str>),
}

#[derive(Serialize, Deserialize)]
pub(super) struct Decoded<'a> {
    #[serde(borrow)]
    nixl_metadata: Cow<'a, str>,
    nixl_descriptor: Descriptor,
    #[serde(deserialize_with = "bounded::<_, _, { TensorDescription::MAX_RANK }>")]
    shape: Vec<u64>,
    #[serde(borrow)]
    dtype: Cow<'a, str>,
    metadata: Option<MediaMetadata>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    content_hash: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    nixl_offer: Option<Cow<'a, str>>,
}

#[derive(Serialize, Deserialize)]
struct Descriptor {
    addr: u64,
    size: u64,
    mem_type: MemType,
    device_id: u64,
}

/// The types of memory that NIXL has. Media is in the first two.
#[derive(Clone, Copy, Serialize, Deserialize)]
enum MemType {
    Dram,
    Vram,
    Block,
    Object,
    File,
    Unknown,
}

impl Item<'_> {
    pub(super) fn check(self, limits: &Limits) -> Result<MediaItem, MetadataError> {
        Ok(match self {
            Self::Url(url) => MediaItem::Url(url.into_owned()),
            Self::Decoded(decoded) => MediaItem::Decoded(Box::new(decoded.check(limits)?)),
            Self::UuidOnly(uuid) => MediaItem::UuidOnly(uuid.into_owned()),
        })
    }
}

impl<'a> From<&'a MediaItem> for Item<'a> {
    fn from(item: &'a MediaItem) -> Self {
        match item {
            MediaItem::Url(url) => Self::Url(url.into()),
            MediaItem::Decoded(decoded) => Self::Decoded(Box::new((&**decoded).into())),
            MediaItem::UuidOnly(uuid) => Self::UuidOnly(uuid.into()),
        }
    }
}

impl Decoded<'_> {
    pub(super) fn check(self, limits: &Limits) -> Result<DecodedMedia, MetadataError> {
        let agent = text::parse(&self.nixl_metadata, limits)?;
        let memory = self.nixl_descriptor.check()?;
        let hash = self.content_hash.map(|hash| parse_hash(&hash)).transpose()?;
        let offer = self.nixl_offer.map(|offer| parse_offer(&offer, limits)).transpose()?;
        let (shape, dtype) = (self.shape, self.dtype.into_owned());
        let mut media = DecodedMedia::new(agent, memory, shape, dtype, self.metadata)?;
        if let Some(offer) = offer {
            media = media.with_offer(offer)?;
        }
        Ok(match hash {
            Some(hash) => media.with_content_hash(hash),
            None => media,
        })
    }
}

impl<'a> From<&'a DecodedMedia> for Decoded<'a> {
    fn from(media: &'a DecodedMedia) -> Self {
        let memory = media.memory();
        let mem_type = match memory.device().is_host() {
            true => MemType::Dram,
            false => MemType::Vram,
        };
        let device_id = u64::from(memory.device().index());
        let (addr, size) = (memory.ptr(), memory.size());
        Self {
            nixl_metadata: text::print(media.agent_metadata()).into(),
            nixl_descriptor: Descriptor { addr, size, mem_type, device_id },
            shape: media.shape().to_vec(),
            dtype: media.dtype().into(),
            metadata: media.metadata().cloned(),
            content_hash: media.content_hash().map(|hash| format!("{hash:016x}").into()),
            nixl_offer: media.encoded_offer().map(|offer| STANDARD.encode(offer).into()),
        }
    }
}

impl Descriptor {
    fn check(&self) -> Result<SerializedDescriptor, MetadataError> {
        let device = match (self.mem_type, u32::try_from(self.device_id)) {
            (MemType::Dram, _) => Device::HOST,
            (MemType::Vram, Ok(ordinal)) => Device::cuda(ordinal),
            _ => return Err(MetadataError::MediaMemory { device_id: self.device_id }),
        };
        SerializedDescriptor::new(device, self.addr, self.size)
    }
}

/// Whether Dynamo's message can name the device.
pub(super) fn is_named(device: Device) -> bool {
    matches!(device.kind(), DeviceKind::Host | DeviceKind::Cuda)
}

fn parse_hash(text: &str) -> Result<u64, MetadataError> {
    let is_hash = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let hash = is_hash.then(|| u64::from_str_radix(text, 16).ok()).flatten();
    hash.ok_or(MetadataError::BadContentHash)
}

fn parse_offer(text: &str, limits: &Limits) -> Result<RdmaMetadata, MetadataError> {
    at_most(Field::MediaOffer, text.len() / 4 * 3, limits.encoded_bytes)?;
    let bytes = STANDARD.decode(text);
    let bytes = bytes.map_err(|_| MetadataError::NotBase64 { field: Field::MediaOffer })?;
    RdmaMetadata::from_native_bytes_with(&bytes, limits)
}
