//! The shape of blocks, and whether two shapes are the same.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The elements of one token in one layer and one outer part.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Inner {
    /// So many attention heads of so many elements each.
    Heads {
        /// Number of KV heads.
        heads: usize,
        /// Elements of a head.
        head_size: usize,
    },
    /// So many elements, of which nothing more is known, such as the latent vector of MLA.
    Elements(usize),
}

/// The sizes of a cache, before they are checked: what [`LayoutGeometry`] is made from.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "plain values that callers write out")]
pub struct Dimensions {
    /// Number of blocks.
    pub blocks: usize,
    /// Layers of a block.
    pub layers: usize,
    /// Parts of a layer: 2 for K and V, 1 for a fused one.
    pub outer: usize,
    /// Tokens of a block.
    pub page_size: usize,
    /// Elements of a token.
    pub inner: Inner,
    /// Bytes of an element: 1, 2, 4 or 8.
    pub element_width: usize,
}

/// One of the sizes in [`Dimensions`].
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Dimension {
    /// [`Dimensions::blocks`]
    Blocks,
    /// [`Dimensions::layers`]
    Layers,
    /// [`Dimensions::outer`]
    Outer,
    /// [`Dimensions::page_size`]
    PageSize,
    /// [`Inner::Heads`]: the number of heads.
    Heads,
    /// [`Inner::Heads`]: the elements of a head.
    HeadSize,
    /// The elements of a token.
    Inner,
    /// [`Dimensions::element_width`]
    ElementWidth,
}

impl fmt::Display for Dimension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Blocks => "number of blocks",
            Self::Layers => "number of layers",
            Self::Outer => "outer dimension",
            Self::PageSize => "page size",
            Self::Heads => "number of heads",
            Self::HeadSize => "head size",
            Self::Inner => "inner size",
            Self::ElementWidth => "element width",
        })
    }
}

/// Why sizes are not those of a cache.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum GeometryError {
    /// A size is zero.
    #[error("the {dimension} is 0: it must be at least 1")]
    Zero {
        /// Which size.
        dimension: Dimension,
    },
    /// A block has something else than K and V, or one fused part.
    #[error("the outer dimension is {outer}: it must be 1, or 2 for K and V")]
    Outer {
        /// What was given.
        outer: usize,
    },
    /// Elements do not have such a width.
    #[error("the element width is {width} bytes: it must be 1, 2, 4 or 8")]
    ElementWidth {
        /// What was given.
        width: usize,
    },
    /// The cache has more bytes than can be addressed.
    #[error("{blocks} blocks of these dimensions have more bytes than can be addressed")]
    Overflow {
        /// Number of blocks.
        blocks: usize,
    },
}

/// Checked [`Dimensions`]: nothing is zero, and no product of them wraps.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Dimensions", into = "Dimensions")]
pub struct LayoutGeometry {
    dimensions: Dimensions,
    inner: usize,
    chunk_len: usize,
    layer_len: usize,
    block_len: usize,
    bytes: usize,
}

impl LayoutGeometry {
    /// The sizes it was made from.
    #[must_use]
    pub fn dimensions(&self) -> Dimensions {
        self.dimensions
    }

    /// Number of blocks.
    #[must_use]
    pub fn blocks(&self) -> usize {
        self.dimensions.blocks
    }

    /// Layers of a block.
    #[must_use]
    pub fn layers(&self) -> usize {
        self.dimensions.layers
    }

    /// Parts of a layer: 2 for K and V, 1 for a fused one.
    #[must_use]
    pub fn outer(&self) -> usize {
        self.dimensions.outer
    }

    /// Bytes of a chunk: one (block, layer, outer).
    #[must_use]
    pub fn chunk_len(&self) -> usize {
        self.chunk_len
    }

    /// Bytes of one layer of a block.
    #[must_use]
    pub fn layer_len(&self) -> usize {
        self.layer_len
    }

    /// Bytes of a block.
    #[must_use]
    pub fn block_len(&self) -> usize {
        self.block_len
    }

