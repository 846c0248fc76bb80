//! Media in the form of Dynamo 1.6.1: decoded images and videos that a frontend offers and workers read.
//!
//! A [`MediaItem`] is one element of Dynamo's `multi_modal_data`, such as
//! `{"image_url": [{"Decoded": {...}}, {"Url": "..."}]}`: with serde, a map of texts to lists of items is the whole.
//!
//! | field of `Decoded` | here |
//! |---|---|
//! | `nixl_metadata`: `b64:` and base64 of the zlib stream | [`DecodedMedia::agent_metadata`] |
//! | `nixl_descriptor`: `addr`, `size`, `mem_type` (`Dram`, `Vram`), `device_id` | [`DecodedMedia::memory`] |
//! | `shape`, `dtype` (`UINT8`) | [`DecodedMedia::shape`], [`DecodedMedia::dtype`] |
//! | `metadata`: `{"Image": {format, color_type, layout}}`, `{"Video": {source_fps, source_duration, sampled_timestamps}}` or null | [`DecodedMedia::metadata`] |
//! | `content_hash`: 16 hexadecimal digits, or absent | [`DecodedMedia::content_hash`] |
//! | `nixl_offer`: this library's addition, which Dynamo skips | [`DecodedMedia::offer`] |
//!
//! Dynamo's message has no notification key: its readers make one up, so the owner never learns of their reads, and the memory
//! comes back by a life time. `nixl_offer` is the owner's offer in the native profile, in base64: readers that know it take the
//! paths, the terms and the notification of any other offer.
//!
//! Embeddings that an encode worker offers are an [`EmbeddingsRequest`].
//!
//! Fields of later versions are skipped, as Dynamo skips them, and kinds of metadata and layouts of later versions are passed on
//! as they are; those of `Video` that Dynamo added after 1.6.1 are kept. Messages
//! are bounded as offers are: see [`Limits`](crate::Limits).

mod embeddings;
mod hash;
mod item;
mod metadata;
mod other;
mod wire;

pub use self::embeddings::EmbeddingsRequest;
pub use self::hash::ContentHasher;
pub use self::item::{DecodedMedia, MediaItem};
pub use self::metadata::{ImageLayout, ImageMetadata, MediaMetadata, VideoMetadata};
pub use self::other::OtherMetadata;
