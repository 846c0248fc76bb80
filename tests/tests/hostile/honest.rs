//! Traffic of a process that uses the target as it is meant.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nixl_connector::{Connector, RemoteExport};
use nixl_descriptor::Region;
use nixl_executor::paths::LocalFacts;
use nixl_executor::{GpuBackend, GpuCapabilities, PathExecutor, SimulatedGpus};
use nixl_metadata::Ticket;
use nixl_ops::Executor;
use nixl_tests::{Cache, block_of, bytes_of, crc32, pattern};

use crate::LEN;
use crate::target::{SEED, Target};

/// How long operations took.
#[derive(Debug, Default)]
pub(crate) struct Honest {
    took: Vec<Duration>,
    pub(crate) failed: usize,
    /// Operations that succeeded, with other bytes than they should have.
    pub(crate) wrong: usize,
}

impl Honest {
    pub(crate) fn percentile(&self, percent: usize) -> Duration {
        let mut took = self.took.clone();
        took.sort_unstable();
        took.get(took.len().saturating_sub(1) * percent / 100).copied().unwrap_or_default()
    }

    /// How many succeeded, and how many did not.
    pub(crate) fn said(&self) -> String {
        let ok = self.took.len();
        if self.failed == 0 { ok.to_string() } else { format!("{ok} and {} failed", self.failed) }
    }

    /// Reads and writes the target's memory until `stop`, and checks each byte.
    pub(crate) async fn until(stop: &AtomicBool, target: &Target) -> Self {
        let connector = connector("honest").await;
        let import = connector.import(&target.export).await.unwrap();
        let cache = Cache::new(0).unwrap();
        let mut honest = Self::default();
        let mut seed = 1;
        while !stop.load(Ordering::Relaxed) {
            seed += 1;
            for took in [
                one(&connector, target, seed).await,
                blocks(&import, &cache, target, seed as usize).await,
            ] {
                match took {
                    Ok(took) => honest.took.push(took),
                    Err(error) if error.is::<WrongBytes>() => honest.wrong += 1,
                    Err(error) => {
                        honest.failed += 1;
                        if honest.failed < 5 {
                            println!("honest: {error}");
                        }
                    }
                }
            }
        }
        honest
    }
}

/// One that takes part in staged transfers.
pub(crate) async fn connector(name: &str) -> Connector {
    let abilities = GpuCapabilities::new(1).with_batch(true);
    let facts = LocalFacts::discover().as_ref().clone().with_simulated_gpus(&abilities);
    let gpus: Arc<dyn GpuBackend> = Arc::new(SimulatedGpus::new(abilities).unwrap());
    let executor = PathExecutor::with(gpus, Arc::new(facts)).unwrap();
    let builder = Connector::builder().name(name).executor(Arc::new(executor) as Arc<dyn Executor>);
    builder.build().await.unwrap()
}

/// Bytes that differ from those that were offered or granted.
#[derive(Debug)]
struct WrongBytes;

impl fmt::Display for WrongBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the bytes are wrong")
    }
}

impl Error for WrongBytes {}

fn right(is_right: bool) -> Result<(), WrongBytes> {
    if is_right { Ok(()) } else { Err(WrongBytes) }
}

type Timed = Result<Duration, Box<dyn Error>>;

/// One read and one write, from the offer to the end of both sides. Returns how long this side took for both.
pub(crate) async fn one(connector: &Connector, target: &Target, seed: u64) -> Timed {
    let bytes = pattern(seed, LEN);
    let (id, remote) = target.offer(&format!("readable {LEN} {seed}"))?;
    let region = Region::zeroed(LEN)?;
    let began = Instant::now();
    let mut read = connector.begin_read(&remote, region.clone()).await?;
    read.wait_for_completion().await?;
    let mut took = began.elapsed();
    right(region.to_vec()? == bytes)?;
    target.ask(&format!("wait {id}"))?;

    let (id, remote) = target.offer(&format!("writable {LEN} 0"))?;
    let region = Region::try_from(bytes.clone())?;
    let began = Instant::now();
    let mut write = connector.begin_write(region, &remote).await?;
    write.wait_for_completion().await?;
    took += began.elapsed();
    let crc = target.ask(&format!("wait {id}"))?;
    right(crc == crc32(&bytes))?;
    Ok(took)
}

/// A read of granted blocks.
async fn blocks(import: &RemoteExport, cache: &Cache, target: &Target, seed: usize) -> Timed {
    let blocks: Vec<_> = (0..3).map(|index| (seed * 7 + index * 11) % Cache::BLOCKS).collect();
    let list: Vec<_> = blocks.iter().map(ToString::to_string).collect();
    let answer = target.ask(&format!("grant {}", list.join(",")))?;
    let (id, ticket) = answer.split_once(' ').ok_or("no grant")?;
    let ticket = Ticket::decode(&bytes_of(ticket).ok_or("no ticket")?)?;
    let began = Instant::now();
    import.read_blocks(&ticket, &cache.layout, &[5, 9, 30]).await?;
    let took = began.elapsed();
    for (block, here) in blocks.into_iter().zip([5, 9, 30]) {
        right(cache.block(here)? == block_of(SEED, block))?;
    }
    import.done(&ticket).await?;
    target.ask(&format!("end {id}"))?;
    Ok(took)
}
