//! Offers of tensors, and reads of them.

use nixl_descriptor::tensor::{DType, Tensor, TensorError, TensorLayout};
use nixl_descriptor::{Descriptor, DescriptorError, DescriptorList};
use nixl_metadata::{MetadataError, RdmaMetadata, TensorDescription};
use nixl_ops::Completion;

use crate::{Connector, ConnectorError};

impl Connector {
    /// Reads the tensor that a peer offers into a [buffer](Self::buffer) of the pool. The tensor here has no gaps, at any strides of
    /// the peer's.
    ///
    /// The peer chooses the length, so more than `limit` bytes are refused before any allocation.
    ///
    /// Cancel safe: if the future is dropped, nothing is transferred or the transfer is cancelled.
    ///
    /// # Errors
    ///
    /// Those of [`offered_tensor`]; [`ConnectorError::OverLimit`], [`ConnectorError::Memory`] without memory, and the errors of
    /// [`read`](Self::read).
    pub async fn read_tensor(
        &self,
        remote: &RdmaMetadata,
        limit: usize,
    ) -> Result<Tensor, ConnectorError> {
        let layout = offered_tensor(remote)?;
        let len = layout.byte_len();
        if len > limit {
            return Err(ConnectorError::OverLimit { bytes: len as u64, limit });
        }
        let tensor = Tensor::with_layout(self.buffer(len)?, layout)?;
        self.read(remote, parts(tensor.memory(), remote)?).await?;
        Ok(tensor)
    }

    /// Reads the tensor that a peer offers into one that the caller has, of the same element type and shape, on any device.
    ///
    /// The local tensor is contiguous, or has as many runs of bytes as the peer's, of the same lengths.
    ///
    /// Cancel safe: if the future is dropped, nothing is transferred or the transfer is cancelled.
    ///
    /// # Errors
    ///
    /// Those of [`offered_tensor`]; [`ConnectorError::OtherTensor`], and the errors of [`read`](Self::read).
    pub async fn read_into_tensor(
        &self,
        remote: &RdmaMetadata,
        local: &Tensor,
    ) -> Result<Completion, ConnectorError> {
        let offered = offered_tensor(remote)?;
        let is_same = offered.dtype() == local.dtype() && offered.shape() == local.shape();
        if !is_same {
            let local = Box::new(local.layout().clone());
            return Err(ConnectorError::OtherTensor { offered: Box::new(offered), local });
        }
        let list = match local.is_contiguous() {
            true => DescriptorList::try_from(parts(local.memory(), remote)?)?,
            false => DescriptorList::try_from(local)?,
        };
        self.read(remote, list).await
    }
}

/// The tensor that a peer offers, without the gaps of the peer's memory: what a reader allocates.
///
/// # Errors
///
/// [`ConnectorError::NoTensor`] for an offer that names none, [`ConnectorError::UnknownElement`] for a type of a later release, and
/// [`ConnectorError::Tensor`] for a shape that is no tensor's here.
pub fn offered_tensor(remote: &RdmaMetadata) -> Result<TensorLayout, ConnectorError> {
    layout_of(remote.tensor().ok_or(ConnectorError::NoTensor)?)
}

/// The layout of a tensor of a peer's, without the gaps of the peer's memory.
pub(crate) fn layout_of(tensor: &TensorDescription) -> Result<TensorLayout, ConnectorError> {
    let (code, bits) = (tensor.code(), tensor.bits());
    let unknown = ConnectorError::UnknownElement { code, bits };
    let dtype = DType::from_dlpack(code, bits).ok_or(unknown)?;
    let sizes = tensor.dimensions().iter().enumerate().map(|(axis, &(size, _))| {
        usize::try_from(size).map_err(|_| TensorError::Overflow { dtype, axis })
    });
    Ok(TensorLayout::new(dtype, &sizes.collect::<Result<Vec<_>, _>>()?)?)
}

/// The description of a tensor for peers.
pub(crate) fn describe(layout: &TensorLayout) -> Result<TensorDescription, MetadataError> {
    let (code, bits) = layout.dtype().to_dlpack();
    let sizes = layout.shape().iter().zip(layout.strides());
    let dimensions: Box<[(u64, u64)]> =
        sizes.map(|(&size, &stride)| (size as u64, stride as u64)).collect();
    TensorDescription::new(code, bits, dimensions)
}

/// Memory in the pieces of a peer's offer, which has as many bytes.
pub(crate) fn parts(
    memory: &Descriptor,
    remote: &RdmaMetadata,
) -> Result<Vec<Descriptor>, DescriptorError> {
    let mut end = 0;
    let parts = remote.descriptors().iter().map(|part| {
        let start = end;
        // No part is longer than all of them.
        end += part.size() as usize;
        memory.slice(start..end)
    });
    parts.collect()
}
