//! Paired chunks against a copier that knows nothing but the map of chunks.

use std::ops::Range;

use nixl_descriptor::layout::{
    ByteSpan, ChunkPairError, Dimension, Dimensions, SelectionError, pair_chunks,
};
use nixl_descriptor::{LeaseMode, copy_range};
use proptest::prelude::*;
use proptest::sample::subsequence;

use super::model::{Built, Key, Plan, chunk_len, dimensions, pattern, plan};

#[derive(Debug)]
struct Case {
    src: (Dimensions, Plan),
    dst: (Dimensions, Plan),
    src_blocks: Vec<usize>,
    dst_blocks: Vec<usize>,
    layers: Range<usize>,
}

/// Any two layouts of one geometry; often with block ids that follow each other.
fn case() -> impl Strategy<Value = Case> {
    (dimensions(), 1..6usize).prop_flat_map(|(dimensions, dst_count)| {
        let destination = Dimensions { blocks: dst_count, ..dimensions };
        let chosen = subsequence((0..dst_count).collect::<Vec<_>>(), 1..=dst_count);
        let from = proptest::collection::vec(0..dimensions.blocks, dst_count);
        let layer = 0..dimensions.layers;
        (plan(), plan(), chosen.prop_shuffle(), from, any::<bool>(), layer, 0..10usize).prop_map(
            move |(src, dst, dst_blocks, mut src_blocks, follow, first, more)| {
                src_blocks.truncate(dst_blocks.len());
                if follow {
                    let shift = src_blocks[0];
                    src_blocks =
                        dst_blocks.iter().map(|b| (b + shift) % dimensions.blocks).collect();
                }
                // Often all layers.
                let layers = match more {
                    0..4 => 0..dimensions.layers,
                    _ => first..first + 1 + more % (dimensions.layers - first),
                };
                let (src, dst) = ((dimensions, src), (destination, dst));
                Case { src, dst, src_blocks, dst_blocks, layers }
            },
        )
    })
}

