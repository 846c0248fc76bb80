//! The side that owns the cache.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nixl_executor::channel::{Entry, Incarnation};
use nixl_executor::{Export, Grant, GrantOptions};
use nixl_memories::Memory;

use crate::cache::PerLayer;
use crate::channel::{Place, worker};
use crate::messages::{Asked, PREFILL, Reply};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    place: Place,
    /// Blocks of the cache, of 256 KiB.
    #[arg(long, default_value_t = 256)]
    blocks: usize,
    /// The memory of the cache: host, shared, pinned, cuda:N, pool:N, vmm:N, vmmfd:N or managed:N.
    #[arg(long, value_name = "KIND", default_value_t = Memory::Shared)]
    memory: Memory,
}

struct Server {
    cache: PerLayer,
    export: Export,
    state: Mutex<Requests>,
}

#[derive(Default)]
struct Requests {
    /// Blocks that hold nothing.
    free: Vec<u32>,
    /// The grants of requests that were not read to the end, and the replies that carried their tickets.
    granted: HashMap<u64, (Grant, Reply)>,
    filled: u64,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let connector = nixl_executor::connector().await?.name(PREFILL).build().await?;
    let cache = PerLayer::new(args.memory, args.blocks)?;
    let export = connector.export([("full", cache.layout.clone())]).await?;
    let free = (0..u32::try_from(args.blocks)?).rev().collect();
    let state = Mutex::new(Requests { free, ..Requests::default() });

    let channel = args.place.connect().await?;
    let (name, start) = (worker(PREFILL)?, Incarnation::now());
    let entry = Entry::new(name.clone(), start, export.metadata().encode()?);
    let _published = channel.publish(entry).await?;
    let mut inbox = channel.serve(&name, start).await?;
    println!("ready");

    let server = Arc::new(Server { cache, export, state });
    loop {
        // It ends when a later start of this side takes over.
        let request = inbox.next().await?;
        let reply = serde_json::from_slice(request.payload()).context("no request");
        match reply.and_then(|asked| Arc::clone(&server).answer(asked)) {
            Ok(reply) => {
                // One that is too long is refused; the next may be shorter.
                if let Err(error) = request.reply(serde_json::to_vec(&reply)?) {
                    eprintln!("cannot reply: {error}");
                }
            }
            Err(error) => request.refuse(&format!("{error:#}")),
        }
    }
}

impl Server {
    fn answer(self: Arc<Self>, asked: Asked) -> Result<Reply> {
        match asked {
            Asked::Prefill { request, blocks } => self.prefill(request, blocks),
            Asked::Cancel { request } => {
                // From now on the ticket reads nothing.
                let granted = self.lock().granted.remove(&request);
                granted.map(|(grant, _)| grant.end());
                Ok(Reply::Cancelled)
            }
        }
    }

    /// Fills blocks for a request, and grants them to one reader.
    fn prefill(self: Arc<Self>, request: u64, blocks: usize) -> Result<Reply> {
        let (blocks, seeds) = {
            let mut state = self.lock();
            if let Some((_, reply)) = state.granted.get(&request) {
                // The first reply was lost.
                return Ok(reply.clone());
            }
            let Some(left) = state.free.len().checked_sub(blocks) else { return Ok(Reply::Busy) };
            let blocks = state.free.split_off(left);
            let first = state.filled;
            state.filled += blocks.len() as u64;
            (blocks, (first..state.filled).collect::<Vec<_>>())
        };
        let granted = self.granted(&blocks, &seeds);
        let (grant, freed) = granted.inspect_err(|_| self.lock().free.extend(&blocks))?;
        let reply = Reply::Prefilled { ticket: grant.ticket().clone(), seeds };
        self.lock().granted.insert(request, (grant, reply.clone()));
        // The blocks are free once they were read, the request was cancelled, or its time is over.
        tokio::spawn(async move {
            freed.await;
            let mut state = self.lock();
            // A cancelled request may have been sent again, and have other blocks now.
            let is_of = |granted: &(Grant, Reply)| granted.0.ticket().blocks() == blocks;
            if state.granted.get(&request).is_some_and(is_of) {
                state.granted.remove(&request);
            }
            state.free.extend(blocks);
        });
        Ok(reply)
    }

    /// Fills blocks and grants them, and returns the wait until they are free.
    fn granted(
        &self,
        blocks: &[u32],
        seeds: &[u64],
    ) -> Result<(Grant, impl Future<Output = ()> + Send + 'static)> {
        for (block, seed) in blocks.iter().zip(seeds) {
            self.cache.fill(*block, *seed)?;
        }
        // A reader that is lost keeps its blocks no longer than this.
        let options = GrantOptions::new().time_to_live(Duration::from_secs(20));
        let grant = self.export.grant(0, blocks, options)?;
        let freed = grant.free_blocks()?;
        Ok((grant, freed))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Requests> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
