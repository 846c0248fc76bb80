//! The pieces of a peer's layout and of one of this process, each at a fixed position.

use std::ops::Range;

use super::chunks::{Fold, run_end};
use super::description::RemoteLayout;
use super::geometry::{LayoutGeometry, same_geometry};
use super::local::Layout;
use super::pair::ChunkPairError;
use super::placement::Strides;
use crate::coalesce::Span;
use crate::descriptor::Descriptor;

/// Which pieces two layouts have, for engines that prepare lists of all of them once: by piece of a block, and then by block. A
/// piece is what both layouts keep together of a block.
#[derive(Clone, Debug)]
pub struct LayoutPieces {
    geometry: LayoutGeometry,
    /// The peer's, and those of this process.
    strides: [Strides; 2],
    blocks: [usize; 2],
    fold: Fold,
}

impl LayoutPieces {
    /// The pieces of a peer's layout and of one here.
    ///
    /// # Errors
    /// [`ChunkPairError::Geometry`] if blocks of the two do not have the same shape.
    pub fn of(remote: &RemoteLayout, local: &Layout) -> Result<Self, ChunkPairError> {
        same_geometry(remote.geometry(), local.geometry())?;
        let geometry = *local.geometry();
        let strides = [remote.placement().strides, local.placement().strides];
        let blocks = [remote.geometry().blocks(), geometry.blocks()];
        let fold = Fold::new(&geometry, strides, 0..geometry.layers());
        Ok(Self { geometry, strides, blocks, fold })
    }

    /// How many pieces the peer's layout has, and that of this process.
    #[must_use]
    pub fn counts(&self) -> [usize; 2] {
        self.blocks.map(|blocks| blocks.saturating_mul(self.fold.pieces()))
    }

    /// All pieces of the peer's layout.
    pub fn remote(&self, layout: &RemoteLayout) -> Vec<Span> {
        self.each(0).map(|(part, offset)| layout.span(part, offset, self.fold.len)).collect()
    }

    /// All pieces of the layout of this process.
    pub fn local(&self, layout: &Layout) -> Vec<Descriptor> {
        // Inside its part, as the constructor of the layout checked.
        let piece =
            |(part, offset): (usize, usize)| layout.parts()[part].part(offset, self.fold.len);
        self.each(1).map(piece).collect()
    }

    /// The positions, here and at the peer, of the runs that [`pair_remote_chunks`](super::pair_remote_chunks) pairs of these
    /// blocks and layers, in its order. `None` if one of the runs is no piece: it is of several blocks, or of other layers.
    #[must_use]
    pub fn positions(
        &self,
        remote_blocks: &[u32],
        local_blocks: &[u32],
        layers: Range<usize>,
    ) -> Option<Vec<[u32; 2]>> {
        let fold = Fold::new(&self.geometry, self.strides, layers);
        if fold.len != self.fold.len || remote_blocks.len() != local_blocks.len() {
            return None;
        }
        let is_dense = self.strides.iter().all(|side| side.block == fold.len);
        let is_alone = |at| run_end(remote_blocks, local_blocks, at, is_dense) == at + 1;
        if !(0..remote_blocks.len()).all(is_alone) {
            return None;
        }
        let outers = self.fold.outers();
        let mut positions = Vec::with_capacity(fold.pieces().saturating_mul(remote_blocks.len()));
        for index in 0..fold.pieces() {
            let (layer, outer) = fold.piece(index);
            let piece = layer * outers + outer;
            let at = |side: usize, block: u32| {
                let position = piece * self.blocks[side] + block as usize;
                u32::try_from(position).ok().filter(|_| (block as usize) < self.blocks[side])
            };
            for (&there, &here) in remote_blocks.iter().zip(local_blocks) {
                positions.push([at(1, here)?, at(0, there)?]);
            }
        }
        Some(positions)
    }

    /// Where the pieces of a side lie: part and offset.
    fn each(&self, side: usize) -> impl Iterator<Item = (usize, usize)> {
        let (blocks, strides) = (self.blocks[side], self.strides[side]);
        let pieces = (0..self.fold.pieces()).map(|index| self.fold.piece(index));
        pieces.flat_map(move |(layer, outer)| {
            let place = move |block| strides.of_layer(layer, strides.in_layer(block, outer));
            (0..blocks).map(place)
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::arbitrary::{LAYERS, kind, layout};
    use super::super::{LayoutDescription, LayoutKind, pair_remote_chunks};
    use super::*;

    proptest! {
        /// The runs of a pairing are the pieces at their positions, or have none.
        #[test]
        fn positions_name_what_is_paired(
            (kinds, outer) in ((kind(), kind()), 1..3usize),
            paddings in (0..2usize, 0..2usize),
            theirs in Just((0..9u32).collect::<Vec<_>>()).prop_shuffle(),
            ours in Just((0..7u32).collect::<Vec<_>>()).prop_shuffle(),
            count in 1..7usize,
            layers in (0..LAYERS, 1..=LAYERS),
        ) {
            let (there, here) =
                (layout(kinds.0, 9, outer, paddings.0), layout(kinds.1, 7, outer, paddings.1));
            let layers = layers.0..(layers.0 + layers.1).min(LAYERS);
            let (theirs, ours) = (&theirs[..count], &ours[..count]);
            let remote = RemoteLayout::try_from(&LayoutDescription::from(&there)).unwrap();
            let ids = |ids: &[u32]| ids.iter().map(|id| *id as usize).collect::<Vec<_>>();
            let pairs =
                pair_remote_chunks(&remote, &ids(theirs), &here, &ids(ours), layers.clone())
                    .unwrap();
            let pieces = LayoutPieces::of(&remote, &here).unwrap();
            let lists = (pieces.remote(&remote), pieces.local(&here));
            prop_assert_eq!([lists.0.len(), lists.1.len()], pieces.counts());
            let spans = pairs.remote().to_vec();
            let local: Vec<_> = pairs.into_local().iter().map(Span::from).collect();
            match pieces.positions(theirs, ours, layers) {
                Some(positions) => {
                    prop_assert_eq!(positions.len(), spans.len());
                    for (index, [here, there]) in positions.into_iter().enumerate() {
                        prop_assert_eq!(Span::from(&lists.1[here as usize]), local[index]);
                        prop_assert_eq!(lists.0[there as usize], spans[index]);
                    }
                }
                None => {
                    let piece = lists.0[0].len;
                    prop_assert!(spans.iter().any(|span| span.len != piece));
                }
            }
        }
    }

    #[test]
    fn blocks_that_do_not_exist_have_no_position() {
        let (there, here) = (
            layout(LayoutKind::FullyContiguous, 4, 1, 0),
            layout(LayoutKind::FullyContiguous, 3, 1, 0),
        );
        let remote = RemoteLayout::try_from(&LayoutDescription::from(&there)).unwrap();
        let pieces = LayoutPieces::of(&remote, &here).unwrap();
        let positions = |theirs: &[u32], ours: &[u32]| pieces.positions(theirs, ours, 0..LAYERS);
        assert_eq!(positions(&[3], &[2]), Some(vec![[2, 3]]));
        assert_eq!(positions(&[4], &[2]), None);
        assert_eq!(positions(&[3], &[3]), None);
        assert_eq!(positions(&[3, 1], &[2]), None);
    }
}
