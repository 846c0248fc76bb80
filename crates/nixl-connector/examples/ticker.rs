//! Delay of a task that wants to run every millisecond, while others of its thread wait for operations that do not end.
//!
//! ```text
//! cargo run --release --example ticker -- --pending 1000
//! ```
//!
//! The operations are reads of a simulated network that stand still, so that nothing but this process takes time.
#![allow(clippy::print_stdout, reason = "a command-line program")]

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use nixl_connector::simulated::{Fabric, Fault};
use nixl_connector::{Connector, OperationOptions};
use nixl_descriptor::Region;
use nixl_ops::SystemClock;
use tokio::runtime::Builder;
use tokio::time::{MissedTickBehavior, interval, sleep};

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

const TICK: Duration = Duration::from_millis(1);

/// How late a task runs beside tasks that wait for operations
#[derive(Parser)]
struct Args {
    /// Operations that wait, each in a task of its own
    #[arg(long, default_value_t = 1000)]
    pending: usize,
    /// How often it is measured
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Threads of the runtime; 0 for a current-thread runtime
    #[arg(long, default_value_t = 0)]
    workers: usize,
}

fn main() -> Result {
    let args = Args::parse();
    let mut runtime = match args.workers {
        0 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    let runtime = runtime.worker_threads(args.workers.max(1)).enable_time().build()?;
    println!("{:<10}{:>16}{:>16}", "ms late", "nothing pending", "pending");
    for _ in 0..args.rounds {
        let [before, during] = runtime.block_on(round(args.pending))?;
        println!("{:<10}{:>16.2}{:>16.2}", "", millis(before), millis(during));
    }
    Ok(())
}

/// The longest delay of a tick before the operations are awaited, and while they are.
async fn round(pending: usize) -> Result<[Duration; 2]> {
    let fabric = Fabric::new(Arc::new(SystemClock::new()));
    let build = |name| Connector::builder().transport(fabric.transport(name)).build();
    let (source, sink) = (build("source").await?, build("sink").await?);
    fabric.faults().always([Fault::Stalls { after: 0 }]);
    let (mut offers, mut reads) = (Vec::new(), Vec::new());
    for _ in 0..pending {
        let offer = source.create_readable(source.buffer(64)?).await?;
        let local = Region::zeroed(64)?;
        // For as long as the round takes.
        let options = OperationOptions::new().timeout(Duration::from_secs(2));
        reads.push(sink.begin_read_with(offer.metadata(), local, options).await?);
        offers.push(offer);
    }
    let before = tokio::spawn(latest(300)).await?;
    let tasks: Vec<_> = reads
        .into_iter()
        .map(|mut read| tokio::spawn(async move { read.wait_for_completion().await.is_err() }))
        .collect();
    let during = tokio::spawn(latest(300)).await?;
    for task in tasks {
        if !task.await? {
            return Err("a read that stands still has ended".into());
        }
    }
    fabric.faults().release();
    sleep(TICK).await;
    Ok([before, during])
}

/// The longest delay of so many ticks.
async fn latest(ticks: usize) -> Duration {
    let mut ticker = interval(TICK);
    ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticker.tick().await;
    let (mut last, mut latest) = (Instant::now(), Duration::ZERO);
    for _ in 0..ticks {
        ticker.tick().await;
        let now = Instant::now();
        latest = latest.max(now.saturating_duration_since(last).saturating_sub(TICK));
        last = now;
    }
    latest
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
