//! Parts of blocks: some layers, of these some outer parts, and of each some tokens.

use std::ops::Range;

use super::description::RemoteLayout;
use super::geometry::{LayoutGeometry, same_geometry};
use super::local::Layout;
use super::pair::ChunkPairError;
use super::placement::{ByteSpan, Placement, SelectionError};
use super::remote_pairs::{RemotePairs, check, pair_remote_chunks};
use crate::descriptor::Descriptor;

/// A part of each block of a transfer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BlockPart {
    layers: Range<usize>,
    outer: Option<Range<usize>>,
    tokens: Option<Range<usize>>,
}

impl BlockPart {
    /// These layers, with all their bytes.
    #[must_use]
    pub fn of_layers(layers: Range<usize>) -> Self {
        Self { layers, outer: None, tokens: None }
    }

    /// Only these outer parts of each layer: with K and V apart, `0..1` is K.
    #[must_use]
    pub fn outer(mut self, outer: Range<usize>) -> Self {
        self.outer = Some(outer);
        self
    }

    /// Only these tokens of each block, by their position in it.
    #[must_use]
    pub fn tokens(mut self, tokens: Range<usize>) -> Self {
        self.tokens = Some(tokens);
        self
    }

    /// The layers.
    #[must_use]
    pub fn layers(&self) -> &Range<usize> {
        &self.layers
    }

    /// The outer parts, if they are not all.
    #[must_use]
    pub fn outer_parts(&self) -> Option<&Range<usize>> {
        self.outer.as_ref()
    }

    /// The tokens, if they are not all.
    #[must_use]
    pub fn token_range(&self) -> Option<&Range<usize>> {
        self.tokens.as_ref()
    }

    /// The number of chunks of a part of a block of this geometry: one for each layer and outer part.
    #[must_use]
    pub fn chunks(&self, geometry: &LayoutGeometry) -> usize {
        let outers = self.outer.as_ref().map_or(geometry.outer(), |outer| outer.len());
        self.layers.len().saturating_mul(outers)
    }

    /// Whether it has all bytes of its layers.
    #[must_use]
    pub fn has_whole_layers(&self, geometry: &LayoutGeometry) -> bool {
        let is_all = |range: &Option<Range<usize>>, all| {
            range.as_ref().is_none_or(|range| *range == (0..all))
        };
        is_all(&self.outer, geometry.outer())
            && is_all(&self.tokens, geometry.dimensions().page_size)
    }

    /// The outer parts, and the bytes of each chunk.
    fn ranges(
        &self,
        geometry: &LayoutGeometry,
    ) -> Result<(Range<usize>, Range<usize>), SelectionError> {
        let (count, page_size) = (geometry.outer(), geometry.dimensions().page_size);
        let outer = self.outer.clone().unwrap_or(0..count);
        if outer.is_empty() || outer.end > count {
            return Err(SelectionError::Outer { outer: outer.end.saturating_sub(1), count });
        }
        let tokens = self.tokens.clone().unwrap_or(0..page_size);
        if tokens.is_empty() || tokens.end > page_size {
            let Range { start, end } = tokens;
            return Err(SelectionError::Tokens { start, end, page_size });
        }
        let token = geometry.chunk_len() / page_size;
        Ok((outer, tokens.start * token..tokens.end * token))
    }
}

/// Pairs a part of `remote_blocks[i]` of a peer's layout with the same part of `local_blocks[i]` of one here. A part of whole layers
/// is paired as by [`pair_remote_chunks`]; otherwise each chunk is a run of its own.
///
/// Takes some nanoseconds for each run. Panics: never.
///
/// # Errors
/// As there, and [`SelectionError::Outer`] or [`SelectionError::Tokens`] as the `Source`.
pub fn pair_remote_parts(
    remote: &RemoteLayout,
    remote_blocks: &[usize],
    local: &Layout,
    local_blocks: &[usize],
    part: &BlockPart,
) -> Result<RemotePairs, ChunkPairError> {
    if part.has_whole_layers(local.geometry()) {
        let layers = part.layers.clone();
        return pair_remote_chunks(remote, remote_blocks, local, local_blocks, layers);
    }
    let sides = ((remote.placement(), remote_blocks), (local.placement(), local_blocks));
    let spans = spans(sides, part)?;
    let pieces = spans.len() / local_blocks.len();
    let mut pairs = RemotePairs::with_capacity(spans.len(), pieces);
    for (there, here) in spans {
        pairs.push((there.part, remote.span(there.part, there.offset, there.len)), {
            // Inside its part, as the constructor of the layout checked.
            local.parts()[here.part].part(here.offset, here.len)
        });
    }
    Ok(pairs)
}

