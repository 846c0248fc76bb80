//! The first read after an import, by a connector that has not met the owner before, and later ones.

use anyhow::{Result, ensure};
use nixl_connector::BlockTransferOptions;
use nixl_descriptor::layout::Layout;
use nixl_metadata::Ticket;

use super::SUITE;
use super::cache::{Arrangement, BLOCK_BYTES, Cache, SMALL_BYTES, SmallCache, some_of};
use super::engine::Engine;
use super::session::{SEED, Session, connector, options};
use crate::clock;
use crate::initiator::Findings;
use crate::report::Row;
use crate::samples::Samples;

pub(crate) const CASE: &str = "first-read";
/// Blocks of the longer read.
pub(crate) const BLOCKS: usize = 64;
/// Reads after the first, by the same import.
const LATER: usize = 5;

pub(crate) const IMPORT: &str = "import";
pub(crate) const FIRST: &str = "first";
pub(crate) const LATER_ONES: &str = "later";

enum Destination {
    Page(SmallCache),
    Blocks(Cache, Vec<usize>),
}

impl Destination {
    fn new(long: bool) -> Result<Self> {
        Ok(match long {
            false => Self::Page(SmallCache::private()?),
            true => Self::Blocks(
                Cache::private(BLOCKS, Arrangement::Contiguous)?,
                (0..BLOCKS).collect(),
            ),
        })
    }

    fn layout(&self) -> (&Layout, &[usize]) {
        match self {
            Self::Page(cache) => (&cache.layout, &[0]),
            Self::Blocks(cache, ids) => (&cache.layout, ids),
        }
    }

    fn poison(&self) -> Result<()> {
        match self {
            Self::Page(cache) => cache.fill(None),
            Self::Blocks(cache, ids) => {
                cache.fill(&ids.iter().map(|id| (*id, 0)).collect::<Vec<_>>(), None)
            }
        }
    }

    fn holds(&self, ids: &[u32]) -> Result<bool> {
        match self {
            Self::Page(cache) => {
                let mut page = vec![0; SMALL_BYTES];
                cache.region.copy_to_slice(0, &mut page)?;
                Ok(crate::pattern::Pattern::new(SEED).matches(ids[0] as usize * SMALL_BYTES, &page))
            }
            Self::Blocks(cache, ours) => cache
                .holds(&ours.iter().copied().zip(ids.iter().copied()).collect::<Vec<_>>(), SEED),
        }
    }
}

pub(crate) fn first(session: &mut Session, findings: &mut Findings) -> Result<()> {
    for long in [false, true] {
        for (engine, at) in [(Engine::TicketMapped, 0), (Engine::Ticket, 1)] {
            let metadata = session.metadata[at].clone();
            let mut all = [Samples::default(), Samples::default(), Samples::default()];
            for round in 0..session.effort.pick(5, 20) {
                let ids: Vec<u32> = match long {
                    true => {
                        let ids = some_of(session.blocks, BLOCKS.min(session.blocks), round as u64);
                        ids.into_iter().map(|id| id as u32).collect()
                    }
                    false => vec![round as u32],
                };
                let ticket = session.tickets(u16::from(!long), vec![ids.clone()])?.remove(0);
                // As a reader that has its memory before it imports; what it registers is part of the first read.
                let destination = Destination::new(long)?;
                let (import, reads) = session.runtime.block_on(async {
                    let connector = connector("bench-first").await?;
                    let begun = clock::now();
                    let import = connector.import(&metadata).await?;
                    let imported = clock::now() - begun;
                    let mut reads = Vec::new();
                    for _ in 0..=LATER {
                        destination.poison()?;
                        let options = BlockTransferOptions::new().operation(options(engine));
                        reads.push(read(&import, &ticket, &destination, options).await?);
                        let right = destination.holds(&ids)?;
                        ensure!(right, "{engine}: wrong bytes in the destination");
                    }
                    anyhow::Ok((imported, reads))
                })?;
                all[0].push(import);
                all[1].push(reads[0]);
                reads[1..].iter().for_each(|took| all[2].push(*took));
                session.over()?;
            }
            let bytes = if long { BLOCKS * BLOCK_BYTES } else { SMALL_BYTES };
            for (which, samples) in [IMPORT, FIRST, LATER_ONES].into_iter().zip(&all) {
                let row = Row::new(&format!("{CASE}-{which}"), engine.name(), samples)?
                    .between(SUITE, "contiguous", "per-layer")
                    .of(bytes);
                findings.rows.push(row.verified());
            }
        }
    }
    Ok(())
}

async fn read(
    import: &nixl_connector::RemoteExport,
    ticket: &Ticket,
    destination: &Destination,
    options: BlockTransferOptions,
) -> Result<u64> {
    let (layout, blocks) = destination.layout();
    let begun = clock::now();
    import.read_blocks_with(ticket, layout, blocks, options).await?;
    Ok(clock::now() - begun)
}
