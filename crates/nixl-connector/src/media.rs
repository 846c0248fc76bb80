//! Media in Dynamo's form: the side of a frontend that offers, and the side of a worker that reads.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! use std::sync::Arc;
//! use nixl_connector::media::{
//!     ImageLayout, ImageMetadata, MediaItem, MediaMetadata, MediaReceiver, MediaSender,
//! };
//! use nixl_connector::{Connector, simulated::Fabric};
//! use nixl_descriptor::tensor::DType;
//! use nixl_ops::SystemClock;
//!
//! let fabric = Fabric::new(Arc::new(SystemClock::new()));
//! let frontend = Connector::builder().transport(fabric.transport("frontend")).build().await?;
//! let worker = Connector::builder().transport(fabric.transport("worker")).build().await?;
//!
//! // Two pixels, decoded into registered memory.
//! let sender = MediaSender::new(frontend);
//! let image = sender.buffer(DType::U8, &[1, 2, 3])?;
//! image.copy_from_slice(&[255u8, 0, 0, 0, 255, 0])?;
//! let metadata = ImageMetadata::new(Some("Png".to_owned()), "Rgb8", ImageLayout::HWC);
//! let mut offer = sender.offer(&image, Some(MediaMetadata::Image(metadata))).await?;
//! let message = serde_json::to_string(&MediaItem::Decoded(Box::new(offer.media().clone())))?;
//!
//! let MediaItem::Decoded(media) = MediaItem::from_json(message.as_bytes())? else { panic!() };
//! let receiver = MediaReceiver::new(worker);
//! let pixels = receiver.read(&media).await?;
//! receiver.verify(&media, &pixels).await?;
//! assert_eq!(pixels.to_vec::<u8>()?, [255, 0, 0, 0, 255, 0]);
//! offer.ended().await?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # }).unwrap();
//! ```

mod hash;
mod receiver;
mod sender;

pub use nixl_metadata::media::{
    ContentHasher, DecodedMedia, EmbeddingsRequest, ImageLayout, ImageMetadata, MediaItem,
    MediaMetadata, VideoMetadata,
};

pub use self::hash::content_hash;
pub use self::receiver::{MediaReceiver, media_layout};
pub use self::sender::{MediaEnd, MediaOffer, MediaSender};
