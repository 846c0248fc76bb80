//! Limits on the bytes and elements that a peer may make this side read and allocate.

use crate::{Field, MetadataError, PeerInfo, RdmaMetadata, dynamo, native};

/// Bounds on what the decoders accept. Raise them only for peers that need it. [`check`](Self::check) shows the owner of
/// an offer whether receivers accept it.
///
/// | limit | default | what it bounds |
/// |---|---|---|
/// | [`encoded_bytes`](Self::encoded_bytes) | 12 MiB | the message as it arrives; checked before anything is parsed |
/// | [`compressed_bytes`](Self::compressed_bytes) | 4 MiB | the agent's metadata as it travels |
/// | [`inflated_bytes`](Self::inflated_bytes) | 16 MiB | the agent's metadata as the engine gets it |
/// | [`descriptors`](Self::descriptors) | 65 536 | descriptors in one message, or parts of an export's layouts, and with them shares |
/// | [`name_bytes`](Self::name_bytes) | 255 | each name in the native profile's [`PeerInfo`] |
///
/// # Memory
///
/// Decoding allocates no more than five times the size of the message that really arrived, 60 MiB at the default, for the
/// worst that a hostile peer can make up, which is a list of small shares; without those no more than four times. For an
/// honest one, mostly agent metadata, it is less than one and a half times. A few KiB come on top, which only count for
/// messages smaller than that. Sections that are skipped cost nothing.
/// Inflating allocates up to twice `inflated_bytes` for a moment, and about 40 KiB of state; the result keeps at most
/// `inflated_bytes`.
///
/// ```
/// use nixl_metadata::Limits;
///
/// let tight = Limits::default().descriptors(64).inflated_bytes(64 * 1024);
/// # let _ = tight;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub(crate) encoded_bytes: usize,
    pub(crate) compressed_bytes: usize,
    pub(crate) inflated_bytes: usize,
    pub(crate) descriptors: usize,
    pub(crate) name_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            encoded_bytes: 12 << 20,
            compressed_bytes: 4 << 20,
            inflated_bytes: 16 << 20,
            descriptors: 1 << 16,
            name_bytes: PeerInfo::MAX_NAME_BYTES,
        }
    }
}

impl Limits {
    /// Sets the largest message, in bytes. JSON needs up to twice `compressed_bytes` (hexadecimal) and about 80 bytes
    /// for each descriptor.
    #[must_use]
    pub const fn encoded_bytes(mut self, bytes: usize) -> Self {
        self.encoded_bytes = bytes;
        self
    }

    /// Sets the largest agent metadata as it travels, in bytes.
    #[must_use]
    pub const fn compressed_bytes(mut self, bytes: usize) -> Self {
        self.compressed_bytes = bytes;
        self
    }

    /// Sets the largest agent metadata after inflating, in bytes.
    #[must_use]
    pub const fn inflated_bytes(mut self, bytes: usize) -> Self {
        self.inflated_bytes = bytes;
        self
    }

    /// Sets the largest number of descriptors in a message.
    #[must_use]
    pub const fn descriptors(mut self, count: usize) -> Self {
        self.descriptors = count;
        self
    }

    /// Sets the longest name in a [`PeerInfo`], in bytes. More than [`PeerInfo::MAX_NAME_BYTES`] is taken as that.
    #[must_use]
    pub const fn name_bytes(mut self, bytes: usize) -> Self {
        self.name_bytes = bytes;
        self
    }
}

impl Limits {
    /// Checks that receivers with these limits can read an offer, in either profile and every version. It is for the
    /// owner, before the offer leaves: peers refuse an offer beyond the limits.
    ///
    /// The size of each encoding is computed, not written: a step for each descriptor and share. It is exact, but that of
    /// the longest encoding counts, which is usually the JSON. So an offer that is nearly [`encoded_bytes`](Self::encoded_bytes)
    /// long can be refused although a shorter encoding of it would be accepted. With the default limits this never happens:
    /// an offer within the others is less than 12 MiB long in every encoding.
    ///
    /// [`inflated_bytes`](Self::inflated_bytes) is not checked: the metadata is compressed here.
    ///
    /// # Errors
    ///
    /// Those of the decoders: [`MetadataError::TooManyDescriptors`], or [`MetadataError::TooLarge`] for the agent's metadata,
    /// a name of the peer's or the whole message.
    pub fn check(&self, metadata: &RdmaMetadata) -> Result<(), MetadataError> {
        self.check_descriptors(metadata.descriptors().len())?;
        let compressed = metadata.agent_metadata().compressed().len();
        at_most(Field::NixlMetadata, compressed, self.compressed_bytes)?;
        if let Some(peer) = metadata.peer() {
            peer.check_names(self)?;
        }
        let encoded = native::encoded_len(metadata).max(dynamo::encoded_len(metadata));
        let encoded = usize::try_from(encoded).unwrap_or(usize::MAX);
        at_most(Field::Document, encoded, self.encoded_bytes)
    }

    pub(crate) fn check_descriptors(&self, count: usize) -> Result<(), MetadataError> {
        if count > self.descriptors {
            return Err(MetadataError::TooManyDescriptors { limit: self.descriptors });
        }
        Ok(())
    }
}

/// Refuses a field that is longer than its limit.
pub(crate) fn at_most(field: Field, len: usize, limit: usize) -> Result<(), MetadataError> {
    if len > limit {
        return Err(MetadataError::TooLarge { field, len, limit });
    }
    Ok(())
}
