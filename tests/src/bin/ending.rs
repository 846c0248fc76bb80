//! A process that uses two connectors and ends, as its first argument says:
//!
//! | argument | end |
//! |---|---|
//! | `return` | `main` returns, with operations and memory in its hands |
//! | `exit` | `exit`, with the connectors and all else alive |
//! | `busy` | `exit` by another thread, amid reads and offers |
//! | `panic` | a thread panics, and `main` returns an error |
//! | `term` | SIGTERM, whose default action ends the process |
//! | `handled` | SIGTERM, for which a thread waits that calls `exit` |
//! | `runtime` | the runtime is dropped first, with operations under way |
//! | `blocked` | `exit` by another thread, while `main` begins reads and keeps its thread for them |
//! | `waker` | `exit` by the waker of an operation |
//! | `building` | `exit` by another thread, while `main` builds connectors |
//! | `quick` | `quick_exit`, amid reads and offers |
//!
//! The second is the executor: `default` or `path`. Errors that the crates log go to stderr.
#![allow(unsafe_code, reason = "signals")]
#![allow(clippy::print_stderr, reason = "stderr is its interface")]

use std::env;
use std::error::Error;
use std::ffi::c_int;
use std::fmt::{self, Write as _};
use std::mem;
use std::pin::pin;
use std::process::{ExitCode, exit};
use std::sync::Arc;
use std::task::{Context, Wake, Waker};
use std::thread;
use std::time::Duration;

use nixl_connector::{Connector, ReadableOperation};
use nixl_descriptor::Region;
use nixl_executor::PathExecutor;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber, span};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

// SAFETY: it is the C library's function, with its signature.
unsafe extern "C" {
    fn quick_exit(status: c_int) -> !;
}

/// Prints errors.
struct Errors;

struct Fields(String);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = write!(self.0, " {}={value:?}", field.name());
    }
}

