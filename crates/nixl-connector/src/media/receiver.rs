//! The worker's side: media of a frontend, read into a tensor.

use nixl_descriptor::tensor::{DType, Tensor, TensorError, TensorLayout};
use nixl_metadata::RdmaMetadata;
use nixl_metadata::media::{DecodedMedia, EmbeddingsRequest};
use nixl_ops::Completion;

use super::hash::content_hash_in_turns;
use crate::offload::Offloaded;
use crate::tensors::parts;
use crate::{Connector, ConnectorError};

/// Reads media that frontends offer. Cheap to clone.
#[derive(Clone, Debug)]
pub struct MediaReceiver {
    connector: Connector,
    limit: usize,
}

impl MediaReceiver {
    /// The most bytes of one read unless another limit is set, as many as Dynamo decodes of a video.
    pub const LIMIT: usize = 512 << 20;

    /// Reads by a connector.
    #[must_use]
    pub fn new(connector: Connector) -> Self {
        Self { connector, limit: Self::LIMIT }
    }

    /// Sets the most bytes that [`read`](Self::read) allocates, since the frontend chooses the length.
    #[must_use]
    pub fn limit(mut self, bytes: usize) -> Self {
        self.limit = bytes;
        self
    }

    /// Reads media into host memory of the pool.
    ///
    /// Cancel safe: if the future is dropped, nothing is transferred or the transfer is cancelled.
    ///
    /// # Errors
    ///
    /// Those of [`media_layout`]; [`ConnectorError::OverLimit`] and [`ConnectorError::Memory`], and the errors of
    /// [`Connector::read`].
    pub async fn read(&self, media: &DecodedMedia) -> Result<Tensor, ConnectorError> {
        self.read_offer(&media.to_read()?, media_layout(media)?).await
    }

    /// Reads embeddings into host memory of the pool; their owner learns of the read.
    ///
    /// Cancel safe: if the future is dropped, nothing is transferred or the transfer is cancelled.
    ///
    /// # Errors
    ///
    /// [`ConnectorError::MediaType`] or [`ConnectorError::Tensor`] for a type or a shape that does not suit the offer's bytes;
    /// [`ConnectorError::OverLimit`] and [`ConnectorError::Memory`], and the errors of [`Connector::read`].
    pub async fn read_embeddings(
        &self,
        request: &EmbeddingsRequest,
    ) -> Result<Tensor, ConnectorError> {
        let offer = request.offer();
        let layout = layout_of(request.dtype(), request.shape(), offer.total_bytes())?;
        self.read_offer(offer, layout).await
    }

    async fn read_offer(
        &self,
        offer: &RdmaMetadata,
        layout: TensorLayout,
    ) -> Result<Tensor, ConnectorError> {
        let (len, limit) = (layout.byte_len(), self.limit);
        if len > limit {
            return Err(ConnectorError::OverLimit { bytes: len as u64, limit });
        }
        let tensor = Tensor::with_layout(self.connector.buffer(len)?, layout)?;
        self.connector.read(offer, parts(tensor.memory(), offer)?).await?;
        Ok(tensor)
    }

    /// Reads media into memory that the caller has, such as pinned memory or a GPU's: a contiguous tensor of the same type and
    /// shape.
    ///
    /// Cancel safe: if the future is dropped, nothing is transferred or the transfer is cancelled.
    ///
    /// # Errors
    ///
    /// Those of [`media_layout`]; [`ConnectorError::OtherTensor`], and the errors of [`Connector::read`].
    pub async fn read_into(
        &self,
        media: &DecodedMedia,
        local: &Tensor,
    ) -> Result<Completion, ConnectorError> {
        let offered = media_layout(media)?;
        let is_same = offered.dtype() == local.dtype() && offered.shape() == local.shape();
        if !is_same || !local.is_contiguous() {
            let local = Box::new(local.layout().clone());
            return Err(ConnectorError::OtherTensor { offered: Box::new(offered), local });
        }
        self.connector.read(&media.to_read()?, local.memory().clone()).await
    }

    /// Compares the bytes in host memory with the frontend's content hash, on a thread of the connection, and returns whether there
    /// was a hash to compare: there is none over elements other than `U8`, and none without metadata of a known kind.
    ///
    /// The hash detects accidents, such as a read of memory that the frontend has reused, and no forgeries.
    ///
    /// # Errors
    ///
    /// [`ConnectorError::ContentHash`], or [`ConnectorError::Tensor`] if the host cannot read the memory.
    pub async fn verify(
        &self,
        media: &DecodedMedia,
        tensor: &Tensor,
    ) -> Result<bool, ConnectorError> {
        let Some(stated) = media.content_hash() else { return Ok(false) };
        let work = content_hash_in_turns(tensor.clone(), media.metadata().cloned());
        match Offloaded::new(self.connector.connection().work()?, work).await?? {
            Some(found) if found != stated => Err(ConnectorError::ContentHash { stated, found }),
            found => Ok(found.is_some()),
        }
    }
}

/// The tensor that a message of media describes: what a reader allocates.
///
/// # Errors
///
/// [`ConnectorError::MediaType`] for an unknown type, [`ConnectorError::Tensor`] for a shape that is no tensor's here, or of another
/// number of bytes than the message's descriptor.
pub fn media_layout(media: &DecodedMedia) -> Result<TensorLayout, ConnectorError> {
    layout_of(media.dtype(), media.shape(), media.memory().size())
}

/// The tensor of a type by its name in NumPy, in so many bytes.
fn layout_of(dtype: &str, shape: &[u64], bytes: u64) -> Result<TensorLayout, ConnectorError> {
    let unknown = || ConnectorError::MediaType { dtype: dtype.to_owned() };
    let dtype = DType::from_numpy(dtype).ok_or_else(unknown)?;
    let sizes = shape.iter().enumerate().map(|(axis, &size)| {
        usize::try_from(size).map_err(|_| TensorError::Overflow { dtype, axis })
    });
    let layout = TensorLayout::new(dtype, &sizes.collect::<Result<Vec<_>, _>>()?)?;
    let (elements, needed) = (layout.elements(), layout.byte_len());
    match usize::try_from(bytes) {
        Ok(given) if given == needed => Ok(layout),
        given => {
            let given = given.unwrap_or(usize::MAX);
            Err(TensorError::WrongSize { dtype, elements, needed, given }.into())
        }
    }
}
