//! Layouts as the metadata of an export names them, and back.

use nixl_descriptor::layout::{
    Dimensions, GeometryError, Inner, LayerOrder, Layout, LayoutDescription, LayoutError,
    LayoutGeometry, LayoutKind, PartDescription, RemoteLayout,
};
use nixl_descriptor::tensor::TensorLayout;
use nixl_metadata::{ExportedInner, ExportedKind, ExportedLayout, ExportedPart, TensorDescription};
use thiserror::Error;

use crate::ConnectorError;
use crate::tensors::describe as describe_tensor;

/// Why a layout cannot be exported, or that of a peer not be used.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum ExportedLayoutError {
    /// A dimension is larger than the metadata of an export can say.
    #[error("the {dimension} of the layout is {size}, and at most {most} can be exported")]
    TooLarge {
        /// Which dimension.
        dimension: &'static str,
        /// Its size.
        size: usize,
        /// The largest.
        most: u64,
    },
    /// The peer's sizes do not suit each other.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// The peer's memory does not suit its sizes.
    #[error(transparent)]
    Layout(#[from] LayoutError),
}

/// The tensors of blocks for peers, in the order of the layouts. Of two for one layout, the metadata refuses the second.
pub(super) fn tensors(
    tensors: &[(String, TensorLayout)],
    layouts: &[ExportedLayout],
) -> Result<Vec<(u16, TensorDescription)>, ConnectorError> {
    let described = tensors.iter().map(|(name, tensor)| {
        let at = layouts.iter().position(|layout| layout.name == *name);
        let missing = || ConnectorError::NoSuchLayout { layout: name.clone() };
        let at = at.and_then(|at| u16::try_from(at).ok()).ok_or_else(missing)?;
        Ok::<_, ConnectorError>((at, describe_tensor(tensor)?))
    });
    let mut described = described.collect::<Result<Vec<_>, _>>()?;
    described.sort_by_key(|(at, _)| *at);
    Ok(described)
}

/// The description of a layout of this process for peers.
pub(super) fn describe(name: &str, layout: &Layout) -> Result<ExportedLayout, ExportedLayoutError> {
    let description = LayoutDescription::from(layout);
    let dimensions = Dimensions::from(description.geometry);
    let kind = match description.kind {
        LayoutKind::FullyContiguous => ExportedKind::FullyContiguous,
        LayoutKind::PerLayer(LayerOrder::BlockFirst) => ExportedKind::BlockFirst,
        _ => ExportedKind::OuterFirst,
    };
    let inner = match dimensions.inner {
        Inner::Heads { heads, head_size } => {
            ExportedInner::Heads { heads: heads as u64, head_size: head_size as u64 }
        }
        // Of another kind only the number of elements is described.
        _ => {
            let token = dimensions.page_size * dimensions.element_width;
            ExportedInner::Elements((description.geometry.chunk_len() / token) as u64)
        }
    };
    let part = |part: &PartDescription| ExportedPart { address: part.address, len: part.len };
    Ok(ExportedLayout {
        name: name.to_owned(),
        kind,
        blocks: dimensions.blocks as u64,
        layers: fit("number of layers", dimensions.layers)?,
        outer: fit("number of outer parts", dimensions.outer)?,
        page_size: dimensions.page_size as u64,
        inner,
        element_width: fit("element width", dimensions.element_width)?,
        block_stride: description.block_stride as u64,
        device: description.device,
        parts: description.parts.iter().map(part).collect(),
    })
}

