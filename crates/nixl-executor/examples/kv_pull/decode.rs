//! The side that reads.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nixl_executor::channel::{Channel, Incarnation, WorkerName};
use nixl_executor::{
    Connector, ConnectorError, ExportMetadata, OperationError, RemoteExport, TransportError,
};
use nixl_memories::Memory;

use crate::cache::Contiguous;
use crate::channel::{Place, WITHIN, worker};
use crate::messages::{Asked, DECODE, PREFILL, Reply};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    place: Place,
    #[arg(long, default_value_t = 100)]
    requests: u64,
    /// Blocks of a request.
    #[arg(long, default_value_t = 16)]
    blocks: usize,
    /// One request of so many is cancelled before it is read.
    #[arg(long, default_value_t = 10)]
    cancel_every: u64,
    /// How long a prefill side or a channel that is gone is waited for, in seconds.
    #[arg(long, default_value_t = 30)]
    patience: u64,
    /// The memory of the cache: host, shared, pinned, cuda:N, pool:N, vmm:N, vmmfd:N or managed:N.
    #[arg(long, value_name = "KIND", default_value_t = Memory::Shared)]
    memory: Memory,
}

/// What has happened.
#[derive(Default)]
struct Tally {
    read: u64,
    stale: u64,
    bytes: u64,
    imports: u64,
    elapsed: Duration,
}

struct Reader {
    args: Args,
    connector: Connector,
    channel: Arc<dyn Channel>,
    names: [WorkerName; 2],
    cache: Contiguous,
    /// What the prefill side exports, by its start.
    import: Option<(Incarnation, RemoteExport)>,
    tally: Tally,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let connector = nixl_executor::connector().await?.name(DECODE).build().await?;
    let channel = args.place.connect().await?;
    let names = [worker(DECODE)?, worker(PREFILL)?];
    let cache = Contiguous::new(args.memory, args.blocks)?;
    let (import, tally) = (None, Tally::default());
    let mut reader = Reader { args, connector, channel, names, cache, import, tally };
    for request in 0..reader.args.requests {
        reader.pull(request).await?;
        println!("request {request}");
    }
    let Tally { read, stale, bytes, imports, elapsed } = reader.tally;
    let rate = bytes as f64 / elapsed.as_secs_f64().max(f64::MIN_POSITIVE) / 1e9;
    println!("read {read} stale {stale} imports {imports} wrong 0 bytes {bytes} GB/s {rate:.2}");
    Ok(())
}

/// The prefill side has no free blocks just now.
#[derive(Debug, thiserror::Error)]
#[error("the prefill side has no free blocks")]
struct Busy;

/// Bytes that are not those that were granted.
#[derive(Debug, thiserror::Error)]
#[error("block {block} of request {request} has wrong bytes")]
struct Wrong {
    request: u64,
    block: usize,
}

impl Reader {
    /// Reads the blocks of a request, as often as that takes within the patience.
    async fn pull(&mut self, request: u64) -> Result<()> {
        let patience = Instant::now() + Duration::from_secs(self.args.patience);
        while let Err(error) = self.one(request).await {
            if error.is::<Wrong>() || Instant::now() > patience {
                return Err(error);
            }
            if error.is::<Busy>() {
                tokio::time::sleep(Duration::from_millis(1)).await;
                continue;
            }
            eprintln!("request {request}: {error:#}");
            tokio::time::sleep(Duration::from_millis(50)).await;
            // The prefill side may have been started anew.
            let _not_yet = self.import().await;
        }
        Ok(())
    }

    /// Imports what the prefill side exports now, unless that is imported.
    async fn import(&mut self) -> Result<()> {
        let entry = self.channel.fetch(&self.names[1]).await?;
        let start = entry.incarnation();
        if self.import.as_ref().is_none_or(|(imported, _)| *imported != start) {
            let export = ExportMetadata::decode(entry.payload())?;
            self.import = Some((start, self.connector.import(&export).await?));
            self.tally.imports += 1;
            println!("import {}", self.tally.imports);
        }
        Ok(())
    }

    /// Sends a request to the prefill side. It may be sent again: the reply would be the same.
    async fn ask(&self, asked: &Asked) -> Result<Reply> {
        let [decode, prefill] = &self.names;
        let payload = serde_json::to_vec(asked)?;
        let reply = self.channel.request(decode, prefill, payload.into(), WITHIN).await?;
        serde_json::from_slice(&reply).context("no reply")
    }

    async fn one(&mut self, request: u64) -> Result<()> {
        if self.import.is_none() {
            self.import().await?;
        }
        let asked = Asked::Prefill { request, blocks: self.args.blocks };
        let (ticket, seeds) = match self.ask(&asked).await? {
            Reply::Prefilled { ticket, seeds } => (ticket, seeds),
            Reply::Busy => return Err(Busy.into()),
            Reply::Cancelled => bail!("a reply to another request"),
        };
        let is_cancelled = (request + 1).is_multiple_of(self.args.cancel_every);
        if is_cancelled {
            self.ask(&Asked::Cancel { request }).await?;
        }
        let Some((_, import)) = &self.import else { bail!("nothing is imported") };
        let blocks: Vec<usize> = (0..self.args.blocks).collect();
        let begun = Instant::now();
        match import.read_blocks(&ticket, &self.cache.layout, &blocks).await {
            Ok(_) if is_cancelled => bail!("a cancelled request was read"),
            Ok(done) => {
                self.tally.elapsed += begun.elapsed();
                import.done(&ticket).await?;
                self.tally.read += 1;
                self.tally.bytes += done.bytes();
                for (block, seed) in seeds.into_iter().enumerate() {
                    if !self.cache.holds(block, seed)? {
                        return Err(Wrong { request, block }.into());
                    }
                }
                Ok(())
            }
            Err(error) if is_cancelled && is_stale(error.cause()) => {
                self.tally.stale += 1;
                Ok(())
            }
            Err(error) => Err(error).context("cannot read"),
        }
    }
}

fn is_stale(error: &ConnectorError) -> bool {
    match error {
        ConnectorError::Transport(error)
        | ConnectorError::Operation(OperationError::Transport(error)) => {
            *error == TransportError::Stale
        }
        _ => false,
    }
}
