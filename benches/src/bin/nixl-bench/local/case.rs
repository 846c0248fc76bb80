//! Cases within one process.

use std::fmt;

use anyhow::Result;
use nixl_descriptor::layout::{Dimensions, Inner, LayerOrder, LayoutKind};
use nixl_executor::MemoryKind;

use super::in_flight::in_flight;
use super::machine::Machine;
use super::measure::measure;
use super::pair::Shape;
use crate::cases::Effort;
use crate::initiator::Findings;
use crate::table::size;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Bytes of all scattered chunks together.
const SCATTERED: usize = 64 * MIB;

const CONTIGUOUS: LayoutKind = LayoutKind::FullyContiguous;
const PER_LAYER: LayoutKind = LayoutKind::PerLayer(LayerOrder::BlockFirst);
const KV_FIRST: LayoutKind = LayoutKind::PerLayer(LayerOrder::OuterFirst);

/// Every way to arrange the source with every way to arrange the destination.
const LAYOUT_PAIRS: [(LayoutKind, LayoutKind); 9] = [
    (CONTIGUOUS, CONTIGUOUS),
    (PER_LAYER, CONTIGUOUS),
    (CONTIGUOUS, PER_LAYER),
    (PER_LAYER, PER_LAYER),
    (KV_FIRST, CONTIGUOUS),
    (CONTIGUOUS, KV_FIRST),
    (KV_FIRST, KV_FIRST),
    (KV_FIRST, PER_LAYER),
    (PER_LAYER, KV_FIRST),
];
/// How many of them a quick run measures.
const QUICK_PAIRS: usize = 3;

/// One line of the table.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) shape: Shape,
    /// Many transfers in flight, each of one block, instead of one at a time of all.
    many: bool,
}

impl Case {
    /// All that this machine has memories for.
    pub(crate) fn all(machine: &Machine, effort: Effort) -> Vec<Self> {
        use MemoryKind::{Gpu, Pageable, Pinned};
        let mut cases = Vec::new();
        let gpus = machine.gpus.count();
        let mut routes = Vec::new();
        if gpus > 0 {
            routes.extend([(Pinned, Gpu(0)), (Gpu(0), Pinned), (Gpu(0), Gpu(0))]);
        } else {
            routes.push((Pageable, Pageable));
        }
        if gpus > 1 {
            routes.push((Gpu(0), Gpu(1)));
        }
        let quick = effort == Effort::Quick;
        let pairs = if quick { &LAYOUT_PAIRS[..QUICK_PAIRS] } else { &LAYOUT_PAIRS[..] };
        for route in &routes {
            for blocks in [1, 16, 64] {
                for &layouts in pairs {
                    let name = format!("blocks-{blocks}{}", suffix(layouts));
                    cases.push(Self::new(name, *route, layouts, model(blocks, 16)));
                }
            }
        }
        if gpus > 0 {
            for layouts in [(CONTIGUOUS, CONTIGUOUS), (PER_LAYER, CONTIGUOUS)] {
                let name = format!("blocks-64-of-64-tokens{}", suffix(layouts));
                cases.push(Self::new(name, (Gpu(0), Gpu(0)), layouts, model(64, 64)));
            }
        }
        let scattered: &[usize] = match quick {
            true => &[4 * KIB, 64 * KIB],
            false => &[2 * KIB, 4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB, MIB],
        };
        let contiguous: &[usize] = match quick {
            true => &[4 * KIB, MIB, 64 * MIB],
            false => &[4 * KIB, 64 * KIB, MIB, 16 * MIB, 64 * MIB, 256 * MIB],
        };
        for route in &routes {
            let layouts = (CONTIGUOUS, CONTIGUOUS);
            for bytes in scattered {
                let name = format!("scattered-{}", size(*bytes));
                cases.push(Self::new(name, *route, layouts, plain(SCATTERED / bytes, *bytes)));
            }
            for bytes in contiguous {
                let name = format!("contiguous-{}", size(*bytes));
                cases.push(Self::new(name, *route, layouts, plain(1, *bytes)));
            }
        }
        if gpus > 0 {
            for route in [(Pageable, Gpu(0)), (Gpu(0), Pageable)] {
                for bytes in [64 * MIB, 256 * MIB] {
                    let name = format!("pageable-{}", size(bytes));
                    let layouts = (CONTIGUOUS, CONTIGUOUS);
                    cases.push(Self::new(name, route, layouts, plain(1, bytes)));
                }
            }
        }
        for route in &routes {
            let name = format!("in-flight-{}", size(64 * KIB));
            let layouts = (CONTIGUOUS, CONTIGUOUS);
            let shape = plain(super::in_flight::IN_FLIGHT, 64 * KIB);
            cases.push(Self { many: true, ..Self::new(name, *route, layouts, shape) });
        }
        cases
    }

    pub(crate) fn new(
        name: String,
        (src, dst): (MemoryKind, MemoryKind),
        (from, to): (LayoutKind, LayoutKind),
        moved: Dimensions,
    ) -> Self {
        Self { name, shape: Shape { src: (src, from), dst: (dst, to), moved }, many: false }
    }

    pub(crate) fn measure(
        &self,
        machine: &Machine,
        effort: Effort,
        findings: &mut Findings,
    ) -> Result<()> {
        match self.many {
            true => in_flight(machine, self, effort, findings),
            false => measure(machine, self, effort, findings),
        }
    }
}

/// What `--filter` looks at.
impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}->{}", self.name, self.shape.src.0, self.shape.dst.0)
    }
}

fn suffix((from, to): (LayoutKind, LayoutKind)) -> String {
    match (from, to) {
        (CONTIGUOUS, CONTIGUOUS) => String::new(),
        _ => format!("-{}-to-{}", word(from), word(to)),
    }
}

fn word(kind: LayoutKind) -> &'static str {
    match kind {
        CONTIGUOUS => "contiguous",
        KV_FIRST => "kv-first",
        _ => "per-layer",
    }
}

/// Blocks of a 70B model: 80 layers, K and V, 8 heads of 128, bf16. Sixteen tokens are 5 MiB.
fn model(blocks: usize, page_size: usize) -> Dimensions {
    let inner = Inner::Heads { heads: 8, head_size: 128 };
    Dimensions { blocks, layers: 80, outer: 2, page_size, inner, element_width: 2 }
}

/// Chunks of so many bytes each.
pub(crate) fn plain(count: usize, bytes: usize) -> Dimensions {
    let inner = Inner::Elements(bytes);
    Dimensions { blocks: count, layers: 1, outer: 1, page_size: 1, inner, element_width: 1 }
}
