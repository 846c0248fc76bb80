//! The description of a layout for peers.

use std::fmt;

use nixl_device::Device;
use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::geometry::LayoutGeometry;
use super::local::Layout;
use super::placement::{LayoutError, LayoutKind, Placement, SelectionError};
use crate::coalesce::Span;

/// A layout as plain data, to be sent to a peer: what is in it is unchecked, other than the geometry.
///
/// To use one that was received, make it a [`RemoteLayout`].
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "a message: a new field is a new version of it")]
pub struct LayoutDescription {
    /// The shape of the blocks and their number.
    pub geometry: LayoutGeometry,
    /// How the chunks are arranged.
    pub kind: LayoutKind,
    /// Bytes from the start of a block to the start of the next one in a part.
    pub block_stride: usize,
    /// Where all the memory is, as the owner counts its devices.
    pub device: Device,
    /// The memory: one part, or one for each layer.
    #[serde(deserialize_with = "bounded_parts")]
    pub parts: Vec<PartDescription>,
}

impl LayoutDescription {
    /// Parts of a layout that is accepted from a peer.
    pub const MAX_PARTS: usize = 16_384;
}

/// One part of a described layout.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "it is these two numbers and will stay so")]
pub struct PartDescription {
    /// Address of the first byte in the owner's address space.
    pub address: u64,
    /// Number of bytes.
    pub len: u64,
}

impl From<&Layout> for LayoutDescription {
    fn from(layout: &Layout) -> Self {
        let part = |part: &crate::Descriptor| PartDescription {
            address: part.address(),
            len: part.len() as u64,
        };
        Self {
            geometry: *layout.geometry(),
            kind: layout.kind(),
            block_stride: layout.block_stride(),
            device: layout.device(),
            parts: layout.parts().iter().map(part).collect(),
        }
    }
}

/// A peer's layout: consistent in itself, and nothing but numbers.
///
/// That the peer offered this memory is not known here: compare the spans with what was offered before using them.
#[derive(Debug)]
pub struct RemoteLayout {
    placement: Placement,
    /// Where each part begins.
    addresses: Vec<u64>,
}

impl RemoteLayout {
    /// The shape of the blocks and their number.
    #[must_use]
    pub fn geometry(&self) -> &LayoutGeometry {
        &self.placement.geometry
    }

    /// How the chunks are arranged.
    #[must_use]
    pub fn kind(&self) -> LayoutKind {
        self.placement.kind
    }

    /// Where all the memory is, as the peer counts its devices.
    #[must_use]
    pub fn device(&self) -> Device {
        self.placement.device
    }

    /// Where one chunk lies in the peer's address space. Panics: never.
    ///
    /// # Errors
    /// [`SelectionError`] if there is no such block, layer or outer index.
    pub fn chunk(&self, block: usize, layer: usize, outer: usize) -> Result<Span, SelectionError> {
        let chunk = self.placement.chunk(block, layer, outer)?;
        Ok(self.span(chunk.part, chunk.offset, chunk.len))
    }

    /// The number of the part that a layer lies in.
    #[must_use]
    pub fn part_of(&self, layer: usize) -> usize {
        self.placement.strides.of_layer(layer, 0).0
    }

    /// Bytes that the placement puts into a part.
    pub(super) fn span(&self, part: usize, offset: usize, len: usize) -> Span {
        // Does not wrap: they are inside the part, whose end is an address.
        let address = self.addresses[part] + offset as u64;
        Span { address, len: len as u64, device: self.device() }
    }

    pub(super) fn placement(&self) -> &Placement {
        &self.placement
    }
}

/// Checks everything that [`Layout`] checks, with bounds on what a peer may ask for. Panics: never.
impl TryFrom<&LayoutDescription> for RemoteLayout {
    type Error = LayoutError;

    fn try_from(description: &LayoutDescription) -> Result<Self, LayoutError> {
        let &LayoutDescription { geometry, kind, block_stride, device, ref parts } = description;
        let most = LayoutDescription::MAX_PARTS;
        if parts.len() > most {
            return Err(LayoutError::TooManyParts { parts: parts.len(), most });
        }
        let ranges = parts.iter().map(|part| (part.address, part.len));
        let placement = Placement::new(geometry, kind, Some(block_stride), device, ranges)?;
        let addresses = parts.iter().map(|part| part.address).collect();
        Ok(Self { placement, addresses })
    }
}

/// Stops at the first part too many, for any length that the peer announced.
fn bounded_parts<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<PartDescription>, D::Error> {
    struct Parts;

    impl<'de> Visitor<'de> for Parts {
        type Value = Vec<PartDescription>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "at most {} parts", LayoutDescription::MAX_PARTS)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
            let mut parts = Vec::new();
            while let Some(part) = sequence.next_element()? {
                if parts.len() == LayoutDescription::MAX_PARTS {
                    return Err(de::Error::invalid_length(parts.len() + 1, &self));
                }
                parts.push(part);
            }
            Ok(parts)
        }
    }

    input.deserialize_seq(Parts)
}
