//! Reads of a page, one at a time.

use anyhow::{Result, ensure};

use super::SUITE;
use super::cache::{SMALL_BLOCKS, SMALL_BYTES, SmallCache};
use super::engine::Engine;
use super::owner::chunks;
use super::prepared::Prepared;
use super::reads::path;
use super::session::{SEED, Session, options};
use super::turns::turns;
use crate::baseline::Registered;
use crate::clock;
use crate::initiator::Findings;
use crate::report::Row;
use crate::samples::Samples;

pub(crate) const CASE: &str = "page";
/// Bytes that a second read of plain nixl-sys brings, as the word of a grant.
pub(crate) const WORD_BYTES: usize = 32;

const ENGINES: [Engine; 5] =
    [Engine::Ticket, Engine::TicketMapped, Engine::OneShot, Engine::OneShotMapped, Engine::NixlSys];

/// Memory that plain nixl-sys reads pages into, and a word behind each.
pub(crate) struct Pages {
    pub(crate) prepared: Prepared,
    _registered: [Registered; 2],
}

impl Pages {
    /// The first lists are the pages, the later ones the words.
    pub(crate) fn new(session: &Session, cache: &SmallCache) -> Result<Self> {
        let words = SmallCache::private()?;
        let registered = [&cache.region, &words.region];
        let [pages, word] = registered.map(|region| session.plain.register(region));
        let list = |start: u64, len| {
            (0..SMALL_BLOCKS).map(move |page| (start + (page * SMALL_BYTES) as u64, len))
        };
        let (here, there) = (cache.region.address(), session.small);
        let of_words = list(words.region.address(), WORD_BYTES);
        let local: Vec<_> = list(here, SMALL_BYTES).chain(of_words).collect();
        let remote: Vec<_> = list(there, SMALL_BYTES).chain(list(there, WORD_BYTES)).collect();
        let agent = session.plain.agent();
        let prepared = Prepared::new(agent, &local, (&session.plain_owner, &remote))?;
        Ok(Self { prepared, _registered: [pages?, word?] })
    }

    /// Where the word behind a page is in the lists.
    pub(crate) fn word(page: usize) -> [i32; 1] {
        [(SMALL_BLOCKS + page) as i32]
    }
}

pub(crate) fn small(session: &mut Session, findings: &mut Findings) -> Result<()> {
    let caches = ENGINES.map(|engine| (engine, SmallCache::private()));
    let mut subjects = Vec::new();
    for (engine, cache) in caches {
        subjects.push((engine, cache?, Samples::default(), String::from("unknown")));
    }
    let pages = Pages::new(session, &subjects[4].1)?;
    for round in 0..=session.effort.pick(8, 60) {
        for (_, cache, ..) in &subjects {
            cache.fill(None)?;
        }
        let all = || (0..SMALL_BLOCKS).map(|block| vec![block]);
        let lists = || (0..SMALL_BLOCKS as u32).map(|block| vec![block]).collect();
        let tickets = session.tickets(1, lists())?;
        let offers = [session.offers(1, all().collect())?, session.offers(1, all().collect())?];
        for block in 0..SMALL_BLOCKS {
            for turn in turns(&[0, 1, 2, 3, 4], round + block) {
                let (engine, cache, samples, way) = &mut subjects[turn];
                let took = match engine {
                    Engine::OneShot | Engine::OneShotMapped => {
                        let offer = &offers[usize::from(*engine == Engine::OneShotMapped)][block];
                        let list = chunks(&cache.layout, &[block], 1)?;
                        let (connector, options) = (&session.connector, options(*engine));
                        session.runtime.block_on(async {
                            let begun = clock::now();
                            let mut read =
                                connector.begin_read_with(&offer.0, list, options).await?;
                            let done = read.wait_for_completion().await?;
                            let took = clock::now() - begun;
                            *way = path(&done);
                            anyhow::Ok(took)
                        })?
                    }
                    Engine::NixlSys => by_nixl_sys(session, &pages, block)?,
                    _ => {
                        let (import, options) = session.import(*engine);
                        let (ticket, layout) = (&tickets[block], &cache.layout);
                        session.runtime.block_on(async {
                            let begun = clock::now();
                            let blocks = [block];
                            let read = import.read_blocks_with(ticket, layout, &blocks, options);
                            let done = read.await?;
                            let took = clock::now() - begun;
                            *way = path(&done);
                            anyhow::Ok(took)
                        })?
                    }
                };
                // In the first round what is opened and registered once is.
                if round > 0 {
                    samples.push(took);
                }
            }
        }
        for (engine, cache, ..) in &subjects {
            ensure!(cache.holds(SEED)?, "{engine}: wrong bytes in the destination");
        }
        session.over()?;
    }
    for (engine, _, samples, way) in subjects {
        let row = Row::new(CASE, engine.name(), &samples)?
            .between(SUITE, "contiguous", "contiguous")
            .over("nixl/UCX", &way)
            .of(SMALL_BYTES)
            .verified();
        findings.rows.push(row.moving(SMALL_BYTES));
    }
    Ok(())
}

/// The page, and after it the word. Each request is released at its end, as a server has to.
fn by_nixl_sys(session: &Session, pages: &Pages, page: usize) -> Result<u64> {
    let agent = session.plain.agent();
    let begun = clock::now();
    for index in [[page as i32], Pages::word(page)] {
        let (request, pending) = pages.prepared.read(agent, &index, &index)?;
        if pending {
            session.plain.wait(&request)?;
        }
    }
    Ok(clock::now() - begun)
}
