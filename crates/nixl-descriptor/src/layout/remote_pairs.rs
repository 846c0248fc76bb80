//! Chunks of a peer's layout paired with chunks of one of this process.

use std::borrow::Cow;
use std::ops::Range;

use super::chunks::{Fold, run_end};
use super::description::RemoteLayout;
use super::geometry::same_geometry;
use super::lease::duplicate;
use super::local::Layout;
use super::pair::ChunkPairError;
use super::placement::{Placement, Strides};
use crate::coalesce::Span;
use crate::descriptor::Descriptor;

/// Bytes of a peer and of this process that belong together, run by run.
#[derive(Clone, Debug)]
pub struct RemotePairs {
    remote: Vec<Span>,
    local: Vec<Descriptor>,
    parts: Vec<(usize, usize)>,
    pieces: usize,
}

impl RemotePairs {
    /// Room for so many runs, in which each block is cut into so many pieces.
    pub(super) fn with_capacity(runs: usize, pieces: usize) -> Self {
        let (remote, local) = (Vec::with_capacity(runs), Vec::with_capacity(runs));
        Self { remote, local, parts: Vec::new(), pieces }
    }

    /// Adds a run of a part of the peer's layout.
    pub(super) fn push(&mut self, (part, remote): (usize, Span), local: Descriptor) {
        self.remote.push(remote);
        match self.parts.last_mut() {
            Some((last, runs)) if *last == part => *runs += 1,
            _ => self.parts.push((part, 1)),
        }
        self.local.push(local);
    }

    /// Addresses in the owner's process: piece by piece of a block, so that the runs of one part follow each other.
    #[must_use]
    pub fn remote(&self) -> &[Span] {
        &self.remote
    }

    /// The parts of the peer's layout that the runs lie in, one after the other: the number of the part, and how many runs.
    #[must_use]
    pub fn remote_parts(&self) -> &[(usize, usize)] {
        &self.parts
    }

    /// The number of pieces of each block, in whose order the runs are: the first piece of each block, then the second of each.
    #[must_use]
    pub fn pieces(&self) -> usize {
        self.pieces
    }

    /// Memory of this process, as many runs of the same lengths.
    #[must_use]
    pub fn into_local(self) -> Vec<Descriptor> {
        self.local
    }
}

/// Pairs `remote_blocks[i]` of a peer's layout with `local_blocks[i]` of one here, in the given layers. Adjacent blocks without
/// padding are one run where they are adjacent on both sides.
///
/// Takes some nanoseconds for each run. Panics: never.
///
/// # Errors
/// [`ChunkPairError`]: `Source` is the peer's side and `Destination` this one; a local block twice is a
/// [`Duplicate`](ChunkPairError::Duplicate).
pub fn pair_remote_chunks(
    remote: &RemoteLayout,
    remote_blocks: &[usize],
    local: &Layout,
    local_blocks: &[usize],
    layers: Range<usize>,
) -> Result<RemotePairs, ChunkPairError> {
    same_geometry(remote.geometry(), local.geometry())?;
    if remote_blocks.len() != local_blocks.len() {
        let (src, dst) = (remote_blocks.len(), local_blocks.len());
        return Err(ChunkPairError::Count { src, dst });
    }
    let (there, here) = (remote.placement(), local.placement());
    let runs = runs((there, remote_blocks), (here, local_blocks), &layers)?;
    let fold = Fold::new(local.geometry(), [there.strides, here.strides], layers);
    let place = |strides: Strides, block: usize, (layer, outer): (usize, usize)| {
        strides.of_layer(layer, strides.in_layer(block, outer))
    };
    let count = fold.pieces();
    let mut pairs = RemotePairs::with_capacity(count.saturating_mul(runs.len()), count);
    for piece in (0..fold.pieces()).map(|index| fold.piece(index)) {
        for run in &*runs {
            let len = run.len() * fold.len;
            let (part, offset) = place(there.strides, remote_blocks[run.start], piece);
            let there = (part, remote.span(part, offset, len));
            let (part, offset) = place(here.strides, local_blocks[run.start], piece);
            // Inside its part, as the constructor of the layout checked.
            pairs.push(there, local.parts()[part].part(offset, len));
        }
    }
    Ok(pairs)
}

/// The blocks of one side, and where they lie.
type Side<'a> = (&'a Placement, &'a [usize]);

/// Whether there are these blocks and layers, and no local block twice.
pub(super) fn check(
    there: Side<'_>,
    here: Side<'_>,
    layers: &Range<usize>,
) -> Result<(), ChunkPairError> {
    runs(there, here, layers).map(drop)
}