/// As [`pair_remote_parts`], of two layouts of this process: source and destination of each run. Bytes that both share are not looked
/// for.
///
/// # Errors
/// As there.
pub fn pair_parts(
    src: &Layout,
    src_blocks: &[usize],
    dst: &Layout,
    dst_blocks: &[usize],
    part: &BlockPart,
) -> Result<Vec<(ByteSpan, ByteSpan)>, ChunkPairError> {
    spans(((src.placement(), src_blocks), (dst.placement(), dst_blocks)), part)
}

impl Layout {
    /// A part of blocks in the order of the runs that a peer has [paired](pair_remote_parts), if it has cut each block into as many
    /// [pieces](RemotePairs::pieces): a descriptor for each, all equally long.
    ///
    /// # Errors
    /// [`SelectionError`]: there are no such blocks or parts; [`SelectionError::Pieces`] if the part cannot be cut so.
    pub fn piece_descriptors(
        &self,
        blocks: &[usize],
        part: &BlockPart,
        pieces: usize,
    ) -> Result<Vec<Descriptor>, SelectionError> {
        let (placement, strides) = (self.placement(), self.placement().strides);
        let ids = placement.select(blocks)?;
        placement.check_layers(&part.layers)?;
        let (outers, bytes) = part.ranges(&placement.geometry)?;
        let chunks = part.layers.len() * outers.len();
        let is_cut = pieces > 0 && chunks.is_multiple_of(pieces);
        // Less than a chunk is a piece of its own.
        if !is_cut || (pieces < chunks && !part.has_whole_layers(&placement.geometry)) {
            return Err(SelectionError::Pieces { pieces, chunks });
        }
        let of_piece = chunks / pieces;
        let place = |block: u32, chunk: usize| {
            let layer = part.layers.start + chunk / outers.len();
            let outer = outers.start + chunk % outers.len();
            strides.of_layer(layer, strides.in_layer(block as usize, outer))
        };
        // Where its first and its last chunk lie the same way in all blocks.
        let is_together = |piece: usize| {
            let (first, last) = (place(0, piece * of_piece), place(0, (piece + 1) * of_piece - 1));
            first.0 == last.0 && first.1 + (of_piece - 1) * bytes.len() == last.1
        };
        if !(0..pieces).all(is_together) {
            return Err(SelectionError::Pieces { pieces, chunks });
        }
        let mut list = Vec::with_capacity(pieces.saturating_mul(ids.ids().len()));
        for piece in 0..pieces {
            for &block in ids.ids().iter() {
                let (part, offset) = place(block, piece * of_piece);
                // Inside its part, as the constructor checked.
                let len = of_piece * bytes.len();
                list.push(self.parts()[part].part(offset + bytes.start, len));
            }
        }
        Ok(list)
    }
}

/// A layout and blocks of it.
type Side<'a> = (&'a Placement, &'a [usize]);

