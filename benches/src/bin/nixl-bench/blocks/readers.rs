//! Reads of a page, one each millisecond, alone and beside 64 tasks of the same process that read blocks all the time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nixl_connector::{BlockTransferOptions, RemoteExport};
use nixl_descriptor::layout::Layout;
use nixl_executor::TransferClass;
use nixl_metadata::Ticket;
use tokio::runtime;

use super::SUITE;
use super::cache::{Arrangement, BLOCK_BYTES, Cache, SMALL_BLOCKS, SMALL_BYTES, SmallCache};
use super::engine::Engine;
use super::session::{SEED, Session};
use crate::clock;
use crate::initiator::Findings;
use crate::report::{Gauge, Row};
use crate::samples::Samples;

pub(crate) const CASE: &str = "interactive-page";
/// Tasks that read, each a block into a block of its own.
pub(crate) const READERS: usize = 64;
/// What a page is read beside.
pub(crate) const BESIDE: [&str; 3] = ["alone", "beside-64-bulk", "beside-64-in-one-piece"];
/// How long pages are read at most, but for some of each.
const MOST_NANOS: u64 = 15_000_000_000;
pub(crate) const ENGINES: [Engine; 2] = [Engine::Ticket, Engine::TicketMapped];

pub(crate) fn readers(session: &mut Session, findings: &mut Findings) -> Result<()> {
    let small = SmallCache::private()?;
    let cache = Cache::private(READERS, Arrangement::PerLayer)?;
    let held: Vec<_> = (0..READERS).zip(0..).collect();
    for engine in ENGINES {
        for (beside, class) in BESIDE.into_iter().zip([
            None,
            Some(TransferClass::Bulk),
            Some(TransferClass::Interactive),
        ]) {
            small.fill(None)?;
            cache.fill(&held, None)?;
            let pages =
                session.tickets(1, (0..SMALL_BLOCKS as u32).map(|page| vec![page]).collect())?;
            let blocks =
                session.tickets(0, (0..READERS as u32).map(|block| vec![block]).collect())?;
            let (import, options) = session.import(engine);
            let (stop, moved) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
            let reading = class.map(|class| {
                let others = Others {
                    import: import.clone(),
                    blocks,
                    layout: cache.layout.clone(),
                    options: options.clone().class(class),
                    stop: Arc::clone(&stop),
                    moved: Arc::clone(&moved),
                };
                thread::spawn(move || others.read())
            });
            let read = pages_read(session, (&import, &options), &pages, &small, &moved);
            stop.store(true, Ordering::Relaxed);
            if let Some(reading) = reading {
                reading.join().ok().context("a reader panicked")??;
            }
            let (samples, bytes_per_ns) = read?;
            ensure!(small.holds(SEED)?, "{engine}: wrong bytes in a page");
            if class.is_some() {
                ensure!(cache.holds(&held, SEED)?, "{engine}: wrong bytes in a block");
                let name = format!("{CASE}-{beside} by {engine}: blocks meanwhile");
                findings.gauges.push(Gauge::new(name, bytes_per_ns, "GB/s"));
            }
            session.over()?;
            let row = Row::new(&format!("{CASE}-{beside}"), engine.name(), &samples)?
                .between(SUITE, "contiguous", "contiguous")
                .of(SMALL_BYTES)
                .verified();
            findings.rows.push(row);
        }
    }
    Ok(())
}

/// Reads a page each millisecond. Returns also what the others have read meanwhile, in bytes a nanosecond.
pub(crate) fn pages_read(
    session: &Session,
    (import, options): (&RemoteExport, &BlockTransferOptions),
    pages: &[Ticket],
    small: &SmallCache,
    moved: &AtomicU64,
) -> Result<(Samples, f64)> {
    let mut samples = Samples::default();
    let (begun, before) = (clock::now(), moved.load(Ordering::Relaxed));
    for round in 0..session.effort.pick(500, 3000) {
        // Tickets live for a minute.
        if round > 2 * SMALL_BLOCKS && clock::now() - begun > MOST_NANOS {
            break;
        }
        thread::sleep(Duration::from_millis(1));
        let page = round % SMALL_BLOCKS;
        let took = session.runtime.block_on(async {
            let begun = clock::now();
            let (layout, options) = (&small.layout, options.clone());
            import.read_blocks_with(&pages[page], layout, &[page], options).await?;
            anyhow::Ok(clock::now() - begun)
        })?;
        // All pages once before it counts.
        if round >= SMALL_BLOCKS {
            samples.push(took);
        }
    }
    let bytes = moved.load(Ordering::Relaxed) - before;
    Ok((samples, bytes as f64 / (clock::now() - begun).max(1) as f64))
}

/// What the others read, and how much they have read so far.
struct Others {
    import: RemoteExport,
    blocks: Vec<Ticket>,
    layout: Layout,
    options: BlockTransferOptions,
    stop: Arc<AtomicBool>,
    moved: Arc<AtomicU64>,
}

impl Others {
    fn read(self) -> Result<()> {
        let runtime = runtime::Builder::new_current_thread().build()?;
        let Self { import, blocks, layout, options, stop, moved } = self;
        let tasks = blocks.into_iter().enumerate().map(|(block, ticket)| {
            let (import, layout, options) = (import.clone(), layout.clone(), options.clone());
            let (stop, moved) = (Arc::clone(&stop), Arc::clone(&moved));
            async move {
                while !stop.load(Ordering::Relaxed) {
                    let options = options.clone();
                    import.read_blocks_with(&ticket, &layout, &[block], options).await?;
                    moved.fetch_add(BLOCK_BYTES as u64, Ordering::Relaxed);
                }
                anyhow::Ok(())
            }
        });
        runtime.block_on(async {
            for task in tasks.map(tokio::spawn).collect::<Vec<_>>() {
                task.await??;
            }
            Ok(())
        })
    }
}
