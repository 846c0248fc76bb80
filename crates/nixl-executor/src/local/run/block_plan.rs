//! Plans for blocks with parts in different memories: one plan for each pair of memories.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use nixl_descriptor::Descriptor;
use nixl_descriptor::layout::{BlockPairs, ByteSpan, Layout};

use crate::local::gpu::gpu_backend::GpuBackend;
use crate::local::plan::block_copy::{BlockCopy, BlockSide, CopyOp, Piece};
use crate::local::plan::boundaries::AllocationBoundaries;
use crate::local::plan::copy_plan::Plan;
use crate::local::plan::costs::Costs;
use crate::local::{BlockError, MemoryKind, StrategyPolicy};

/// Plan of a copy of a set of blocks.
///
/// The parts of a layout may be in different memories: some layers pinned, others pageable. So there is a [`Plan`] for each
/// pair of memories, each with its fastest strategy. They run side by side.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockPlan {
    groups: Vec<Plan>,
}

/// The inputs of a plan.
pub(crate) struct Inputs<'a> {
    pub(crate) src: &'a Layout,
    pub(crate) dst: &'a Layout,
    pub(crate) pairs: &'a BlockPairs,
    pub(crate) gpus: &'a dyn GpuBackend,
    pub(crate) costs: &'a Costs,
    pub(crate) policy: &'a StrategyPolicy,
}

impl BlockPlan {
    pub(crate) fn new(inputs: Inputs<'_>) -> Result<Self, BlockError> {
        let Inputs { gpus, costs, policy, .. } = inputs;
        let mut groups = Vec::with_capacity(1);
        let mut boundaries = None;
        for (kinds, pieces) in pieces(&inputs) {
            let blocks = block_copy(&inputs, pieces);
            let mut plan = Plan::of(blocks, kinds, gpus.capabilities(), costs, policy)?;
            if plan.strategy.joins_pieces() {
                plan.blocks.boundaries =
                    boundaries.get_or_insert_with(|| find_seams(&inputs)).clone();
            }
            groups.push(plan);
        }
        Ok(Self { groups })
    }

    /// The plans, at least one, one for each pair of memories.
    #[must_use]
    pub fn groups(&self) -> &[Plan] {
        &self.groups
    }

    pub(crate) fn into_groups(self) -> Vec<Plan> {
        self.groups
    }

    /// The plan, if there is only one.
    pub(crate) fn into_single(mut self) -> Result<Plan, Self> {
        match self.groups.pop() {
            Some(plan) if self.groups.is_empty() => Ok(plan),
            last => {
                self.groups.extend(last);
                Err(self)
            }
        }
    }

    /// Bytes of all copies.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.groups.iter().map(|plan| plan.bytes).sum()
    }

    /// The estimated time, if the groups share one link.
    #[must_use]
    pub fn estimate(&self) -> Duration {
        self.groups.iter().map(|plan| plan.estimate).sum()
    }

    /// The copies one by one, group by group.
    #[must_use]
    pub fn ops(&self) -> Vec<CopyOp> {
        self.groups.iter().flat_map(|plan| plan.blocks.ops()).collect()
    }
}

/// Each group in the lines of its [`Plan`].
impl fmt::Display for BlockPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, plan) in self.groups.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{plan}")?;
        }
        Ok(())
    }
}

type Kinds = (MemoryKind, MemoryKind);

/// The addresses of the chunks of block 0, by pairs of memories. Only distances between parts wrap: all chunks are inside the
/// parts, as the layouts checked.
fn pieces(inputs: &Inputs<'_>) -> Vec<(Kinds, Vec<Piece>)> {
    let (mut src, mut dst) =
        (Parts::new(inputs.src, inputs.gpus), Parts::new(inputs.dst, inputs.gpus));
    let pairs = inputs.pairs.pieces();
    let count = pairs.len();
    let mut groups: Vec<(Kinds, Vec<Piece>)> = Vec::with_capacity(1);
    for pair in pairs {
        let kinds = (src.kind(pair.src().part), dst.kind(pair.dst().part));
        let piece = Piece { src: src.address(pair.src()), dst: dst.address(pair.dst()) };
        match groups.iter_mut().find(|(others, _)| *others == kinds) {
            Some((_, pieces)) => pieces.push(piece),
            None => {
                let mut pieces = Vec::with_capacity(count);
                pieces.push(piece);
                groups.push((kinds, pieces));
            }
        }
    }
    groups
}

/// The starts of both sides' regions.
fn find_seams(inputs: &Inputs<'_>) -> AllocationBoundaries {
    let parts = [inputs.src, inputs.dst].into_iter().flat_map(Layout::parts);
    AllocationBoundaries::of(parts.map(|part| part.region().address()))
}

/// The copy of chunks at addresses of block 0, at least one.
fn block_copy(inputs: &Inputs<'_>, mut pieces: Vec<Piece>) -> BlockCopy {
    let pairs = inputs.pairs;
    let base = pieces.first().copied().unwrap_or(Piece { src: 0, dst: 0 });
    for piece in &mut pieces {
        piece.src = piece.src.wrapping_sub(base.src);
        piece.dst = piece.dst.wrapping_sub(base.dst);
    }
    let side = |layout: &Layout, base, ids: &Arc<[u32]>| BlockSide {
        base,
        stride: layout.block_stride() as u64,
        ids: Some(Arc::clone(ids)),
    };
    BlockCopy {
        blocks: pairs.dst_ids().len(),
        src: side(inputs.src, base.src, pairs.src_ids()),
        dst: side(inputs.dst, base.dst, pairs.dst_ids()),
        pieces,
        len: pairs.piece_len() as u64,
        boundaries: AllocationBoundaries::default(),
    }
}

/// The parts of one layout, with their kinds of memory.
struct Parts<'a> {
    parts: &'a [Descriptor],
    gpus: &'a dyn GpuBackend,
    /// Of all parts: those of a GPU are of one kind.
    whole: Option<MemoryKind>,
    /// The part of the last query: chunks come part by part.
    last: Option<(usize, MemoryKind)>,
}

impl<'a> Parts<'a> {
    fn new(layout: &'a Layout, gpus: &'a dyn GpuBackend) -> Self {
        let (parts, device) = (layout.parts(), layout.device());
        let whole = match parts {
            [first, rest @ ..] if rest.is_empty() || !device.is_host() => {
                Some(gpus.memory_kind(device, first.address()))
            }
            _ => None,
        };
        Self { parts, gpus, whole, last: None }
    }

    /// The kind of memory of a part.
    fn kind(&mut self, index: usize) -> MemoryKind {
        match (self.whole, self.last) {
            (Some(kind), _) => kind,
            (_, Some((last, kind))) if last == index => kind,
            (_, last) => {
                let kind = self.kind_after(last, index);
                self.last = Some((index, kind));
                kind
            }
        }
    }

    /// All of a region is of one kind.
    fn kind_after(&self, last: Option<(usize, MemoryKind)>, index: usize) -> MemoryKind {
        let part = &self.parts[index];
        match last {
            Some((last, kind)) if self.parts[last].region().id() == part.region().id() => kind,
            _ => self.gpus.memory_kind(part.device(), part.address()),
        }
    }

    fn address(&self, span: ByteSpan) -> u64 {
        self.parts[span.part].address() + span.offset as u64
    }
}
