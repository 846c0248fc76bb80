//! Cases of the suite.

use std::fmt;

use anyhow::Result;
use nixl_descriptor::layout::{Dimensions, Inner, LayoutGeometry};
use nixl_executor::files::IoKind;

use super::arrangement::Arrangement;
use super::engine::Engine;
use super::options::FileArgs;
use super::place::Place;
use super::world::World;
use super::{SUITE, awaited, batch, beside, cancel};
use crate::cases::Effort;
use crate::initiator::Findings;
use crate::local;
use crate::table::size;

/// One thing to measure.
#[derive(Clone, Debug)]
pub(super) enum Case {
    /// Many blocks by one operation.
    Batch(Batch),
    /// One page after the other, each awaited.
    Awaited(Place),
    /// Blocks that a request waits for, beside writes.
    Beside,
    /// The end of a long read that is cancelled.
    Cancel,
    /// The processor time of an executor with nothing to do.
    Idle,
}

/// Many blocks by one operation.
#[derive(Clone, Debug)]
pub(super) struct Batch {
    pub(super) suite: &'static str,
    pub(super) name: String,
    pub(super) kind: IoKind,
    pub(super) place: Place,
    pub(super) arrangement: Arrangement,
    /// Of the blocks that are moved.
    pub(super) shape: Dimensions,
    /// The blocks lie so far apart in the file.
    pub(super) apart: usize,
    pub(super) engines: Vec<Engine>,
}

/// Pages of the row of many small reads.
pub(super) const PAGES: usize = 10_000;
/// Of each.
pub(super) const PAGE: usize = 4096;
/// Calls in flight that small reads want.
pub(super) const DEPTH: usize = 64;

/// The name of the row of 64 blocks.
pub(super) const BLOCKS: &str = "blocks-64";
/// The name of the row of many pages.
pub(super) const MANY: &str = "pages-10000";

/// The plain threads beside pairs with a disk in the suite `local`.
pub(crate) const BASELINE: &str = "threads";

impl Case {
    /// The cases of the suite, or that of the shape that was asked for.
    pub(super) fn all(args: &FileArgs) -> Vec<Self> {
        if let Some(bytes) = args.block_size {
            return of_shape(args, bytes);
        }
        let mut cases = Vec::new();
        for place in Place::ALL {
            for arrangement in Arrangement::BOTH {
                for kind in [IoKind::Read, IoKind::Write] {
                    // How fast the page cache takes writes is decided by how many of its pages wait for the disk.
                    if (place, kind) != (Place::Cached, IoKind::Write) {
                        cases.push(blocks(place, arrangement, kind, args.num_threads));
                    }
                }
            }
        }
        cases.push(Self::Batch(Batch {
            suite: SUITE,
            name: format!("read-{MANY}"),
            kind: IoKind::Read,
            place: Place::Disk,
            arrangement: Arrangement::Contiguous,
            shape: plain(PAGES, PAGE),
            apart: 2,
            engines: vec![
                Engine::Executor,
                Engine::ExecutorEach(DEPTH),
                Engine::Threads(16),
                Engine::Ring(DEPTH),
                Engine::RingFixed(DEPTH),
                Engine::Posix,
            ],
        }));
        cases.extend(Place::ALL.map(Self::Awaited));
        cases.extend([Self::Beside, Self::Cancel, Self::Idle]);
        cases
    }

    /// The pairs of host memory and disk in the suite `local`.
    pub(super) fn local() -> Vec<Self> {
        let dynamo = Dimensions {
            blocks: 16,
            layers: 24,
            outer: 2,
            page_size: 32,
            inner: Inner::Elements(4096),
            element_width: 2,
        };
        let shapes = [("blocks-16", model(16)), ("bench_local_transfer_v2", dynamo)];
        let kinds = [IoKind::Read, IoKind::Write];
        let cases = shapes.into_iter().flat_map(|(name, shape)| {
            kinds.map(|kind| {
                Self::Batch(Batch {
                    suite: local::SUITE,
                    name: name.to_owned(),
                    kind,
                    place: Place::Disk,
                    arrangement: Arrangement::PerLayer,
                    shape,
                    apart: 1,
                    engines: vec![Engine::Executor, Engine::Threads(4)],
                })
            })
        });
        cases.collect()
    }