/// Which of the blocks follow each other on both sides without padding, all of which exist, as do the layers.
fn runs(
    (there, theirs): Side<'_>,
    (here, ours): Side<'_>,
    layers: &Range<usize>,
) -> Result<Cow<'static, [Range<usize>]>, ChunkPairError> {
    const ALONE: Range<usize> = 0..1;
    if let (&[theirs], &[ours]) = (theirs, ours) {
        // No other follows it, or is the same.
        there.check_block(theirs).map_err(ChunkPairError::Source)?;
        here.check_block(ours).map_err(ChunkPairError::Destination)?;
        there.check_layers(layers).map_err(ChunkPairError::Source)?;
        return Ok(Cow::Borrowed(&[ALONE]));
    }
    let selected = there.select(theirs).map_err(ChunkPairError::Source)?;
    let into = here.select(ours).map_err(ChunkPairError::Destination)?;
    there.check_layers(layers).map_err(ChunkPairError::Source)?;
    if into.set().len() < into.ids().len() {
        return Err(ChunkPairError::Duplicate { block: duplicate(ours) });
    }
    let sides = [there.strides, here.strides];
    let fold = Fold::new(&here.geometry, sides, layers.clone());
    let is_dense = sides.iter().all(|side| side.block == fold.len);
    let mut runs = Vec::new();
    let mut start = 0;
    while start < selected.ids().len() {
        let end = run_end(selected.ids(), into.ids(), start, is_dense);
        runs.push(start..end);
        start = end;
    }
    Ok(Cow::Owned(runs))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::arbitrary::{kind, layout};
    use super::super::{LayoutDescription, LayoutKind, pair_chunks};
    use super::*;

    proptest! {
        /// Byte for byte what two layouts of one process pair.
        #[test]
        fn pairs_are_those_of_two_local_layouts(
            kinds in (kind(), kind()),
            paddings in (0..2usize, 0..2usize),
            ids in Just((0..9usize).collect::<Vec<_>>()).prop_shuffle(),
            count in 1..7usize,
            start in 0..5usize,
            first in 0..2usize,
            layers in (0..3usize, 1..4usize),
        ) {
            let (there, here) = (layout(kinds.0, 9, 2, paddings.0), layout(kinds.1, 7, 2, paddings.1));
            let layers = layers.0..(layers.0 + layers.1).min(3);
            let theirs = if start == 0 { (0..count).collect() } else { ids[..count].to_vec() };
            let ours: Vec<usize> = (first..first + count).collect();
            let remote = RemoteLayout::try_from(&LayoutDescription::from(&there)).unwrap();
            let pairs = pair_remote_chunks(&remote, &theirs, &here, &ours, layers.clone()).unwrap();
            let expected = pair_chunks(&there, &theirs, &here, &ours, layers).unwrap();
            let mut expected: Vec<_> = expected
                .chunks()
                .map(|chunk| {
                    let src = there.parts()[chunk.src.part].address() + chunk.src.offset as u64;
                    let dst = here.parts()[chunk.dst.part].address() + chunk.dst.offset as u64;
                    (src, dst, chunk.len())
                })
                .collect();
            let spans = pairs.remote().to_vec();
            let parts = pairs.remote_parts().to_vec();
            let descriptors = pairs.into_local();
            prop_assert_eq!(spans.len(), descriptors.len());
            prop_assert_eq!(parts.iter().map(|(_, runs)| runs).sum::<usize>(), spans.len());
            let mut rest = &spans[..];
            for (part, runs) in parts {
                let (these, behind) = rest.split_at(runs);
                rest = behind;
                let part = &there.parts()[part];
                let inside = |span: &Span| {
                    part.address() <= span.address
                        && span.address + span.len <= part.address() + part.len() as u64
                };
                prop_assert!(these.iter().all(inside));
            }
            let mut found: Vec<_> = spans
                .iter()
                .zip(&descriptors)
                .map(|(span, d)| (span.address, d.address(), d.len()))
                .collect();
            prop_assert!(spans.iter().zip(&descriptors).all(|(s, d)| s.len == d.len() as u64));
            expected.sort_unstable();
            found.sort_unstable();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn blocks_that_do_not_exist_or_come_twice_are_refused() {
        let (there, here) = (
            layout(LayoutKind::FullyContiguous, 4, 2, 0),
            layout(LayoutKind::FullyContiguous, 3, 2, 0),
        );
        let remote = RemoteLayout::try_from(&LayoutDescription::from(&there)).unwrap();
        let pair = |theirs: &[usize], ours: &[usize], layers| {
            pair_remote_chunks(&remote, theirs, &here, ours, layers).unwrap_err()
        };
        assert!(matches!(pair(&[4], &[0], 0..3), ChunkPairError::Source(_)));
        assert!(matches!(pair(&[3], &[3], 0..3), ChunkPairError::Destination(_)));
        assert!(matches!(pair(&[0], &[0], 0..4), ChunkPairError::Source(_)));
        assert!(matches!(pair(&[], &[], 0..3), ChunkPairError::Source(_)));
        assert!(matches!(pair(&[3, 4], &[0, 1], 0..3), ChunkPairError::Source(_)));
        assert!(matches!(pair(&[0, 1], &[2, 3], 0..3), ChunkPairError::Destination(_)));
        assert!(matches!(pair(&[0, 1], &[2, 2], 0..3), ChunkPairError::Duplicate { block: 2 }));
        assert!(matches!(pair(&[0, 1], &[2], 0..3), ChunkPairError::Count { src: 2, dst: 1 }));
    }
}