/// The layout that a peer describes, with everything checked that could make a read go wrong.
pub(super) fn remote(exported: &ExportedLayout) -> Result<RemoteLayout, ExportedLayoutError> {
    // A size that no address space of this process can have is too large for its geometry, too.
    let size = |size: u64| usize::try_from(size).unwrap_or(usize::MAX);
    let inner = match exported.inner {
        ExportedInner::Heads { heads, head_size } => {
            Inner::Heads { heads: size(heads), head_size: size(head_size) }
        }
        ExportedInner::Elements(elements) => Inner::Elements(size(elements)),
    };
    let geometry = LayoutGeometry::try_from(Dimensions {
        blocks: size(exported.blocks),
        layers: exported.layers.into(),
        outer: exported.outer.into(),
        page_size: size(exported.page_size),
        inner,
        element_width: exported.element_width.into(),
    })?;
    let kind = match exported.kind {
        ExportedKind::FullyContiguous => LayoutKind::FullyContiguous,
        ExportedKind::BlockFirst => LayoutKind::PerLayer(LayerOrder::BlockFirst),
        ExportedKind::OuterFirst => LayoutKind::PerLayer(LayerOrder::OuterFirst),
    };
    let part = |part: &ExportedPart| PartDescription { address: part.address, len: part.len };
    let description = LayoutDescription {
        geometry,
        kind,
        block_stride: size(exported.block_stride),
        device: exported.device,
        parts: exported.parts.iter().map(part).collect(),
    };
    Ok(RemoteLayout::try_from(&description)?)
}

fn fit<T: TryFrom<usize> + TryFrom<u64>>(
    dimension: &'static str,
    size: usize,
) -> Result<T, ExportedLayoutError> {
    let bits = 8 * size_of::<T>() as u32;
    let most = u64::MAX >> (u64::BITS - bits);
    T::try_from(size).map_err(|_| ExportedLayoutError::TooLarge { dimension, size, most })
}

#[cfg(test)]
mod tests {
    use nixl_descriptor::Region;

    use super::*;

    fn layout(kind: LayoutKind, inner: Inner) -> Layout {
        let geometry = LayoutGeometry::try_from(Dimensions {
            blocks: 5,
            layers: 3,
            outer: 2,
            page_size: 4,
            inner,
            element_width: 2,
        })
        .unwrap();
        let parts = if kind == LayoutKind::FullyContiguous { 1 } else { 3 };
        let len = 2 * geometry.bytes();
        let parts = (0..parts).map(|_| Region::zeroed(len).unwrap().into()).collect();
        let least = match kind {
            LayoutKind::FullyContiguous => geometry.block_len(),
            LayoutKind::PerLayer(LayerOrder::BlockFirst) => geometry.layer_len(),
            _ => geometry.chunk_len(),
        };
        Layout::with_block_stride(geometry, kind, least + 8, parts).unwrap()
    }

    #[test]
    fn a_layout_comes_back_from_its_description() {
        let kinds = [
            LayoutKind::FullyContiguous,
            LayoutKind::PerLayer(LayerOrder::BlockFirst),
            LayoutKind::PerLayer(LayerOrder::OuterFirst),
        ];
        for kind in kinds {
            for inner in [Inner::Elements(6), Inner::Heads { heads: 2, head_size: 3 }] {
                let here = layout(kind, inner);
                let there = remote(&describe("full", &here).unwrap()).unwrap();
                assert_eq!(there.geometry(), here.geometry());
                assert_eq!(there.kind(), kind);
                let span = there.chunk(4, 2, 1).unwrap();
                let chunk = here.chunk(4, 2, 1).unwrap();
                let address = here.parts()[chunk.part].address() + chunk.offset as u64;
                assert_eq!((span.address, span.len), (address, chunk.len as u64));
            }
        }
    }

    #[test]
    fn sizes_that_do_not_suit_each_other_are_refused() {
        let here = layout(LayoutKind::FullyContiguous, Inner::Elements(6));
        let described = describe("full", &here).unwrap();
        let refused = |change: fn(&mut ExportedLayout)| {
            let mut other = described.clone();
            change(&mut other);
            remote(&other).unwrap_err()
        };
        let error = refused(|layout| layout.blocks = 1 << 32);
        assert!(matches!(error, ExportedLayoutError::Layout(_)), "{error}");
        let error = refused(|layout| layout.page_size = u64::MAX);
        assert!(matches!(error, ExportedLayoutError::Geometry(_)), "{error}");
        let error = refused(|layout| layout.block_stride = 1);
        assert!(matches!(error, ExportedLayoutError::Layout(_)), "{error}");
    }
}
