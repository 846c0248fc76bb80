//! Content hashes: XXH3-64 over the shape, the type and the bytes of media, as Dynamo computes them.

use std::fmt;

use xxhash_rust::xxh3::Xxh3;

use super::metadata::VideoMetadata;

/// Computes the content hash of media of the type `UINT8`, the only one for which Dynamo defines it.
///
/// The formulas are those of `canonical_content_hash` and `hash_video_content` in Dynamo's `lib/llm/src/preprocessor/media/rdma.rs`.
/// All numbers are 64 bits, little-endian:
///
/// | of an image | of a video |
/// |---|---|
/// | | 5, `video` |
/// | rank, each size | rank, each size |
/// | a byte 0, for `UINT8` | a byte 0, for `UINT8` |
/// | | the length of the JSON of the metadata, the JSON |
/// | | the number of bytes |
/// | the bytes | the bytes |
///
/// ```
/// use nixl_metadata::media::ContentHasher;
///
/// let mut hasher = ContentHasher::image(&[1, 2, 3]);
/// hasher.update(&[0, 1, 2]);
/// hasher.update(&[3, 4, 5]);
/// assert_eq!(hasher.finish(), 0x7a9b_bcb1_1a89_8630);
/// ```
#[derive(Clone)]
pub struct ContentHasher(Xxh3);

/// The number of Dynamo's only type.
const UINT8: u8 = 0;

impl ContentHasher {
    /// Begins the hash of an image of this shape.
    #[must_use]
    pub fn image(shape: &[u64]) -> Self {
        let mut hasher = Self(Xxh3::new());
        hasher.shape(shape);
        hasher
    }

    /// Begins the hash of a video of this shape, with as many bytes as the shape has.
    #[must_use]
    pub fn video(shape: &[u64], metadata: &VideoMetadata) -> Self {
        let mut hasher = Self(Xxh3::new());
        hasher.counted(b"video");
        hasher.shape(shape);
        hasher.counted(metadata.to_json().as_bytes());
        let bytes = shape.iter().fold(1u64, |all, size| all.wrapping_mul(*size));
        hasher.update(&bytes.to_le_bytes());
        hasher
    }

    /// Adds the next bytes, in row-major order.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The hash of all the bytes.
    #[must_use]
    pub fn finish(&self) -> u64 {
        self.0.digest()
    }

    fn shape(&mut self, shape: &[u64]) {
        self.update(&(shape.len() as u64).to_le_bytes());
        for size in shape {
            self.update(&size.to_le_bytes());
        }
        self.update(&[UINT8]);
    }

    fn counted(&mut self, bytes: &[u8]) {
        self.update(&(bytes.len() as u64).to_le_bytes());
        self.update(bytes);
    }
}

impl fmt::Debug for ContentHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContentHasher").finish_non_exhaustive()
    }
}