    /// Bytes of all blocks.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl TryFrom<Dimensions> for LayoutGeometry {
    type Error = GeometryError;

    fn try_from(dimensions: Dimensions) -> Result<Self, GeometryError> {
        let Dimensions { blocks, layers, outer, page_size, inner, element_width } = dimensions;
        let (heads, head_size, inner) = match inner {
            Inner::Heads { heads, head_size } => (heads, head_size, heads.checked_mul(head_size)),
            Inner::Elements(elements) => (1, 1, Some(elements)),
        };
        let sizes = [
            (Dimension::Blocks, blocks),
            (Dimension::Layers, layers),
            (Dimension::PageSize, page_size),
            (Dimension::Heads, heads),
            (Dimension::HeadSize, head_size),
            (Dimension::Inner, inner.unwrap_or(usize::MAX)),
        ];
        if let Some(&(dimension, _)) = sizes.iter().find(|(_, size)| *size == 0) {
            return Err(GeometryError::Zero { dimension });
        }
        if !matches!(outer, 1 | 2) {
            return Err(GeometryError::Outer { outer });
        }
        if !matches!(element_width, 1 | 2 | 4 | 8) {
            return Err(GeometryError::ElementWidth { width: element_width });
        }
        let checked = || {
            let inner = inner?;
            let chunk_len = inner.checked_mul(page_size)?.checked_mul(element_width)?;
            let layer_len = chunk_len.checked_mul(outer)?;
            let block_len = layer_len.checked_mul(layers)?;
            let bytes = block_len.checked_mul(blocks)?;
            Some(Self { dimensions, inner, chunk_len, layer_len, block_len, bytes })
        };
        checked().ok_or(GeometryError::Overflow { blocks })
    }
}

impl From<LayoutGeometry> for Dimensions {
    fn from(geometry: LayoutGeometry) -> Self {
        geometry.dimensions
    }
}

/// Blocks of two layouts are not the same thing.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "the {dimension} is {src} in the source and {dst} in the destination: blocks must have the same shape on both sides"
)]
pub struct GeometryMismatch {
    pub(crate) dimension: Dimension,
    pub(crate) src: usize,
    pub(crate) dst: usize,
}

impl GeometryMismatch {
    /// What differs; the first one if there are several.
    #[must_use]
    pub fn dimension(&self) -> Dimension {
        self.dimension
    }

    /// The source's.
    #[must_use]
    pub fn src(&self) -> usize {
        self.src
    }

    /// The destination's.
    #[must_use]
    pub fn dst(&self) -> usize {
        self.dst
    }
}

/// Checks that blocks have the same shape on both sides: layers, outer, page size, inner and element width, not only
/// their number of bytes. The number of blocks may differ.
///
/// Heads are compared where both sides state them; a plain inner size is compared with their product. Panics: never.
///
/// # Errors
/// [`GeometryMismatch`] with the first dimension that differs.
pub fn same_geometry(src: &LayoutGeometry, dst: &LayoutGeometry) -> Result<(), GeometryMismatch> {
    let (a, b) = (&src.dimensions, &dst.dimensions);
    let heads = match (a.inner, b.inner) {
        (
            Inner::Heads { heads: a, head_size: a_size },
            Inner::Heads { heads: b, head_size: b_size },
        ) => [(Dimension::Heads, a, b), (Dimension::HeadSize, a_size, b_size)],
        _ => [(Dimension::Inner, src.inner, dst.inner); 2],
    };
    let rest = [
        (Dimension::Layers, a.layers, b.layers),
        (Dimension::Outer, a.outer, b.outer),
        (Dimension::PageSize, a.page_size, b.page_size),
        (Dimension::ElementWidth, a.element_width, b.element_width),
    ];
    match rest.into_iter().chain(heads).find(|(_, src, dst)| src != dst) {
        Some((dimension, src, dst)) => Err(GeometryMismatch { dimension, src, dst }),
        None => Ok(()),
    }
}
