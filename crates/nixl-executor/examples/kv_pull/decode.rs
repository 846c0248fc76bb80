//! The side that reads.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nixl_executor::{Connector, ConnectorError, OperationError, RemoteExport, TransportError};

use crate::cache::Contiguous;
use crate::http::{Cancel, Exported, Prefilled, Prompt};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The address that the prefill side printed.
    #[arg(long)]
    prefill: String,
    #[arg(long, default_value_t = 100)]
    requests: u64,
    /// Blocks of a request.
    #[arg(long, default_value_t = 16)]
    blocks: usize,
    /// One request of so many is cancelled before it is read.
    #[arg(long, default_value_t = 10)]
    cancel_every: u64,
    /// How long a prefill side that is gone is waited for, in seconds.
    #[arg(long, default_value_t = 30)]
    patience: u64,
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

pub(crate) async fn run(args: Args) -> Result<()> {
    let connector = nixl_executor::connector().await?.name("decode").build().await?;
    let http = reqwest::Client::new();
    let cache = Contiguous::new(args.blocks)?;
    let mut tally = Tally::default();
    let mut import = None;
    for request in 0..args.requests {
        let patience = Instant::now() + Duration::from_secs(args.patience);
        loop {
            let ended = match &import {
                Some(import) => one(&http, &args, import, request, &cache, &mut tally).await,
                None => match reach(&http, &args, &connector).await {
                    Ok(reached) => {
                        tally.imports += 1;
                        println!("import {}", tally.imports);
                        import = Some(reached);
                        continue;
                    }
                    Err(error) => Err(error),
                },
            };
            let Err(error) = ended else { break };
            if is_busy(&error) && Instant::now() < patience {
                tokio::time::sleep(Duration::from_millis(1)).await;
                continue;
            }
            if error.downcast_ref::<Wrong>().is_some() || Instant::now() > patience {
                return Err(error);
            }
            // The prefill side has ended, or was started anew.
            import = None;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    let Tally { read, stale, bytes, imports, elapsed } = tally;
    let rate = bytes as f64 / elapsed.as_secs_f64().max(f64::MIN_POSITIVE) / 1e9;
    println!("read {read} stale {stale} imports {imports} wrong 0 bytes {bytes} GB/s {rate:.2}");
    Ok(())
}

/// Whether the prefill side has no free blocks just now.
fn is_busy(error: &anyhow::Error) -> bool {
    let status = error.downcast_ref::<reqwest::Error>().and_then(reqwest::Error::status);
    status == Some(reqwest::StatusCode::SERVICE_UNAVAILABLE)
}

async fn reach(http: &reqwest::Client, args: &Args, connector: &Connector) -> Result<RemoteExport> {
    let answer = http.get(format!("{}/export", args.prefill)).send().await?.error_for_status()?;
    let Exported { export } = answer.json().await?;
    Ok(connector.import(&export).await?)
}

/// Bytes that are not those that were granted.
#[derive(Debug, thiserror::Error)]
#[error("block {block} of request {request} has wrong bytes")]
struct Wrong {
    request: u64,
    block: usize,
}

async fn one(
    http: &reqwest::Client,
    args: &Args,
    import: &RemoteExport,
    request: u64,
    cache: &Contiguous,
    tally: &mut Tally,
) -> Result<()> {
    let prompt = Prompt { request, blocks: args.blocks };
    let post = http.post(format!("{}/prefill", args.prefill)).json(&prompt);
    let Prefilled { ticket, seeds } = post.send().await?.error_for_status()?.json().await?;
    let is_cancelled = (request + 1).is_multiple_of(args.cancel_every);
    if is_cancelled {
        let cancel = http.post(format!("{}/cancel", args.prefill)).json(&Cancel { request });
        cancel.send().await?.error_for_status()?;
    }
    let blocks: Vec<usize> = (0..args.blocks).collect();
    let begun = Instant::now();
    match import.read_blocks(&ticket, &cache.layout, &blocks).await {
        Ok(_) if is_cancelled => bail!("a cancelled request was read"),
        Ok(done) => {
            tally.elapsed += begun.elapsed();
            import.done(&ticket).await?;
            tally.read += 1;
            tally.bytes += done.bytes();
            for (block, seed) in seeds.into_iter().enumerate() {
                if !cache.holds(block, seed)? {
                    return Err(Wrong { request, block }.into());
                }
            }
            Ok(())
        }
        Err(error) if is_cancelled && is_stale(error.cause()) => {
            tally.stale += 1;
            Ok(())
        }
        Err(error) => Err(error).context("cannot read"),
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
