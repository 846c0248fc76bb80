//! Layouts: the addresses of KV-cache blocks, and which bytes of one layout correspond to which of another.
//!
//! A cache holds *blocks*; a block holds, for each *layer* and each *outer* part (K and V, or one fused part), the
//! *page* of some tokens with *inner* elements each. A chunk is the bytes of one (block, layer, outer): it is
//! contiguous in every layout, and its inside, `[page][inner]`, is the same in all. Layouts differ in where they put
//! the chunks:
//!
//! | [`LayoutKind`] | parts | order inside a part |
//! |---|---|---|
//! | [`FullyContiguous`](LayoutKind::FullyContiguous) | one | `[block][layer][outer]` chunks |
//! | [`PerLayer`](LayoutKind::PerLayer)([`BlockFirst`](LayerOrder::BlockFirst)) | one for each layer | `[block][outer]` chunks |
//! | [`PerLayer`](LayoutKind::PerLayer)([`OuterFirst`](LayerOrder::OuterFirst)) | one for each layer | `[outer][block]` chunks |
//!
//! A [`Layout`] lies over [`Descriptor`](crate::Descriptor)s of memory that this process owns or borrowed from a
//! framework, on any one device. A [`RemoteLayout`] is a peer's, as numbers. [`pair_chunks`] returns which bytes to copy where;
//! it checks every precondition of the copy, in every build.
//!
//! # Rules
//!
//! * **Padding**: blocks may lie further apart than they are long, because paged frameworks pad them
//!   ([`Layout::with_block_stride`]). What is between blocks and after the last one is padding and never
//!   touched.
//! * **Number of blocks**: may differ between two layouts that exchange blocks. Everything else must be equal
//!   ([`same_geometry`]).
//! * **Nothing to do**: no blocks, or an empty range of layers, is an error, as an empty list of descriptors is.
//! * **Repetition**: a block may be the source of several copies, and the destination of one.
//! * **Overlap**: the parts of a layout are disjoint. Source and destination may be one layout or share memory, as long
//!   as no byte that is written is also read. Memory is distinguished by device and address, not by region.
//! * **Alignment**: none is required, of addresses or strides.
//!
//! # Example
//!
//! ```
//! use nixl_descriptor::Region;
//! use nixl_descriptor::layout::{
//!     Dimensions, Inner, LayerOrder, Layout, LayoutGeometry, pair_chunks,
//! };
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let geometry = LayoutGeometry::try_from(Dimensions {
//!     blocks: 4,
//!     layers: 3,
//!     outer: 2,
//!     page_size: 16,
//!     inner: Inner::Heads { heads: 8, head_size: 128 },
//!     element_width: 2,
//! })?;
//! let one_layer = geometry.blocks() * geometry.layer_len();
//! let mut parts = Vec::new();
//! for _ in 0..geometry.layers() {
//!     parts.push(Region::zeroed(one_layer)?.into());
//! }
//! let cache = Layout::per_layer(geometry, LayerOrder::BlockFirst, parts)?;
//! let store = Layout::fully_contiguous(geometry, Region::zeroed(geometry.bytes())?)?;
//!
//! // Blocks 3 and 1 of the cache go to blocks 0 and 2 of the store: K and V of a layer in one piece.
//! let pairs = pair_chunks(&cache, &[3, 1], &store, &[0, 2], 0..3)?;
//! assert_eq!(pairs.bytes(), 2 * geometry.block_len());
//! assert_eq!(pairs.chunks().count(), 2 * 3);
//! # Ok(())
//! # }
//! ```

#[cfg(test)]
mod arbitrary;
mod axes;
mod block_part;
mod chunks;
mod copy;
mod description;
mod geometry;
mod grant;
mod lease;
mod local;
mod pair;
mod pieces;
mod placement;
mod remote_pairs;

pub use self::axes::Axis;
pub use self::block_part::{BlockPart, pair_parts, pair_remote_parts};
pub use self::chunks::{BlockPairs, ChunkPair, ChunkPairs};
pub use self::copy::BlockAccessError;
pub use self::description::{LayoutDescription, PartDescription, RemoteLayout};
pub use self::geometry::{
    Dimension, Dimensions, GeometryError, GeometryMismatch, Inner, LayoutGeometry, same_geometry,
};
pub use self::grant::{BlockGrant, BlockGrantError, BlockGrants};
pub use self::lease::BlockLeaseError;
pub use self::local::{Layout, LayoutId};
pub use self::pair::{ChunkPairError, pair_chunks};
pub use self::pieces::LayoutPieces;
pub use self::placement::{ByteSpan, LayerOrder, LayoutError, LayoutKind, SelectionError};
pub use self::remote_pairs::{RemotePairs, pair_remote_chunks};
