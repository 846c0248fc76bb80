//! Many reads of a page in flight, with words that are read through the engine and with words that are mapped.

use anyhow::{Result, ensure};

use super::SUITE;
use super::cache::{SMALL_BLOCKS, SMALL_BYTES, SmallCache};
use super::engine::Engine;
use super::session::{SEED, Session};
use super::small::Pages;
use super::turns::turns;
use crate::clock;
use crate::initiator::Findings;
use crate::report::Row;
use crate::samples::Samples;

pub(crate) const CASE: &str = "pages-at-once";

const ENGINES: [Engine; 4] =
    [Engine::Ticket, Engine::TicketWordsMapped, Engine::TicketMapped, Engine::NixlSys];

pub(crate) fn at_once(session: &mut Session, findings: &mut Findings) -> Result<()> {
    let cache = SmallCache::private()?;
    let pages = Pages::new(session, &cache)?;
    let mut all = ENGINES.map(|_| Samples::default());
    for round in 0..=session.effort.pick(20, 150) {
        let lists = (0..SMALL_BLOCKS as u32).map(|block| vec![block]).collect();
        let tickets = session.tickets(1, lists)?;
        for turn in turns(&[0, 1, 2, 3], round) {
            let engine = ENGINES[turn];
            cache.fill(None)?;
            let took = match engine {
                Engine::NixlSys => by_nixl_sys(session, &pages)?,
                _ => {
                    let (import, options) = session.import(engine);
                    session.runtime.block_on(async {
                        let begun = clock::now();
                        let reads = tickets.iter().cloned().enumerate().map(|(block, ticket)| {
                            let (import, options) = (import.clone(), options.clone());
                            let layout = cache.layout.clone();
                            tokio::spawn(async move {
                                import.read_blocks_with(&ticket, &layout, &[block], options).await
                            })
                        });
                        for read in reads.collect::<Vec<_>>() {
                            read.await??;
                        }
                        anyhow::Ok(clock::now() - begun)
                    })?
                }
            };
            ensure!(cache.holds(SEED)?, "{engine}: wrong bytes in the destination");
            if round > 0 {
                all[turn].push(took);
            }
        }
        session.over()?;
    }
    for (engine, samples) in ENGINES.into_iter().zip(&all) {
        let row = Row::new(CASE, engine.name(), samples)?
            .between(SUITE, "contiguous", "contiguous")
            .of(SMALL_BYTES)
            .in_batches_of(SMALL_BLOCKS)
            .verified();
        findings.rows.push(row.moving(SMALL_BYTES * SMALL_BLOCKS));
    }
    Ok(())
}

/// All pages, each word once its page has come.
fn by_nixl_sys(session: &Session, pages: &Pages) -> Result<u64> {
    let agent = session.plain.agent();
    let begun = clock::now();
    let mut first = Vec::with_capacity(SMALL_BLOCKS);
    for page in 0..SMALL_BLOCKS {
        first.push(pages.prepared.read(agent, &[page as i32], &[page as i32])?);
    }
    let mut second = Vec::with_capacity(SMALL_BLOCKS);
    for (page, (request, pending)) in first.iter().enumerate() {
        if *pending {
            session.plain.wait(request)?;
        }
        second.push(pages.prepared.read(agent, &Pages::word(page), &Pages::word(page))?);
    }
    for (request, pending) in &second {
        if *pending {
            session.plain.wait(request)?;
        }
    }
    Ok(clock::now() - begun)
}
