//! Reads of blocks, one at a time: by tickets, by offers, by plain nixl-sys and by `memcpy` in turns.

use std::thread;

use anyhow::{Result, ensure};
use nixl_descriptor::Descriptor;
use nixl_metadata::Ticket;

use super::SUITE;
use super::cache::{Arrangement, BLOCK_BYTES, Cache, LAYER_BYTES, LAYERS, some_of};
use super::engine::Engine;
use super::owner::chunks;
use super::polled::{Holds, Polled};
use super::prepared::Prepared;
use super::session::{SEED, Session, options};
use super::turns::{WARM_UP, rounds, turns};
use crate::clock;
use crate::initiator::Findings;
use crate::report::{Gauge, Row};
use crate::samples::Samples;

/// Blocks of the memory that `memcpy` copies from, the same again and again: several times as much as the caches hold.
const COPIED: usize = 96;

/// Blocks of the reads of which it is noted how long they held the caller's thread.
const HELD_BY: usize = 64;
/// Of the gauges: the longest that any poll of a read held the caller's thread.
pub(crate) const HELD: &str = "longest poll, CPU time, max";

const ENGINES: [Engine; 6] = [
    Engine::Ticket,
    Engine::TicketMapped,
    Engine::OneShot,
    Engine::OneShotMapped,
    Engine::NixlSys,
    Engine::Memcpy,
];

pub(crate) fn name(count: usize, into: Arrangement) -> String {
    format!("blocks-{count}-per-layer-to-{}", into.name())
}

/// What one engine came to.
#[derive(Default)]
struct Subject {
    samples: Samples,
    holds: Holds,
    /// CPU time of the owner, and how long the reads took.
    owner: (u64, u64),
    path: String,
}

pub(crate) fn reads(
    session: &mut Session,
    count: usize,
    into: Arrangement,
    findings: &mut Findings,
) -> Result<()> {
    let blocks = session.blocks;
    let cache = Cache::private(blocks, into)?;
    let source = Cache::shared(COPIED.min(blocks))?;
    let held: Vec<_> = (0..COPIED.min(blocks)).zip(0..).collect();
    source.fill(&held, Some(SEED))?;
    let registered = cache.regions.iter().map(|region| session.plain.register(region));
    let registered = registered.collect::<Result<Vec<_>>>()?;
    let prepared = prepare(session, &cache)?;
    let mut subjects = ENGINES.map(|engine| (engine, Subject::default()));
    let (mut ticket_bytes, mut offer_bytes) = (0, 0);
    for round in 0..WARM_UP + rounds(session.effort, count) {
        for turn in turns(&[0, 1, 2, 3, 4, 5], round) {
            let (engine, subject) = &mut subjects[turn];
            let counts = round >= WARM_UP;
            let seed = (round * ENGINES.len() + turn) as u64;
            let ours = some_of(blocks, count, 2 * seed);
            let mut theirs = some_of(blocks, count, 2 * seed + 1);
            if *engine == Engine::Memcpy {
                theirs.iter_mut().for_each(|id| *id %= held.len());
            }
            let held: Vec<_> = ours.iter().zip(&theirs).map(|(o, t)| (*o, *t as u32)).collect();
            cache.fill(&held, None)?;
            let took = match engine {
                Engine::Ticket | Engine::TicketMapped | Engine::TicketWordsMapped => {
                    let ids = held.iter().map(|(_, id)| *id).collect();
                    let ticket = session.tickets(0, vec![ids])?.remove(0);
                    ticket_bytes = ticket.encoded_len();
                    let cpu = session.owner_cpu_time()?;
                    let took = by_ticket(session, *engine, &ticket, (&cache, &ours), subject)?;
                    let cpu = session.owner_cpu_time()? - cpu;
                    subject.owner = (subject.owner.0 + cpu, subject.owner.1 + took);
                    took
                }
                Engine::OneShot | Engine::OneShotMapped => {
                    let (offer, bytes) = session.offers(0, vec![theirs])?.remove(0);
                    offer_bytes = bytes;
                    let list = chunks(&cache.layout, &ours, LAYERS)?;
                    let (connector, options) = (&session.connector, options(*engine));
                    session.runtime.block_on(async {
                        let begun = clock::now();
                        let mut read = connector.begin_read_with(&offer, list, options).await?;
                        let done = read.wait_for_completion().await?;
                        let took = clock::now() - begun;
                        subject.path = path(&done);
                        anyhow::Ok(took)
                    })?
                }
                Engine::NixlSys => {
                    let index = |ids: &[usize]| -> Vec<i32> {
                        let of = |layer| ids.iter().map(move |id| (layer * blocks + id) as i32);
                        (0..LAYERS).flat_map(of).collect()
                    };
                    let (here, there) = (index(&ours), index(&theirs));
                    let begun = clock::now();
                    let (request, pending) = prepared.read(session.plain.agent(), &here, &there)?;
                    if pending {
                        session.plain.wait(&request)?;
                    }
                    clock::now() - begun
                }
                Engine::Memcpy => {
                    let from = chunks(&source.layout, &theirs, LAYERS)?;
                    let to = chunks(&cache.layout, &ours, LAYERS)?;
                    let pairs: Vec<(Descriptor, Descriptor)> = from.into_iter().zip(to).collect();
                    super::memcpy::copy(&pairs, threads())
                }
            };
            session.over()?;
            ensure!(cache.holds(&held, SEED)?, "{engine}: wrong bytes in the destination");
            if counts {
                subject.samples.push(took);
            }
        }
    }
    drop(prepared);
    drop(registered);
    let case = name(count, into);
    for (engine, subject) in subjects {
        let row = Row::new(&case, engine.name(), &subject.samples)?
            .between(SUITE, into.name(), "per-layer")
            .over("nixl/UCX", &subject.path)
            .of(LAYER_BYTES)
            .in_batches_of(count * LAYERS)
            .verified();
        findings.rows.push(row.moving(count * BLOCK_BYTES));
        if count == HELD_BY {
            gauges(&case, engine, &subject, findings);
        }
    }
    let bytes = |what: &str, bytes: usize| {
        Gauge::new(format!("{what} of {count} blocks"), bytes as f64, "B")
    };
    if into == Arrangement::PerLayer {
        findings.gauges.push(bytes("ticket", ticket_bytes));
        findings.gauges.push(bytes("one-shot metadata", offer_bytes));
    }
    Ok(())
}

