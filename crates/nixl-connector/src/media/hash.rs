//! Content hashes of media in tensors.

use std::future::poll_fn;
use std::task::Poll;

use nixl_descriptor::tensor::{DType, Tensor, TensorError};
use nixl_metadata::media::{ContentHasher, MediaMetadata};

/// The content hash of media in host memory, as Dynamo computes it: none for elements other than `U8` and for media without
/// metadata of a known kind. Reads all the bytes on this thread.
///
/// # Errors
///
/// [`TensorError::Access`] if the host cannot read the memory, or an operation in flight writes it; [`TensorError::NotContiguous`].
pub fn content_hash(
    tensor: &Tensor,
    metadata: Option<&MediaMetadata>,
) -> Result<Option<u64>, TensorError> {
    let Some(mut hash) = Hash::new(tensor, metadata)? else { return Ok(None) };
    hash.advance(usize::MAX)?;
    Ok(Some(hash.hasher.finish()))
}

/// [`content_hash`], which leaves its thread to other work from time to time.
pub(super) async fn content_hash_in_turns(
    tensor: Tensor,
    metadata: Option<MediaMetadata>,
) -> Result<Option<u64>, TensorError> {
    let Some(mut hash) = Hash::new(&tensor, metadata.as_ref())? else { return Ok(None) };
    while !hash.advance(TURN)? {
        let mut is_next = false;
        poll_fn(|cx| match std::mem::replace(&mut is_next, true) {
            true => Poll::Ready(()),
            false => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        })
        .await;
    }
    Ok(Some(hash.hasher.finish()))
}

/// Bytes that are hashed at one go: a millisecond at most.
const TURN: usize = 4 << 20;

/// A hash of the first bytes of a tensor.
struct Hash {
    bytes: Tensor,
    hasher: ContentHasher,
    at: usize,
    piece: Vec<u8>,
}

impl Hash {
    fn new(tensor: &Tensor, metadata: Option<&MediaMetadata>) -> Result<Option<Self>, TensorError> {
        const PIECE: usize = 1 << 16;
        if tensor.dtype() != DType::U8 {
            return Ok(None);
        }
        let shape: Vec<u64> = tensor.shape().iter().map(|&size| size as u64).collect();
        let hasher = match metadata {
            Some(MediaMetadata::Image(_)) => ContentHasher::image(&shape),
            Some(MediaMetadata::Video(video)) => ContentHasher::video(&shape, video),
            _ => return Ok(None),
        };
        let len = tensor.layout().byte_len();
        let bytes = tensor.reshape(&[len])?;
        Ok(Some(Self { bytes, hasher, at: 0, piece: vec![0; PIECE.min(len)] }))
    }

    /// Hashes so many bytes more, and returns whether they were the last.
    fn advance(&mut self, most: usize) -> Result<bool, TensorError> {
        let len = self.bytes.layout().byte_len();
        let end = self.at.saturating_add(most).min(len);
        while self.at < end {
            let part = self.piece.len().min(end - self.at);
            let part = &mut self.piece[..part];
            self.bytes.region().copy_to_slice(self.bytes.offset() + self.at, part)?;
            self.hasher.update(part);
            self.at += part.len();
        }
        Ok(end == len)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use nixl_metadata::media::{ImageLayout, ImageMetadata};

    use super::*;

    #[test]
    fn a_long_hash_leaves_its_thread_to_others() {
        let pixels = (0..3 * TURN + 5).map(|n| n as u8).collect();
        let tensor = Tensor::from_vec::<u8>(pixels, &[1, 3 * TURN + 5, 1]).unwrap();
        let image = ImageMetadata::new(None, "L8", ImageLayout::HWC);
        let image = Some(MediaMetadata::Image(image));
        let expected = content_hash(&tensor, image.as_ref()).unwrap();
        assert!(expected.is_some());
        let mut hash = pin!(content_hash_in_turns(tensor, image));
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..3 {
            assert!(hash.as_mut().poll(&mut cx).is_pending());
        }
        assert_eq!(hash.as_mut().poll(&mut cx), Poll::Ready(Ok(expected)));
    }
}
