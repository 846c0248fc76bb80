//! The frontend's side: media in registered memory, offered to any number of workers.

use std::num::NonZeroU32;
use std::time::Duration;

use nixl_descriptor::DescriptorList;
use nixl_descriptor::tensor::{DType, Tensor, TensorLayout};
use nixl_metadata::media::{DecodedMedia, EmbeddingsRequest, MediaMetadata};
use nixl_ops::{OperationError, OperationOptions, ReadableOperation};

use super::hash::content_hash_in_turns;
use crate::offload::Offloaded;
use crate::{Connector, ConnectorError};

/// Offers decoded media to workers of Dynamo and to those of this library. Cheap to clone.
#[derive(Clone, Debug)]
pub struct MediaSender {
    connector: Connector,
    life_time: Duration,
    readers: NonZeroU32,
}

impl MediaSender {
    /// The life time of an offer unless another is set: as long as Dynamo's frontend keeps memory for its readers.
    pub const LIFE_TIME: Duration = Duration::from_secs(60);

    /// Offers by a connector.
    #[must_use]
    pub fn new(connector: Connector) -> Self {
        Self { connector, life_time: Self::LIFE_TIME, readers: NonZeroU32::MIN }
    }

    /// The time after which an offer ends if it has not been read by then. Readers of Dynamo send no message, so for them it is the
    /// time after which the memory comes back, unless the offer is dropped before.
    #[must_use]
    pub fn life_time(mut self, life_time: Duration) -> Self {
        self.life_time = life_time;
        self
    }

    /// The number of reads by workers of this library after which an offer has ended; by default one. Workers of Dynamo are not
    /// counted, and not held back.
    #[must_use]
    pub fn readers(mut self, readers: NonZeroU32) -> Self {
        self.readers = readers;
        self
    }

    /// Memory to decode to, with the content of an earlier buffer: part of a slab of the pool, which the engine registers once
    /// for all buffers in it.
    ///
    /// # Errors
    ///
    /// [`ConnectorError::Tensor`] for a shape that is none, [`ConnectorError::Memory`] without memory.
    pub fn buffer(&self, dtype: DType, shape: &[usize]) -> Result<Tensor, ConnectorError> {
        let layout = TensorLayout::new(dtype, shape)?;
        Ok(Tensor::with_layout(self.connector.buffer(layout.byte_len())?, layout)?)
    }

    /// Offers contiguous media. An image of `U8` elements in host memory gets its content hash, computed on a thread of the
    /// connection; Dynamo hashes videos for exact routing alone, by [`content_hash`](super::content_hash) and
    /// [`DecodedMedia::with_content_hash`].
    ///
    /// Until the offer ends, the memory can be read here but not changed. Cancel safe: nothing is offered if the future is dropped.
    ///
    /// # Errors
    ///
    /// [`ConnectorError::Tensor`] for a tensor with gaps, [`ConnectorError::Metadata`] for metadata that does not suit the shape,
    /// and those of [`Connector::create_readable`].
    pub async fn offer(
        &self,
        tensor: &Tensor,
        metadata: Option<MediaMetadata>,
    ) -> Result<MediaOffer, ConnectorError> {
        // A tensor that is not contiguous is refused by the dimension that is not.
        let list = tensor.reshape(tensor.shape())?.descriptors(1)?;
        let is_image = matches!(metadata, Some(MediaMetadata::Image(_)));
        let hash = match is_image && tensor.device().is_host() {
            true => {
                let work = content_hash_in_turns(tensor.clone(), metadata.clone());
                Offloaded::new(self.connector.connection().work()?, work).await??
            }
            false => None,
        };
        let options = OperationOptions::new()
            .timeout(self.life_time)
            .life_time(self.life_time)
            .readers(self.readers);
        let operation = self.prepared(list, options).await?;
        let shape = tensor.shape().iter().map(|&size| size as u64).collect();
        let dtype = tensor.dtype().numpy_name().to_uppercase();
        let media = DecodedMedia::of_offer(operation.metadata().clone(), shape, dtype, metadata)?;
        let media = match hash {
            Some(hash) => media.with_content_hash(hash),
            None => media,
        };
        Ok(MediaOffer { media, operation })
    }

    /// Prepares an offer within the connector's timeout: its life time is that of the offer.
    async fn prepared(
        &self,
        list: DescriptorList,
        options: OperationOptions,
    ) -> Result<ReadableOperation, ConnectorError> {
        let operation = self.connector.create_readable_with(list, options);
        self.connector.within_timeout(operation).await
    }

    /// Offers embeddings to one worker, which completes the operation: the request is to be sent to it.
    ///
    /// # Errors
    ///
    /// [`ConnectorError::Tensor`] for a tensor with gaps, and those of [`Connector::create_readable`].
    pub async fn offer_embeddings(
        &self,
        tensor: &Tensor,
    ) -> Result<(EmbeddingsRequest, ReadableOperation), ConnectorError> {
        let list = tensor.reshape(tensor.shape())?.descriptors(1)?;
        let options = OperationOptions::new().timeout(self.life_time).life_time(self.life_time);
        let operation = self.prepared(list, options).await?;
        let shape = tensor.shape().iter().map(|&size| size as u64).collect();
        let dtype = tensor.dtype().numpy_name().to_owned();
        let request = EmbeddingsRequest::new(shape, dtype, operation.metadata().clone())?;
        Ok((request, operation))
    }
}

/// Offered media. Dropping it ends the offer: the memory can be changed at once, and a read that is under way then gets other bytes
/// or fails.
#[derive(Debug)]
#[must_use = "dropping it ends the offer"]
pub struct MediaOffer {
    media: DecodedMedia,
    operation: ReadableOperation,
}

/// The end of an offer of media.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum MediaEnd {
    /// As many workers of this library as were to read it have read it.
    Read,
    /// Its life time is over.
    LifeTimeOver,
}

impl MediaOffer {
    /// The message for workers. It is a capability: its holder can read the memory.
    #[must_use]
    pub fn media(&self) -> &DecodedMedia {
        &self.media
    }

    /// Waits until the offer ends. Every further call returns the same.
    ///
    /// Cancel safe: dropping the future loses nothing.
    ///
    /// # Errors
    ///
    /// [`OperationError`]: a worker declined it, or the engine failed.
    pub async fn ended(&mut self) -> Result<MediaEnd, OperationError> {
        match self.operation.wait_for_completion().await {
            Ok(_) => Ok(MediaEnd::Read),
            Err(OperationError::TimedOut { .. }) => Ok(MediaEnd::LifeTimeOver),
            Err(error) => Err(error),
        }
    }
}