/// Threads that the executor copies with on a machine of few cores.
fn threads() -> usize {
    const MOST: usize = 8;
    thread::available_parallelism().map_or(1, usize::from).min(MOST)
}

fn by_ticket(
    session: &Session,
    engine: Engine,
    ticket: &Ticket,
    (cache, blocks): (&Cache, &[usize]),
    subject: &mut Subject,
) -> Result<u64> {
    let (import, options) = session.import(engine);
    session.runtime.block_on(async {
        let begun = clock::now();
        let read = import.read_blocks_with(ticket, &cache.layout, blocks, options);
        let done = Polled::new(read, &mut subject.holds).await?;
        let took = clock::now() - begun;
        subject.path = path(&done);
        Ok(took)
    })
}

pub(crate) fn path(done: &nixl_connector::Completion) -> String {
    done.path().map_or_else(|| "unknown".to_owned(), |path| path.kind().to_string())
}

/// All chunks of both sides, by layer and then by block.
fn prepare(session: &Session, cache: &Cache) -> Result<Prepared> {
    let all: Vec<_> = (0..session.blocks).collect();
    let local = chunks(&cache.layout, &all, LAYERS)?;
    let local: Vec<_> = local.iter().map(|chunk| (chunk.address(), chunk.len())).collect();
    let of_layer = |layer: &u64| {
        let layer = *layer;
        all.iter().map(move |block| (layer + (block * LAYER_BYTES) as u64, LAYER_BYTES))
    };
    let remote: Vec<_> = session.layers.iter().flat_map(of_layer).collect();
    Prepared::new(session.plain.agent(), &local, (&session.plain_owner, &remote))
}

/// How long the caller's thread was held, and what the owner worked.
fn gauges(case: &str, engine: Engine, subject: &Subject, findings: &mut Findings) {
    let Holds { first, longest, longest_cpu } = &subject.holds;
    let all = [first, longest, longest_cpu].map(Samples::percentiles);
    let [Some(first), Some(longest), Some(longest_cpu)] = all else { return };
    let figures = [
        ("first poll, median", first.p50),
        ("longest poll, median", longest.p50),
        ("longest poll, max", longest.max),
        (HELD, longest_cpu.max),
    ];
    for (what, nanos) in figures {
        let micros = (nanos as f64 / 100.0).round() / 10.0;
        findings.gauges.push(Gauge::new(format!("{case} by {engine}: {what}"), micros, "us"));
    }
    let (cpu, took) = subject.owner;
    let share = (cpu as f64 / took.max(1) as f64 * 1e4).round() / 1e2;
    let name = format!("{case} by {engine}: CPU time of the owner meanwhile");
    findings.gauges.push(Gauge::new(name, share, "%"));
}