/// The runs of a part, chunk by chunk: those of a layer and of an outer part follow each other.
fn spans(
    (there, here): (Side<'_>, Side<'_>),
    part: &BlockPart,
) -> Result<Vec<(ByteSpan, ByteSpan)>, ChunkPairError> {
    same_geometry(&there.0.geometry, &here.0.geometry)?;
    if there.1.len() != here.1.len() {
        return Err(ChunkPairError::Count { src: there.1.len(), dst: here.1.len() });
    }
    check(there, here, &part.layers)?;
    let (outers, bytes) = part.ranges(&there.0.geometry).map_err(ChunkPairError::Source)?;
    let span = |placement: &Placement, block, (layer, outer)| {
        let strides = placement.strides;
        let (part, offset) = strides.of_layer(layer, strides.in_layer(block, outer));
        ByteSpan { part, offset: offset + bytes.start, len: bytes.len() }
    };
    let chunks = part.layers.len().saturating_mul(outers.len());
    let mut spans = Vec::with_capacity(chunks.saturating_mul(here.1.len()));
    for layer in part.layers.clone() {
        for outer in outers.clone() {
            for (&theirs, &ours) in there.1.iter().zip(here.1) {
                let chunk = (layer, outer);
                spans.push((span(there.0, theirs, chunk), span(here.0, ours, chunk)));
            }
        }
    }
    Ok(spans)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{
        Dimensions, Inner, LayerOrder, LayoutDescription, LayoutKind, RemoteLayout,
    };
    use super::*;
    use crate::region::Region;

    const LAYERS: usize = 3;
    const OUTER: usize = 2;
    const TOKENS: usize = 4;
    const TOKEN: usize = 6;

    fn layout(kind: LayoutKind, blocks: usize) -> (Layout, Vec<Region>) {
        let geometry = LayoutGeometry::try_from(Dimensions {
            blocks,
            layers: LAYERS,
            outer: OUTER,
            page_size: TOKENS,
            inner: Inner::Elements(TOKEN / 2),
            element_width: 2,
        })
        .unwrap();
        let lens = match kind {
            LayoutKind::FullyContiguous => vec![geometry.bytes()],
            _ => vec![blocks * geometry.layer_len(); LAYERS],
        };
        let regions: Vec<_> = lens.into_iter().map(|len| Region::zeroed(len).unwrap()).collect();
        let parts = regions.iter().map(Region::whole).collect();
        let stride = match kind {
            LayoutKind::FullyContiguous => geometry.block_len(),
            LayoutKind::PerLayer(LayerOrder::BlockFirst) => geometry.layer_len(),
            LayoutKind::PerLayer(LayerOrder::OuterFirst) => geometry.chunk_len(),
        };
        (Layout::with_block_stride(geometry, kind, stride, parts).unwrap(), regions)
    }

    fn kind() -> impl Strategy<Value = LayoutKind> {
        prop_oneof![
            Just(LayoutKind::FullyContiguous),
            Just(LayoutKind::PerLayer(LayerOrder::BlockFirst)),
            Just(LayoutKind::PerLayer(LayerOrder::OuterFirst)),
        ]
    }

    /// The address of a byte, as the layout's own chunks say.
    fn address(layout: &Layout, block: usize, (layer, outer): (usize, usize), byte: usize) -> u64 {
        let chunk = layout.chunk(block, layer, outer).unwrap();
        layout.parts()[chunk.part].address() + (chunk.offset + byte) as u64
    }

    proptest! {
        #[test]
        fn a_part_is_the_bytes_of_its_tokens(
            kinds in (kind(), kind()),
            theirs in prop::collection::vec(0..9usize, 1..6),
            first in 0..2usize,
            layer in 0..LAYERS,
            outer in 0..OUTER,
            token in 0..TOKENS,
            counts in (1..=LAYERS, 1..=OUTER, 1..=TOKENS),
        ) {
            let ((there, _kept), (here, _also)) = (layout(kinds.0, 9), layout(kinds.1, 7));
            let ours: Vec<usize> = (first..first + theirs.len()).collect();
            let layers = layer..(layer + counts.0).min(LAYERS);
            let outers = outer..(outer + counts.1).min(OUTER);
            let tokens = token..(token + counts.2).min(TOKENS);
            let part = BlockPart::of_layers(layers.clone()).outer(outers.clone()).tokens(tokens.clone());
            let mut expected = Vec::new();
            for (&theirs, &ours) in theirs.iter().zip(&ours) {
                for chunk in layers.clone().flat_map(|layer| outers.clone().map(move |outer| (layer, outer))) {
                    for byte in tokens.start * TOKEN..tokens.end * TOKEN {
                        expected.push((address(&there, theirs, chunk, byte), address(&here, ours, chunk, byte)));
                    }
                }
            }
            let remote = RemoteLayout::try_from(&LayoutDescription::from(&there)).unwrap();
            let pairs = pair_remote_parts(&remote, &theirs, &here, &ours, &part).unwrap();
            let runs: usize = pairs.remote_parts().iter().map(|(_, runs)| runs).sum();
            prop_assert_eq!(runs, pairs.remote().len());
            let (spans, pieces) = (pairs.remote().to_vec(), pairs.pieces());
            let mut found: Vec<_> = spans
                .iter()
                .zip(pairs.into_local())
                .flat_map(|(there, here)| (0..there.len).map(move |at| (there.address + at, here.address() + at)))
                .collect();
            expected.sort_unstable();
            found.sort_unstable();
            prop_assert_eq!(&found, &expected);
            // The owner lists the same bytes in the same order.
            let listed = there.piece_descriptors(&theirs, &part, pieces).unwrap();
            let bytes = |start: u64, len: u64| (start..start + len).collect::<Vec<_>>();
            let len = listed[0].len();
            prop_assert_eq!(listed.len(), pieces * theirs.len());
            prop_assert!(listed.iter().all(|d| d.len() == len));
            let of_owner: Vec<_> =
                listed.iter().flat_map(|d| bytes(d.address(), d.len() as u64)).collect();
            let of_peer: Vec<_> = spans.iter().flat_map(|span| bytes(span.address, span.len)).collect();
            prop_assert_eq!(of_owner, of_peer);
            if !part.has_whole_layers(here.geometry()) {
                let at = |layout: &Layout, span: ByteSpan, byte: usize| {
                    layout.parts()[span.part].address() + (span.offset + byte) as u64
                };
                let mut found: Vec<_> = pair_parts(&there, &theirs, &here, &ours, &part)
                    .unwrap()
                    .into_iter()
                    .flat_map(|(src, dst)| {
                        (0..src.len).map(|byte| (at(&there, src, byte), at(&here, dst, byte))).collect::<Vec<_>>()
                    })
                    .collect();
                found.sort_unstable();
                prop_assert_eq!(found, expected);
            }
        }
    }

    #[test]
    fn parts_that_do_not_exist_are_refused() {
        let (there, _kept) = layout(LayoutKind::FullyContiguous, 2);
        let remote = RemoteLayout::try_from(&LayoutDescription::from(&there)).unwrap();
        let (here, _also) = layout(LayoutKind::FullyContiguous, 2);
        let of =
            |part: BlockPart| pair_remote_parts(&remote, &[0], &here, &[0], &part).unwrap_err();
        let all = || BlockPart::of_layers(0..1);
        let outer = SelectionError::Outer { outer: 2, count: OUTER };
        assert_eq!(of(all().outer(1..3)), ChunkPairError::Source(outer));
        let tokens = |start, end| {
            ChunkPairError::Source(SelectionError::Tokens { start, end, page_size: TOKENS })
        };
        assert_eq!(of(all().tokens(3..5)), tokens(3, 5));
        assert_eq!(of(all().tokens(2..2)), tokens(2, 2));
        assert!(matches!(of(BlockPart::of_layers(0..4).tokens(0..1)), ChunkPairError::Source(_)));
        let cut = |part: BlockPart, pieces| there.piece_descriptors(&[1], &part, pieces).map(drop);
        let uneven = |pieces, chunks| Err(SelectionError::Pieces { pieces, chunks });
        assert_eq!(cut(all(), 0), uneven(0, OUTER));
        assert_eq!(cut(BlockPart::of_layers(0..3), 4), uneven(4, 3 * OUTER));
        assert_eq!(cut(all().tokens(0..1), 1), uneven(1, OUTER));
        assert_eq!(cut(all().tokens(0..1), OUTER), Ok(()));
        assert_eq!(cut(BlockPart::of_layers(0..3), 1), Ok(()));
        let (per_layer, _kept) = layout(LayoutKind::PerLayer(LayerOrder::BlockFirst), 2);
        let all_layers = BlockPart::of_layers(0..3);
        let apart = per_layer.piece_descriptors(&[1], &all_layers, 1).map(drop);
        assert_eq!(apart, uneven(1, 3 * OUTER), "each layer is in memory of its own");
        let twice = pair_remote_parts(&remote, &[0, 1], &here, &[1, 1], &all().tokens(0..1));
        assert_eq!(twice.unwrap_err(), ChunkPairError::Duplicate { block: 1 });
    }
}