    pub(super) fn measure(
        &self,
        world: &mut World,
        effort: Effort,
        findings: &mut Findings,
    ) -> Result<()> {
        match self {
            Self::Batch(case) => batch::measure(world, case, effort, findings),
            Self::Awaited(place) => awaited::measure(world, *place, effort, findings),
            Self::Beside => beside::measure(world, effort, findings),
            Self::Cancel => cancel::measure(world, effort, findings),
            Self::Idle => awaited::idle(world, findings),
        }
    }
}

impl Batch {
    pub(super) fn block_bytes(&self) -> usize {
        LayoutGeometry::try_from(self.shape).map_or(0, |geometry| geometry.block_len())
    }

    /// The engine's name in the suite.
    pub(super) fn name_of(&self, engine: Engine) -> String {
        match engine {
            _ if self.suite == SUITE => engine.name(),
            Engine::Executor => local::Engine::Executor.into(),
            _ => BASELINE.to_owned(),
        }
    }

    /// Source and destination in the suite `local`, memory and file in this one.
    pub(super) fn ends(&self) -> (String, String) {
        let (memory, file) = (self.arrangement.to_string(), self.place.to_string());
        match (self.suite == SUITE, self.kind) {
            (true, _) => (memory, file),
            (false, IoKind::Read) => (file, "pageable".to_owned()),
            (false, _) => ("pageable".to_owned(), file),
        }
    }
}

/// What `--filter` looks at.
impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Batch(case) => case.fmt(f),
            Self::Awaited(place) => write!(f, "{} {place}", awaited::CASE),
            Self::Beside => f.write_str(beside::CASE),
            Self::Cancel => f.write_str(cancel::CASE),
            Self::Idle => f.write_str("idle"),
        }
    }
}

impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ends() {
            (from, to) if self.suite == local::SUITE => write!(f, "{} {from}->{to}", self.name),
            (memory, file) => write!(f, "{} {memory} {file}", self.name),
        }
    }
}

fn blocks(place: Place, arrangement: Arrangement, kind: IoKind, threads: usize) -> Case {
    let mut engines = vec![Engine::Executor, Engine::Threads(2)];
    if place == Place::Disk {
        engines[1] = Engine::Threads(threads);
        engines.extend([Engine::ExecutorThreads, Engine::Ring(16)]);
        // A call of registered memory has one piece.
        if arrangement == Arrangement::Contiguous {
            engines.push(Engine::RingFixed(16));
        }
    }
    engines.push(Engine::Posix);
    Case::Batch(Batch {
        suite: SUITE,
        name: format!("{kind}-{BLOCKS}"),
        kind,
        place,
        arrangement,
        shape: model(64),
        apart: 1,
        engines,
    })
}

fn of_shape(args: &FileArgs, bytes: usize) -> Vec<Case> {
    let places = if args.storage_enable_direct { &Place::ALL[..1] } else { &Place::ALL[..] };
    let case = |place, kind| {
        Case::Batch(Batch {
            suite: SUITE,
            name: format!("{kind}-{}x{}", args.batch_size, size(bytes)),
            kind,
            place,
            arrangement: Arrangement::Contiguous,
            shape: plain(args.batch_size, bytes),
            apart: 1,
            engines: vec![
                Engine::Executor,
                Engine::Threads(args.num_threads),
                Engine::Ring(16),
                Engine::Posix,
            ],
        })
    };
    places
        .iter()
        .flat_map(|&place| [IoKind::Read, IoKind::Write].map(|kind| case(place, kind)))
        .collect()
}

/// Blocks of a 70B model, 5 MiB each: 160 pieces of 32 KiB.
pub(super) fn model(blocks: usize) -> Dimensions {
    let inner = Inner::Heads { heads: 8, head_size: 128 };
    Dimensions { blocks, layers: 80, outer: 2, page_size: 16, inner, element_width: 2 }
}

/// Blocks of so many bytes.
pub(super) fn plain(blocks: usize, bytes: usize) -> Dimensions {
    let inner = Inner::Elements(bytes);
    Dimensions { blocks, layers: 1, outer: 1, page_size: 1, inner, element_width: 1 }
}
