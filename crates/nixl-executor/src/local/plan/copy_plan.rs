//! Copy plans: copies, their strategy, and the reasons against others.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use super::block_copy::{BlockCopy, CopyOp, Direction};
use super::costs::{CopyRoute, Costs};
use super::strategy::{GpuCapabilities, Strategy};
use crate::local::{BlockError, MemoryKind, StrategyPolicy};

/// Plan of a copy of blocks from one kind of memory to another.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub(crate) src: MemoryKind,
    pub(crate) dst: MemoryKind,
    pub(crate) blocks: BlockCopy,
    pub(crate) copies: usize,
    pub(crate) bytes: u64,
    pub(crate) strategy: Strategy,
    pub(crate) estimate: Duration,
    pub(crate) rejected: Vec<(Strategy, Cow<'static, str>)>,
    /// The copying GPU, if it is neither the source's nor else the destination's.
    pub(crate) copier: Option<u32>,
}

impl Plan {
    /// A plan for any copies, with addresses that both sides guarantee.
    pub(crate) fn of(
        blocks: BlockCopy,
        (src, dst): (MemoryKind, MemoryKind),
        can: &GpuCapabilities,
        costs: &Costs,
        policy: &StrategyPolicy,
    ) -> Result<Self, BlockError> {
        let (bytes, copies) = (blocks.bytes(), blocks.op_count());
        let route = CopyRoute::between(src, dst);
        let mut available = Vec::new();
        let mut rejected = Vec::new();
        for strategy in Strategy::ALL {
            let verdict = match policy.forbids(strategy) {
                Some(reason) => Err(reason.into()),
                None => strategy.check(src, dst, can),
            };
            match verdict {
                Ok(()) => {
                    let chunks = match strategy {
                        // The host's side is copied run by run.
                        Strategy::PackedCopy if src.is_host() => blocks.runs(Direction::Source),
                        Strategy::PackedCopy => blocks.runs(Direction::Destination),
                        _ => copies,
                    };
                    let estimate = costs.cost(route, strategy).estimate(chunks, bytes);
                    available.push((strategy, estimate));
                }
                Err(reason) => rejected.push((strategy, reason)),
            }
        }
        available.sort_by_key(|(_, estimate)| *estimate);
        let mut available = available.into_iter();
        let Some((strategy, estimate)) = available.next() else {
            return Err(BlockError::NoStrategy { src, dst, rejected });
        };
        let dearer =
            available.map(|(other, cost)| (other, format!("estimated at {cost:.1?}").into()));
        let rejected = dearer.chain(rejected).collect();
        Ok(Self { src, dst, blocks, copies, bytes, strategy, estimate, rejected, copier: None })
    }

    /// The copies one by one: by layer, by K and V, and then in the order of the blocks given.
    #[must_use]
    pub fn ops(&self) -> Vec<CopyOp> {
        let mut ops = Vec::with_capacity(self.copies);
        ops.extend(self.blocks.ops());
        ops
    }

    /// Memory of the source.
    #[must_use]
    pub fn src(&self) -> MemoryKind {
        self.src
    }

    /// Memory of the destination.
    #[must_use]
    pub fn dst(&self) -> MemoryKind {
        self.dst
    }

    /// The copied blocks.
    #[must_use]
    pub fn blocks(&self) -> &BlockCopy {
        &self.blocks
    }

    /// The number of copies, with contiguous neighbours merged: the length of [`ops`](Self::ops).
    #[must_use]
    pub fn copies(&self) -> usize {
        self.copies
    }

    /// Bytes of all of them.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The strategy.
    #[must_use]
    pub fn strategy(&self) -> Strategy {
        self.strategy
    }

    /// The estimated time, from submit to awaited completion.
    #[must_use]
    pub fn estimate(&self) -> Duration {
        self.estimate
    }

    /// The other strategies, each with the reason against it: fastest first, then the unavailable ones.
    #[must_use]
    pub fn rejected(&self) -> &[(Strategy, Cow<'static, str>)] {
        &self.rejected
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lens = || self.blocks.ops().map(|op| op.len);
        let (shortest, longest) = (lens().min().unwrap_or(0), lens().max().unwrap_or(0));
        writeln!(
            f,
            "{} -> {}: {} bytes in {} copies of {shortest} to {longest} bytes",
            self.src, self.dst, self.bytes, self.copies
        )?;
        write!(f, "  by {}, estimated at {:.1?}", self.strategy, self.estimate)?;
        for (strategy, reason) in &self.rejected {
            write!(f, "\n  not {strategy}: {reason}")?;
        }
        Ok(())
    }
}
