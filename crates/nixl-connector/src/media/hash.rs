//! Content hashes of media in tensors.

use nixl_descriptor::tensor::{DType, Tensor, TensorError};
use nixl_metadata::media::{ContentHasher, MediaMetadata};

/// The content hash of media in host memory, as Dynamo computes it: none for elements other than `U8` and for media without
/// metadata. Reads all the bytes on this thread.
///
/// # Errors
///
/// [`TensorError::Access`] if the host cannot read the memory, or an operation in flight writes it; [`TensorError::NotContiguous`].
pub fn content_hash(
    tensor: &Tensor,
    metadata: Option<&MediaMetadata>,
) -> Result<Option<u64>, TensorError> {
    const PIECE: usize = 1 << 16;
    if tensor.dtype() != DType::U8 {
        return Ok(None);
    }
    let shape: Vec<u64> = tensor.shape().iter().map(|&size| size as u64).collect();
    let mut hasher = match metadata {
        Some(MediaMetadata::Image(_)) => ContentHasher::image(&shape),
        Some(MediaMetadata::Video(video)) => ContentHasher::video(&shape, video),
        _ => return Ok(None),
    };
    let bytes = tensor.reshape(&[tensor.layout().byte_len()])?;
    let (end, mut at) = (bytes.layout().byte_len(), 0);
    let mut piece = vec![0; PIECE.min(end)];
    while at < end {
        let part = &mut piece[..PIECE.min(end - at)];
        bytes.region().copy_to_slice(bytes.offset() + at, part)?;
        hasher.update(part);
        at += part.len();
    }
    Ok(Some(hasher.finish()))
}
