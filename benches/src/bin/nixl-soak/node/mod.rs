//! A process with a connector of its own, which offers memory to other nodes and uses what they offer.

mod control;
mod exported;
mod load;
mod memory;
mod serve;
mod wire;

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use nixl_connector::{Connector, DriverConfig};
use nixl_descriptor::{BufferPool, Region, defer_disposal_on_this_thread, leaked};
use nixl_executor::PathExecutor;
use rustix::process::{Signal, set_parent_process_death_signal};
use tokio::net::UnixListener;
use tokio::runtime::Builder;

use crate::bytes::pattern;
use crate::messages::{Command, Executor, Reply, Setup, State};
use crate::tally::Tally;
use control::Control;

/// What the tasks of a node share.
#[derive(Debug)]
struct Node {
    connector: Connector,
    paths: Option<Arc<PathExecutor>>,
    timeout: Duration,
    served: Mutex<Tally>,
}

/// Serves until it is told to return.
pub(crate) fn run() -> Result<()> {
    // The end of the control channel ends a node that runs, this one also one that is stopped.
    set_parent_process_death_signal(Some(Signal::KILL)).context("cannot follow the coordinator")?;
    let (setup, control) = Control::open()?;
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(serve(setup, control))
}

async fn serve(setup: Setup, mut control: Control) -> Result<()> {
    let node = Arc::new(Node::new(&setup).await?);
    let listener = UnixListener::bind(&setup.socket).context("cannot listen for other nodes")?;
    tokio::spawn(serve::serve(listener, Arc::clone(&node)));
    control.reply(&Reply::Ready)?;
    while let Some(command) = control.next().await {
        match command {
            Command::Run(load) => {
                let (node, control) = (Arc::clone(&node), control.replies());
                tokio::spawn(async move {
                    let ran = load::run(node, load).await;
                    control.reply(&Reply::Ran(ran))
                });
            }
            Command::State => control.reply(&Reply::State(node.state()))?,
            // The thread that listens sees to it.
            Command::Exit(_) => {}
            Command::Return => break,
        }
    }
    Ok(())
}

/// Starts the process's thread that frees memory whose last handle a thread of the library drops. It starts when that happens first,
/// which may be late, and then is no growth.
fn start_freeing() -> Result<()> {
    let last = Region::try_from(vec![0])?;
    let drops = move || {
        defer_disposal_on_this_thread();
        drop(last);
    };
    thread::spawn(drops).join().map_err(|_| anyhow!("a thread that drops memory has panicked"))
}

impl Node {
    async fn new(setup: &Setup) -> Result<Self> {
        // So that no operation waits for it.
        pattern(0, 0);
        start_freeing()?;
        let driver = DriverConfig::default().drain(Duration::from_millis(setup.drain_ms));
        let mut builder = Connector::builder()
            .name("soak")
            .driver(driver)
            .clock_skew(Duration::from_millis(100))
            .offer_life_time(Duration::from_millis(setup.life_time_ms));
        let paths = match setup.executor {
            Executor::Path => Some(Arc::new(PathExecutor::new()?)),
            Executor::Transport => None,
        };
        if let Some(paths) = &paths {
            builder = builder.executor(Arc::<PathExecutor>::clone(paths));
        }
        let connector = builder.build().await?;
        let timeout = Duration::from_millis(setup.timeout_ms);
        Ok(Self { connector, paths, timeout, served: Mutex::default() })
    }

    /// Changes what is known of this node's offers.
    fn served(&self, change: impl FnOnce(&mut Tally)) {
        change(&mut self.served.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn state(&self) -> State {
        let stats = self.connector.stats();
        let mut served = Tally::default();
        self.served(|tally| served = tally.clone());
        let pool = BufferPool::global().stats();
        let held = [stats.quarantined(), stats.quarantined_without_terms(), stats.retained()];
        State {
            served,
            busy: stats.active() + stats.passive(),
            held_bytes: held.iter().map(|held| held.bytes()).sum(),
            leaked_bytes: leaked().bytes(),
            pool_slabs: pool.slabs() as u64,
            pool_mappings: (pool.slabs() + pool.retired()) as u64,
            pool_bytes: pool.mapped(),
            imports: self.paths.as_ref().map_or(0, |paths| paths.peer_stats().imports()) as u64,
            peers: stats.peers() as u64,
        }
    }
}
