//! Reads of a page, one each millisecond, beside 64 other processes that read blocks of the same export all the time.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use anyhow::{Context as _, Result, bail, ensure};
use nixl_connector::{BlockTransferOptions, RemoteExport};
use nixl_executor::TransferClass;
use nixl_metadata::{ExportMetadata, Ticket};
use serde::{Deserialize, Serialize};
use tokio::runtime::{self, Runtime};

use super::SUITE;
use super::cache::{Arrangement, BLOCK_BYTES, Cache, SMALL_BLOCKS, SMALL_BYTES, SmallCache};
use super::engine::Engine;
use super::readers::{ENGINES, READERS, pages_read};
use super::session::{SEED, Session, connector, options};
use crate::clock;
use crate::control::Control;
use crate::initiator::Findings;
use crate::peer::{Peer, expect_reply};
use crate::report::{Gauge, Row};

pub(crate) const CASE: &str = "interactive-page-beside-64-processes";
const ROLE: &str = "blocks-reader";

/// What one of the processes is asked, in this order.
#[derive(Debug, Deserialize, Serialize)]
enum Request {
    /// Import this, by which blocks are mapped or not.
    Import { metadata: Vec<u8>, is_mapped: bool },
    /// Read a block by this ticket once.
    Read { ticket: Vec<u8> },
    /// Read it again and again.
    Go,
    /// No further read.
    Stop,
}

#[derive(Debug, Deserialize, Serialize)]
enum Reply {
    Imported,
    Read,
    Reading,
    Stopped { blocks: u64 },
}

/// In the process that reads pages.
pub(crate) fn processes(session: &mut Session, findings: &mut Findings) -> Result<()> {
    let small = SmallCache::private()?;
    let others = (0..READERS).map(|_| Peer::start(ROLE)).collect::<Result<Vec<_>>>();
    let mut others = others.context("the other processes cannot start")?;
    for engine in ENGINES {
        small.fill(None)?;
        let is_mapped = engine == Engine::TicketMapped;
        let metadata = session.metadata[usize::from(!is_mapped)].encode()?;
        for other in &mut others {
            let import = Request::Import { metadata: metadata.clone(), is_mapped };
            expect_reply!(other.ask(&import)?, Reply::Imported => ());
        }
        let pages = (0..SMALL_BLOCKS as u32).map(|page| vec![page]).collect();
        let pages = session.tickets(1, pages)?;
        let blocks = (0..READERS as u32).map(|block| vec![block]).collect();
        let blocks = session.tickets(0, blocks)?;
        for (other, ticket) in others.iter_mut().zip(&blocks) {
            let read = Request::Read { ticket: ticket.encode() };
            expect_reply!(other.ask(&read)?, Reply::Read => ());
        }
        let begun = clock::now();
        for other in &mut others {
            expect_reply!(other.ask(&Request::Go)?, Reply::Reading => ());
        }
        let (import, options) = session.import(engine);
        let none = AtomicU64::new(0);
        let read = pages_read(session, (&import, &options), &pages, &small, &none);
        let mut moved = 0;
        for other in &mut others {
            let blocks =
                expect_reply!(other.ask(&Request::Stop)?, Reply::Stopped { blocks } => blocks);
            moved += blocks;
        }
        let moved = (moved * BLOCK_BYTES as u64) as f64 / (clock::now() - begun).max(1) as f64;
        let (samples, _) = read?;
        ensure!(small.holds(SEED)?, "{engine}: wrong bytes in a page");
        session.over()?;
        findings.gauges.push(Gauge::new(
            format!("{CASE} by {engine}: blocks meanwhile"),
            moved,
            "GB/s",
        ));
        let row = Row::new(CASE, engine.name(), &samples)?
            .between(SUITE, "contiguous", "contiguous")
            .of(SMALL_BYTES)
            .verified();
        findings.rows.push(row);
    }
    others.into_iter().try_for_each(Peer::quit)
}

/// One of the other processes: reads blocks until it is told to stop, and so on.
pub(crate) fn run() -> Result<()> {
    let mut control = Control::open()?;
    let served = Reader::start().and_then(|reader| reader.serve(&mut control));
    served.or_else(|error| control.fail(&error))
}

/// Field order: what uses the memory goes before it.
struct Reader {
    connector: nixl_connector::Connector,
    runtime: Runtime,
    /// Of one block.
    cache: Cache,
}

impl Reader {
    fn start() -> Result<Self> {
        let runtime = runtime::Builder::new_current_thread().build()?;
        let name = format!("bench-reader-{}", std::process::id());
        let connector = runtime.block_on(connector(&name))?;
        Ok(Self { connector, runtime, cache: Cache::private(1, Arrangement::PerLayer)? })
    }

    fn serve(&self, control: &mut Control<Request>) -> Result<()> {
        while let Some(request) = control.next() {
            let Request::Import { metadata, is_mapped } = request else {
                bail!("it was asked for something else than an import")
            };
            let metadata = ExportMetadata::decode(&metadata)?;
            let import = self.runtime.block_on(self.connector.import(&metadata))?;
            control.answer(Reply::Imported)?;
            let Some(Request::Read { ticket }) = control.next() else { return Ok(()) };
            let ticket = Ticket::decode(&ticket)?;
            let engine = if is_mapped { Engine::TicketMapped } else { Engine::Ticket };
            let by = BlockTransferOptions::new().operation(options(engine));
            let blocks = self.read(control, (&import, &ticket), &by.class(TransferClass::Bulk))?;
            control.answer(Reply::Stopped { blocks })?;
        }
        Ok(())
    }

    /// Reads until the next request. Returns the number of reads.
    fn read(
        &self,
        control: &mut Control<Request>,
        (import, ticket): (&RemoteExport, &Ticket),
        options: &BlockTransferOptions,
    ) -> Result<u64> {
        let stops = AtomicBool::new(false);
        let once = || {
            let read = import.read_blocks_with(ticket, &self.cache.layout, &[0], options.clone());
            self.runtime.block_on(read)
        };
        // What is opened and registered once is.
        once()?;
        control.answer(Reply::Read)?;
        let Some(Request::Go) = control.next() else { bail!("it was not told to go on reading") };
        thread::scope(|scope| {
            let reading = scope.spawn(|| {
                let mut blocks = 0;
                while !stops.load(Ordering::Relaxed) {
                    once()?;
                    blocks += 1;
                }
                anyhow::Ok(blocks)
            });
            let answered = control.answer(Reply::Reading);
            if answered.is_ok() {
                control.next();
            }
            stops.store(true, Ordering::Relaxed);
            let blocks = reading.join().ok().context("the reads panicked")??;
            answered.map(|()| blocks)
        })
    }
}
