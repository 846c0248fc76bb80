//! A plan is data: what would be copied, how, and why not otherwise.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use nixl_descriptor::layout::{ChunkPairs, Layout};

use super::costs::{Costs, Route};
use super::strategy::{Abilities, Strategy};
use super::{BlockError, MemoryKind, PathPolicy};

/// Bytes to copy from one address to another.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[allow(clippy::exhaustive_structs, reason = "it is these three numbers and will stay so")]
pub struct CopyOp {
    /// Where they are read.
    pub src: u64,
    /// Where they are written.
    pub dst: u64,
    /// How many.
    pub len: u64,
}

/// How a set of blocks will be copied.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Plan {
    /// Memory of the source.
    pub src: MemoryKind,
    /// Memory of the destination.
    pub dst: MemoryKind,
    /// The copies, merged as far as both layouts allow.
    pub ops: Vec<CopyOp>,
    /// Bytes of all of them.
    pub bytes: u64,
    /// How they are carried out.
    pub strategy: Strategy,
    /// What that is expected to take, submit to awaited completion.
    pub estimate: Duration,
    /// The other strategies, each with the reason against it, cheapest first, then those that cannot.
    pub rejected: Vec<(Strategy, Cow<'static, str>)>,
}

/// Everything a plan is made from.
pub(crate) struct Inputs<'a> {
    pub(crate) src: &'a Layout,
    pub(crate) dst: &'a Layout,
    pub(crate) kinds: (MemoryKind, MemoryKind),
    pub(crate) pairs: ChunkPairs,
    pub(crate) can: &'a Abilities,
    pub(crate) costs: &'a Costs,
    pub(crate) policy: &'a PathPolicy,
}

impl Plan {
    pub(crate) fn new(inputs: Inputs<'_>) -> Result<Self, BlockError> {
        let (src, dst) = inputs.kinds;
        let bytes = inputs.pairs.bytes() as u64;
        let ops: Vec<_> = inputs
            .pairs
            .filter_map(|pair| {
                // The walk stays inside the parts, which the layouts checked.
                let from = inputs.src.parts().get(pair.src.part)?;
                let to = inputs.dst.parts().get(pair.dst.part)?;
                Some(CopyOp {
                    src: from.address() + pair.src.offset as u64,
                    dst: to.address() + pair.dst.offset as u64,
                    len: pair.src.len as u64,
                })
            })
            .collect();
        let route = Route::between(src, dst);
        let mut able = Vec::new();
        let mut unable = Vec::new();
        for strategy in Strategy::ALL {
            let verdict = match inputs.policy.forbids(strategy) {
                Some(reason) => Err(reason.into()),
                None => strategy.check(src, dst, inputs.can),
            };
            match verdict {
                Ok(()) => {
                    let chunks = match strategy {
                        Strategy::PackedCopy => runs(&ops, src),
                        _ => ops.len(),
                    };
                    let estimate = inputs.costs.cost(route, strategy).estimate(chunks, bytes);
                    able.push((strategy, estimate));
                }
                Err(reason) => unable.push((strategy, reason)),
            }
        }
        able.sort_by_key(|(_, estimate)| *estimate);
        let mut able = able.into_iter();
        let Some((strategy, estimate)) = able.next() else {
            return Err(BlockError::NoStrategy { src, dst, rejected: unable });
        };
        let dearer = able.map(|(other, cost)| (other, format!("estimated at {cost:.1?}").into()));
        let rejected = dearer.chain(unable).collect();
        Ok(Self { src, dst, ops, bytes, strategy, estimate, rejected })
    }

    /// The longest run of equal lengths that all copies can be cut into: the greatest common divisor.
    pub(crate) fn unit(&self) -> u64 {
        self.ops.iter().fold(0, |unit, op| if op.len == unit { unit } else { gcd(unit, op.len) })
    }
}

/// How many copies the host's side of a packed transfer takes: one for each run of neighbours.
fn runs(ops: &[CopyOp], src: MemoryKind) -> usize {
    let on_host = |op: &CopyOp| if src.is_host() { op.src } else { op.dst };
    let breaks = ops.windows(2).filter(|w| on_host(&w[0]) + w[0].len != on_host(&w[1])).count();
    breaks + ops.len().min(1)
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shortest = self.ops.iter().map(|op| op.len).min().unwrap_or(0);
        let longest = self.ops.iter().map(|op| op.len).max().unwrap_or(0);
        writeln!(
            f,
            "{} -> {}: {} bytes in {} copies of {shortest} to {longest} bytes",
            self.src,
            self.dst,
            self.bytes,
            self.ops.len()
        )?;
        write!(f, "  by {}, estimated at {:.1?}", self.strategy, self.estimate)?;
        for (strategy, reason) in &self.rejected {
            write!(f, "\n  not {strategy}: {reason}")?;
        }
        Ok(())
    }
}