impl Subscriber for Errors {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::ERROR
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields(String::new());
        event.record(&mut fields);
        eprintln!("ERROR {}{}", event.metadata().target(), fields.0);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

async fn connector(path: bool) -> Result<Connector> {
    let builder = Connector::builder().timeout(Duration::from_secs(20));
    let builder = match path {
        true => builder.executor(Arc::new(PathExecutor::new()?)),
        false => builder,
    };
    Ok(builder.build().await?)
}

/// What a process holds when it ends.
type Kept = (Vec<Region>, ReadableOperation);

async fn work(source: &Connector, sink: &Connector) -> Result<Kept> {
    let mut kept = Vec::new();
    for index in 0..6 {
        let len = 10_000 + index;
        let memory = match index % 2 {
            0 => Region::shared(len)?,
            _ => Region::zeroed(len)?,
        };
        let mut offered = source.create_readable(memory.clone()).await?;
        let remote = offered.metadata().clone();
        let local = Region::zeroed(len)?;
        sink.begin_read(&remote, local.clone()).await?.wait_for_completion().await?;
        offered.wait_for_completion().await?;
        kept.extend([memory, local]);
    }
    let open = source.create_readable(Region::zeroed(5000)?).await?;
    let _ = open.metadata();
    Ok((kept, open))
}

/// For ever.
async fn read_on(source: Connector, sink: Connector) -> Result<()> {
    loop {
        let mut offered = source.create_readable(Region::zeroed(1 << 20)?).await?;
        let remote = offered.metadata().clone();
        let mut read = sink.begin_read(&remote, Region::zeroed(1 << 20)?).await?;
        read.wait_for_completion().await?;
        offered.wait_for_completion().await?;
    }
}

fn main() -> Result<ExitCode> {
    let arguments: Vec<String> = env::args().collect();
    let [_, end, executor] = arguments.as_slice() else { return Err("END EXECUTOR".into()) };
    tracing::subscriber::set_global_default(Errors)?;
    let is_handled = end == "handled";
    if is_handled {
        wait_for_term();
    }
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build()?;
    let path = executor == "path";
    let (source, sink) = runtime.block_on(async {
        Ok::<_, Box<dyn Error + Send + Sync>>((connector(path).await?, connector(path).await?))
    })?;
    let kept = runtime.block_on(work(&source, &sink))?;
    match end.as_str() {
        "return" => {}
        "exit" => exit(0),
        "busy" => {
            for _ in 0..2 {
                runtime.spawn(read_on(source.clone(), sink.clone()));
            }
            thread::sleep(Duration::from_millis(20));
            let _ = thread::spawn(|| exit(0)).join();
        }
        "panic" => {
            let ended = thread::spawn(move || {
                let _kept = kept;
                panic!("on purpose")
            });
            let _ = ended.join();
            return Ok(ExitCode::from(3));
        }
        "term" | "handled" => {
            let this = i32::try_from(std::process::id())?;
            // SAFETY: it sends a signal to this process.
            unsafe { libc::kill(this, libc::SIGTERM) };
            thread::sleep(Duration::from_secs(60));
        }
        "runtime" => {
            for _ in 0..2 {
                runtime.spawn(read_on(source.clone(), sink.clone()));
            }
            thread::sleep(Duration::from_millis(5));
            drop(runtime);
            drop((source, sink));
            drop(kept);
        }
        "blocked" => {
            thread::spawn(|| {
                thread::sleep(Duration::from_millis(5));
                exit(0)
            });
            loop {
                let (remote, local) = (kept.1.metadata(), Region::zeroed(5000)?);
                // One reads it; those after that are refused.
                if let Ok(mut read) = runtime.block_on(sink.begin_read(remote, local)) {
                    let _ = read.wait_blocking();
                }
            }
        }
        "waker" => {
            let (_, mut offered) = kept;
            let remote = offered.metadata().clone();
            let mut wait = pin!(offered.wait_for_completion());
            let waker = Waker::from(Arc::new(Exits));
            let _ = wait.as_mut().poll(&mut Context::from_waker(&waker));
            runtime.block_on(async {
                sink.begin_read(&remote, Region::zeroed(5000)?)
                    .await?
                    .wait_for_completion()
                    .await?;
                Ok::<_, Box<dyn Error + Send + Sync>>(())
            })?;
            thread::sleep(Duration::from_secs(60));
        }
        "building" => {
            // At another moment in each process.
            let moment = Duration::from_micros(u64::from(std::process::id()) * 37 % 30_000);
            thread::spawn(move || {
                thread::sleep(moment);
                exit(0)
            });
            loop {
                // It is refused once the process exits.
                let _ = runtime.block_on(connector(path));
            }
        }
        "quick" => {
            for _ in 0..2 {
                runtime.spawn(read_on(source.clone(), sink.clone()));
            }
            thread::sleep(Duration::from_millis(5));
            // SAFETY: it ends this process.
            unsafe { quick_exit(0) };
        }
        _ => return Err("no such end".into()),
    }
    Ok(ExitCode::SUCCESS)
}

/// Ends the process where others are woken.
struct Exits;

impl Wake for Exits {
    fn wake(self: Arc<Self>) {
        exit(0);
    }
}

/// A thread that calls `exit` on SIGTERM, which all threads after it leave to it.
fn wait_for_term() {
    // SAFETY: a set of signals is bytes, and is initialized by the next call.
    let mut set = unsafe { mem::zeroed() };
    // SAFETY: the set is valid for writing.
    unsafe { libc::sigemptyset(&raw mut set) };
    // SAFETY: as above.
    unsafe { libc::sigaddset(&raw mut set, libc::SIGTERM) };
    // SAFETY: the set is valid for reading; the old one is not asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
    thread::spawn(move || {
        let mut signal = 0;
        // SAFETY: both are valid for the call.
        unsafe { libc::sigwait(&raw const set, &raw mut signal) };
        exit(0);
    });
}
