//! The engine's own metadata: compressed while it travels, inflated with care.

use std::fmt;

use bytes::Bytes;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use crate::limits::at_most;
use crate::{Field, Limits, MetadataError};

/// An agent's metadata, with its registered memory, as it travels: a zlib stream.
///
/// The content belongs to the engine and is opaque here. It gives access to the peer's memory, so `Debug` shows its
/// size only. Clones share the bytes. Equality and hash are those of the compressed bytes, so a cache of peers can be
/// keyed by it and inflate nothing for a known peer.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct AgentMetadata(Bytes);

/// What zlib adds to the data: two bytes before, and the Adler-32 after.
const FRAME_BYTES: usize = 6;

impl AgentMetadata {
    /// Compresses what the engine returned, at the level that Dynamo uses.
    ///
    /// # Errors
    ///
    /// [`MetadataError::Empty`] if there is nothing: no engine has empty metadata.
    pub fn compress(raw: &[u8]) -> Result<Self, MetadataError> {
        if raw.is_empty() {
            return Err(MetadataError::Empty { field: Field::InflatedMetadata });
        }
        let mut zlib = Compress::new(Compression::new(6), true);
        let mut out = Vec::with_capacity(raw.len() / 2 + 64);
        loop {
            let rest = unread(raw, zlib.total_in());
            match zlib.compress_vec(rest, &mut out, FlushCompress::Finish) {
                Ok(Status::StreamEnd) => return Ok(Self(out.into())),
                Ok(Status::Ok | Status::BufError) => out.reserve(out.capacity().max(64)),
                Err(_) => return Err(MetadataError::BadZlib),
            }
        }
    }

    /// Takes a zlib stream that came by other means than [`RdmaMetadata`](crate::RdmaMetadata). Looks at its header
    /// and size only.
    ///
    /// # Errors
    ///
    /// [`MetadataError::Empty`], [`MetadataError::TooLarge`] beyond [`Limits::compressed_bytes`], or
    /// [`MetadataError::BadZlib`].
    pub fn from_compressed(compressed: Bytes, limits: &Limits) -> Result<Self, MetadataError> {
        if compressed.is_empty() {
            return Err(MetadataError::Empty { field: Field::NixlMetadata });
        }
        at_most(Field::NixlMetadata, compressed.len(), limits.compressed_bytes)?;
        if compressed.len() <= FRAME_BYTES || !is_zlib_header(compressed[0], compressed[1]) {
            return Err(MetadataError::BadZlib);
        }
        Ok(Self(compressed))
    }

    /// The zlib stream.
    #[must_use]
    pub fn compressed(&self) -> &Bytes {
        &self.0
    }

    /// Inflates the stream to what the engine of the peer returned.
    ///
    /// Takes time and memory in proportion to the result, which [`Limits::inflated_bytes`] bounds; a stream that would
    /// grow beyond that is given up there.
    ///
    /// # Errors
    ///
    /// [`MetadataError::TooLarge`], [`MetadataError::Truncated`], [`MetadataError::TrailingBytes`],
    /// [`MetadataError::BadZlib`] (this includes a wrong checksum), or [`MetadataError::Empty`] if nothing comes out.
    pub fn inflate(&self, limits: &Limits) -> Result<Bytes, MetadataError> {
        let limit = limits.inflated_bytes;
        // One byte more than allowed: a longer stream differs from one that just fits.
        let most = limit.saturating_add(1);
        let mut zlib = Decompress::new(true);
        let mut out = Vec::with_capacity(self.0.len().saturating_mul(4).clamp(64, most.max(64)));
        loop {
            let before = (zlib.total_in(), out.len());
            let rest = unread(&self.0, zlib.total_in());
            let status = zlib
                .decompress_vec(rest, &mut out, FlushDecompress::None)
                .map_err(|_| MetadataError::BadZlib)?;
            at_most(Field::InflatedMetadata, out.len(), limit)?;
            match status {
                Status::StreamEnd => break,
                _ if out.len() == out.capacity() => {
                    let more = out.capacity().min(most.saturating_sub(out.len())).max(1);
                    out.reserve_exact(more);
                }
                _ if before == (zlib.total_in(), out.len()) => {
                    return Err(MetadataError::Truncated { field: Field::NixlMetadata });
                }
                _ => {}
            }
        }
        if !unread(&self.0, zlib.total_in()).is_empty() {
            return Err(MetadataError::TrailingBytes { field: Field::NixlMetadata });
        }
        if out.is_empty() {
            return Err(MetadataError::Empty { field: Field::InflatedMetadata });
        }
        Ok(out.into())
    }
}

/// What zlib has not consumed yet.
fn unread(input: &[u8], consumed: u64) -> &[u8] {
    usize::try_from(consumed).ok().and_then(|consumed| input.get(consumed..)).unwrap_or_default()
}

/// RFC 1950, section 2.2: deflate, a window of at most 32 KiB, no preset dictionary, a checksum over both bytes.
fn is_zlib_header(method: u8, flags: u8) -> bool {
    method & 0x0f == 8
        && method >> 4 <= 7
        && flags & 0x20 == 0
        && u16::from_be_bytes([method, flags]).is_multiple_of(31)
}

impl fmt::Debug for AgentMetadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentMetadata")
            .field("compressed_bytes", &self.0.len())
            .finish_non_exhaustive()
    }
}