impl Case {
    /// Every chunk to be copied, from and to.
    fn keys(&self) -> Vec<(Key, Key)> {
        let mut keys = Vec::new();
        for (&from, &to) in self.src_blocks.iter().zip(&self.dst_blocks) {
            for l in self.layers.clone() {
                keys.extend((0..self.src.0.outer).map(|o| ((from, l, o), (to, l, o))));
            }
        }
        keys
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn every_byte_arrives_and_no_other_changes(case in case()) {
        let (src, dst) = (Built::new(&case.src.0, &case.src.1), Built::new(&case.dst.0, &case.dst.1));
        let len = chunk_len(&case.src.0);
        src.fill(0x55);
        dst.fill(0xaa);
        for (&key, &(part, offset)) in &src.model.chunks {
            let bytes: Vec<u8> = (0..len).map(|at| pattern(key, at)).collect();
            let part = &src.layout.parts()[part];
            part.region().copy_from_slice(part.offset() + offset, &bytes).unwrap();
        }
        let mut expected = dst.bytes();
        for (from, to) in case.keys() {
            for at in 0..len {
                let (part, offset) = dst.position(to, at);
                // Parts in one region all show the whole of it.
                for (other, bytes) in expected.iter_mut().enumerate() {
                    if other == part || case.dst.1.one_region {
                        bytes[offset] = pattern(from, at);
                    }
                }
            }
        }

        let before = src.bytes();
        let pairs = pair_chunks(
            &src.layout, &case.src_blocks, &dst.layout, &case.dst_blocks, case.layers.clone(),
        ).unwrap();
        let mut bytes = 0;
        for pair in pairs.chunks() {
            prop_assert_eq!(pair.src().len, pair.dst().len);
            bytes += pair.len();
            let (from, to) = (&src.layout.parts()[pair.src().part], &dst.layout.parts()[pair.dst().part]);
            copy_range(from, pair.src().offset, to, pair.dst().offset, pair.len(), &[]).unwrap();
        }
        prop_assert_eq!(dst.bytes(), expected);
        prop_assert_eq!(src.bytes(), before);
        prop_assert_eq!(bytes, pairs.bytes());
    }

    #[test]
    fn neighbours_in_the_order_given_are_one_chunk(case in case()) {
        let (src, dst) = (Built::new(&case.src.0, &case.src.1), Built::new(&case.dst.0, &case.dst.1));
        let pairs = pair_chunks(
            &src.layout, &case.src_blocks, &dst.layout, &case.dst_blocks, case.layers.clone(),
        ).unwrap();
        let chunks: Vec<_> = pairs.chunks().collect();
        let continues = |a: ByteSpan, b: ByteSpan| a.part == b.part && a.offset + a.len == b.offset;
        let mut blocks = 0;
        for two in chunks.windows(2) {
            blocks += two[0].len() / pairs.piece_len();
            // Nothing is merged over the end of a piece, where the next one begins with the first block again.
            let same_piece = !blocks.is_multiple_of(case.src_blocks.len());
            let follow = continues(two[0].src(), two[1].src()) && continues(two[0].dst(), two[1].dst());
            prop_assert!(!(same_piece && follow), "{two:?} could be one");
        }
        // The same as every piece of every block, one by one.
        let strides = (src.layout.block_stride(), dst.layout.block_stride());
        let mut places = Vec::new();
        for piece in pairs.pieces() {
            prop_assert_eq!((piece.src().len, piece.dst().len), (pairs.piece_len(), pairs.piece_len()));
            for (from, to) in case.src_blocks.iter().zip(&case.dst_blocks) {
                let at = (piece.src().offset + from * strides.0, piece.dst().offset + to * strides.1);
                places.push((piece.src().part, at.0, piece.dst().part, at.1));
            }
        }
        let cut = chunks.iter().flat_map(|chunk| {
            (0..chunk.len()).step_by(pairs.piece_len()).map(|at| {
                (chunk.src().part, chunk.src().offset + at, chunk.dst().part, chunk.dst().offset + at)
            })
        });
        prop_assert_eq!(cut.collect::<Vec<_>>(), places);
    }

    #[test]
    fn both_sides_are_leased_or_neither(case in case()) {
        let (src, dst) = (Built::new(&case.src.0, &case.src.1), Built::new(&case.dst.0, &case.dst.1));
        let pairs = pair_chunks(
            &src.layout, &case.src_blocks, &dst.layout, &case.dst_blocks, case.layers.clone(),
        ).unwrap();
        let lease = |built: &Built, blocks: &[usize], mode| built.layout.lease(blocks, case.layers.clone(), mode);
        let held = pairs.lease().unwrap();
        prop_assert_eq!(held.each_ref().map(|set| set.mode()), [LeaseMode::Read, LeaseMode::Write]);
        prop_assert!(lease(&src, &case.src_blocks[..1], LeaseMode::Read).is_ok());
        prop_assert!(lease(&src, &case.src_blocks[..1], LeaseMode::Write).is_err());
        prop_assert!(lease(&dst, &case.dst_blocks[..1], LeaseMode::Read).is_err());
        drop(held);
        let other = lease(&dst, &case.dst_blocks[..1], LeaseMode::Read).unwrap();
        prop_assert!(pairs.lease().is_err());
        drop(other);
        prop_assert!(lease(&src, &case.src_blocks[..1], LeaseMode::Write).is_ok());
    }

    #[test]
    fn wrong_ids_are_refused(case in case(), which in 0..5usize, far in 0..3usize) {
        let (src, dst) = (Built::new(&case.src.0, &case.src.1), Built::new(&case.dst.0, &case.dst.1));
        let pair = |from: &[usize], to: &[usize], layers: Range<usize>| {
            pair_chunks(&src.layout, from, &dst.layout, to, layers).map(|_| ()).unwrap_err()
        };
        let Case { src_blocks, dst_blocks, layers, .. } = &case;
        let which = which % src_blocks.len();

        let mut ids = src_blocks.clone();
        let (blocks, block) = (case.src.0.blocks, case.src.0.blocks + far);
        ids[which] = block;
        let missing = SelectionError::Block { block, blocks };
        prop_assert_eq!(pair(&ids, dst_blocks, layers.clone()), ChunkPairError::Source(missing));

        let mut ids = dst_blocks.clone();
        let (blocks, block) = (case.dst.0.blocks, case.dst.0.blocks + far);
        ids[which] = block;
        let missing = SelectionError::Block { block, blocks };
        prop_assert_eq!(pair(src_blocks, &ids, layers.clone()), ChunkPairError::Destination(missing));

        let (mut from, mut to) = (src_blocks.clone(), dst_blocks.clone());
        from.push(from[0]);
        let counts = ChunkPairError::Count { src: from.len(), dst: to.len() };
        prop_assert_eq!(pair(&from, &to, layers.clone()), counts);
        to.push(to[which]);
        let twice = ChunkPairError::Duplicate { block: to[which] };
        prop_assert_eq!(pair(&from, &to, layers.clone()), twice);

        let none = ChunkPairError::Source(SelectionError::NoBlocks);
        prop_assert_eq!(pair(&[], &[], layers.clone()), none);
        let all = case.src.0.layers;
        for (start, end) in [(0, all + 1 + far), (all, all), (layers.end, layers.start), (usize::MAX, 0)] {
            let range = SelectionError::Layers { start, end, layers: all };
            let refused = pair(src_blocks, dst_blocks, start..end);
            prop_assert_eq!(refused, ChunkPairError::Source(range));
        }
    }

    #[test]
    fn other_shapes_are_refused(case in case()) {
        let src = Built::new(&case.src.0, &case.src.1);
        let page_size = case.dst.0.page_size + 1;
        let dst = Built::new(&Dimensions { page_size, ..case.dst.0 }, &case.dst.1);
        let result = pair_chunks(&src.layout, &[0], &dst.layout, &[0], 0..1);
        let Err(ChunkPairError::Geometry(mismatch)) = result else {
            return Err(TestCaseError::fail(format!("{result:?}")));
        };
        prop_assert_eq!(mismatch.dimension(), Dimension::PageSize);
    }
}
