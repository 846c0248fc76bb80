//! Two sides, and the blocks that go from one to the other.

use anyhow::Result;
use nixl_descriptor::layout::{Dimensions, LayoutGeometry, LayoutKind};
use nixl_executor::{BlockOptions, CopyOp, MemoryKind};

use super::machine::Machine;
use super::side::Side;

/// What goes where.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) src: (MemoryKind, LayoutKind),
    pub(crate) dst: (MemoryKind, LayoutKind),
    /// Of the blocks that are copied. The caches have some more, so that the blocks lie apart and have neighbours that
    /// must not change.
    pub(crate) moved: Dimensions,
}

/// A source with its patterns, and a destination.
pub(crate) struct Pair {
    pub(crate) src: Side,
    pub(crate) dst: Side,
    pub(crate) src_blocks: Vec<usize>,
    pub(crate) dst_blocks: Vec<usize>,
    /// The chunks, for the baselines: what the executor plans.
    pub(crate) ops: Vec<CopyOp>,
    pub(crate) bytes: usize,
    /// For each block of the destination, where it comes from.
    sources: Vec<Option<usize>>,
}

impl Pair {
    pub(crate) fn new(machine: &Machine, shape: Shape) -> Result<Self> {
        let count = shape.moved.blocks;
        // One block alone has no neighbour: it is the one large copy that others are measured against.
        let blocks = if count == 1 { 1 } else { count + count / 4 + 1 };
        let geometry = LayoutGeometry::try_from(Dimensions { blocks, ..shape.moved })?;
        let src = Side::new(machine, shape.src.0, shape.src.1, geometry)?;
        let dst = Side::new(machine, shape.dst.0, shape.dst.1, geometry)?;
        let src_blocks = shuffled(blocks, count, 1);
        let dst_blocks = apart(blocks, &src_blocks);
        let mut sources = vec![None; blocks];
        for (from, to) in src_blocks.iter().zip(&dst_blocks) {
            sources[*to] = Some(*from);
        }
        let plan = machine.executor.plan(
            &src.layout,
            &src_blocks,
            &dst.layout,
            &dst_blocks,
            &BlockOptions::new(),
        )?;
        src.fill(machine)?;
        dst.poison(machine)?;
        let (ops, bytes) = (plan.ops(), plan.bytes() as usize);
        Ok(Self { src, dst, src_blocks, dst_blocks, ops, bytes, sources })
    }

    /// Checks every byte of the destination: that of blocks that were not copied too.
    pub(crate) fn check(&self, machine: &Machine) -> Result<()> {
        self.dst.check(machine, &self.sources)
    }
}

/// Destinations such that no two copies follow each other on both sides, which would make them one.
fn apart(blocks: usize, src: &[usize]) -> Vec<usize> {
    // Every other permutation or so will do; with very few blocks none may, and then the copies are fewer.
    const TRIES: u64 = 32;
    let count = src.len();
    (2..2 + TRIES)
        .map(|seed| shuffled(blocks, count, seed))
        .find(|dst| !any_merge(src, dst))
        .unwrap_or_else(|| shuffled(blocks, count, 2))
}

fn any_merge(src: &[usize], dst: &[usize]) -> bool {
    let mut pairs: Vec<_> = src.iter().zip(dst).collect();
    pairs.sort_unstable();
    pairs.windows(2).any(|pair| *pair[0].0 + 1 == *pair[1].0 && *pair[0].1 + 1 == *pair[1].1)
}

/// The first `count` of a permutation of `0..blocks`, the same in every run.
fn shuffled(blocks: usize, count: usize, seed: u64) -> Vec<usize> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut ids: Vec<_> = (0..blocks).collect();
    for index in (1..blocks).rev() {
        // An xorshift: any order that is no order does.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ids.swap(index, (state % (index as u64 + 1)) as usize);
    }
    ids.truncate(count);
    ids
}

#[cfg(test)]
mod tests {
    use nixl_descriptor::layout::{Inner, LayerOrder};
    use nixl_executor::Costs;

    use super::*;
    use crate::local::measure::{execute, options};

    #[test]
    fn what_was_copied_is_right_and_anything_else_is_not() {
        let machine = Machine::open(Costs::default()).unwrap();
        let inner = Inner::Elements(24);
        let moved =
            Dimensions { blocks: 5, layers: 3, outer: 2, page_size: 700, inner, element_width: 2 };
        let src = (MemoryKind::Pageable, LayoutKind::PerLayer(LayerOrder::OuterFirst));
        let dst = (MemoryKind::Pageable, LayoutKind::FullyContiguous);
        let mut pair = Pair::new(&machine, Shape { src, dst, moved }).unwrap();
        assert!(pair.check(&machine).is_err(), "nothing was copied");
        execute(&machine, &pair, &options()).unwrap();
        pair.check(&machine).unwrap();
        pair.dst_blocks.swap(1, 3);
        execute(&machine, &pair, &options()).unwrap();
        assert!(pair.check(&machine).is_err(), "two blocks are in each other's place");
        pair.dst_blocks.swap(1, 3);
        pair.dst.poison(&machine).unwrap();
        execute(&machine, &pair, &options().layers(0..2)).unwrap();
        assert!(pair.check(&machine).is_err(), "a layer is missing");
        pair.dst.fill(&machine).unwrap();
        execute(&machine, &pair, &options()).unwrap();
        assert!(pair.check(&machine).is_err(), "a block beside was written");
    }

    #[test]
    fn copies_do_not_merge() {
        assert!(any_merge(&[4, 3], &[8, 7]));
        assert!(!any_merge(&[4, 3], &[7, 8]));
        for count in [16, 64, 1024, 16_384] {
            let blocks = count + count / 4 + 1;
            let src = shuffled(blocks, count, 1);
            assert!(!any_merge(&src, &apart(blocks, &src)), "{count}");
        }
    }

    #[test]
    fn shuffled_blocks_are_distinct_and_out_of_order() {
        let ids = shuffled(100, 80, 1);
        let mut sorted = ids.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), 80);
        assert!(sorted.iter().all(|id| *id < 100));
        assert_ne!(ids, sorted);
        assert_ne!(ids, shuffled(100, 80, 2));
    }
}
