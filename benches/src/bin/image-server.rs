//! An image server whose buffers are fresh for each request, and a client of it in another process.
//!
//! ```text
//! cargo run --release -p nixl-benches --bin image-server [REQUESTS]
//! ```
//!
//! Each request offers an image of 480 x 640 x 3 bytes in memory of its own, and the client reads it into memory of its own and
//! compares it. Prints for both executors, for `Vec`s and for buffers of the pool, with 1, 8, 32 and 128 requests at a time: requests
//! per second, errors, p50 and p99 of `begin_read`, p50 of the whole, and files and resident memory of both processes after
//! the first 300 requests and at the end.
#![allow(clippy::print_stdout, reason = "a program that prints a table")]

use std::env;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use nixl_connector::Connector;
use nixl_descriptor::Region;
use nixl_executor::PathExecutor;
use nixl_metadata::RdmaMetadata;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

const IMAGE: usize = 480 * 640 * 3;
const AT_ONCE: [usize; 4] = [1, 8, 32, 128];
/// The requests before the first sample of files and memory.
const FIRST: usize = 300;
const REQUESTS: usize = 3000;

#[derive(Clone, Copy)]
struct Case {
    paths: bool,
    pooled: bool,
}

impl Case {
    const ALL: [Self; 4] = [
        Self { paths: false, pooled: false },
        Self { paths: false, pooled: true },
        Self { paths: true, pooled: false },
        Self { paths: true, pooled: true },
    ];

    const fn name(self) -> &'static str {
        match (self.paths, self.pooled) {
            (false, false) => "default-vec",
            (false, true) => "default-buffer",
            (true, false) => "paths-vec",
            (true, true) => "paths-buffer",
        }
    }

    async fn connector(self) -> Result<Connector> {
        let builder = Connector::builder().timeout(Duration::from_secs(30));
        Ok(match self.paths {
            true => builder.executor(Arc::new(PathExecutor::shared().await?)).build().await?,
            false => builder.build().await?,
        })
    }

    fn image(self, connector: &Connector, value: u8) -> Result<Region> {
        if !self.pooled {
            return Ok(Region::try_from(vec![value; IMAGE])?);
        }
        let region = connector.buffer(IMAGE)?;
        region.copy_from_slice(0, &[value; IMAGE])?;
        Ok(region)
    }
}

fn main() -> Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    let runtime = tokio::runtime::Runtime::new()?;
    if let [role, case, socket] = args.as_slice()
        && role == "serve"
    {
        let case = Case::ALL.into_iter().find(|c| c.name() == case).context("no such case")?;
        return runtime.block_on(serve(case, Path::new(socket)));
    }
    let requests = args.first().map_or(Ok(REQUESTS), |arg| arg.parse())?;
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED).set_header([
        "case",
        "at once",
        "requests/s",
        "errors",
        "begin p50",
        "begin p99",
        "whole p50",
        "files, client",
        "files, server",
        "MiB, client",
        "MiB, server",
    ]);
    for case in Case::ALL {
        for at_once in AT_ONCE {
            table.add_row(runtime.block_on(run(case, at_once, requests))?);
        }
    }
    println!("{table}\nFiles and memory: after the first {FIRST} requests -> after all of them.");
    Ok(())
}

/// Offers an image for each byte that arrives, whose value is the image's.
async fn serve(case: Case, socket: &Path) -> Result<()> {
    let connector = case.connector().await?;
    let listener = UnixListener::bind(socket)?;
    loop {
        let (stream, _) = listener.accept().await?;
        let connector = connector.clone();
        tokio::spawn(async move {
            if let Err(error) = requests(case, &connector, stream).await {
                println!("server: {error:#}");
            }
        });
    }
}

async fn requests(case: Case, connector: &Connector, mut stream: UnixStream) -> Result<()> {
    while let Ok(value) = stream.read_u8().await {
        let image = case.image(connector, value)?;
        let mut offer = connector.create_readable(image).await?;
        let metadata = offer.metadata().to_native_bytes()?;
        stream.write_u32(metadata.len().try_into()?).await?;
        stream.write_all(&metadata).await?;
        offer.wait_for_completion().await?;
    }
    Ok(())
}

/// The times of one request.
struct Times {
    begin: Duration,
    whole: Duration,
}

async fn run(case: Case, at_once: usize, all: usize) -> Result<Vec<String>> {
    let folder = TempDir::new()?;
    let socket = folder.path().join("socket");
    let server = Server::start(case, &socket)?;
    let connector = case.connector().await?;
    let begun = Instant::now();
    while !socket.exists() {
        ensure!(begun.elapsed() < Duration::from_secs(30), "the server does not start");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let first = batch(case, &connector, &socket, at_once, FIRST.min(all)).await?;
    let before = [Held::of("self")?, Held::of(&server.0.id().to_string())?];
    let begun = Instant::now();
    let rest = batch(case, &connector, &socket, at_once, all.saturating_sub(FIRST)).await?;
    let took = begun.elapsed();
    let after = [Held::of("self")?, Held::of(&server.0.id().to_string())?];
    let errors = first.1 + rest.1;
    let times = rest.0;
    let files = |at: usize| format!("{} -> {}", before[at].files, after[at].files);
    let memory = |at: usize| format!("{} -> {}", before[at].mib, after[at].mib);
    Ok(vec![
        case.name().to_owned(),
        at_once.to_string(),
        format!("{:.0}", times.len() as f64 / took.as_secs_f64()),
        errors.to_string(),
        format!("{:.1?}", quantile(times.iter().map(|t| t.begin), 0.5)),
        format!("{:.1?}", quantile(times.iter().map(|t| t.begin), 0.99)),
        format!("{:.1?}", quantile(times.iter().map(|t| t.whole), 0.5)),
        files(0),
        files(1),
        memory(0),
        memory(1),
    ])
}

/// Requests from so many tasks; the times of those that succeeded, and the number of errors.
async fn batch(
    case: Case,
    connector: &Connector,
    socket: &Path,
    at_once: usize,
    all: usize,
) -> Result<(Vec<Times>, usize)> {
    let next = Arc::new(AtomicUsize::new(0));
    let mut tasks = Vec::new();
    for _ in 0..at_once {
        let (connector, next) = (connector.clone(), Arc::clone(&next));
        let mut stream = UnixStream::connect(socket).await?;
        tasks.push(tokio::spawn(async move {
            let (mut times, mut errors) = (Vec::new(), 0);
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= all {
                    return (times, errors);
                }
                match request(case, &connector, &mut stream, number as u8).await {
                    Ok(took) => times.push(took),
                    Err(error) => {
                        println!("client: {error:#}");
                        errors += 1;
                    }
                }
            }
        }));
    }
    let (mut times, mut errors) = (Vec::new(), 0);
    for task in tasks {
        let (took, failed) = task.await?;
        times.extend(took);
        errors += failed;
    }
    Ok((times, errors))
}

async fn request(
    case: Case,
    connector: &Connector,
    stream: &mut UnixStream,
    value: u8,
) -> Result<Times> {
    let begun = Instant::now();
    stream.write_u8(value).await?;
    let mut metadata = vec![0; stream.read_u32().await? as usize];
    stream.read_exact(&mut metadata).await?;
    let remote = RdmaMetadata::decode(&metadata)?;
    let image = case.image(connector, !value)?;
    let asked = Instant::now();
    let mut read = connector.begin_read(&remote, image.clone()).await?;
    let begin = asked.elapsed();
    read.wait_for_completion().await?;
    drop(read);
    let whole = begun.elapsed();
    ensure!(image.to_vec()?.iter().all(|pixel| *pixel == value), "wrong bytes");
    Ok(Times { begin, whole })
}

fn quantile(times: impl Iterator<Item = Duration>, share: f64) -> Duration {
    let mut times: Vec<_> = times.collect();
    times.sort_unstable();
    times.get((times.len() as f64 * share) as usize).copied().unwrap_or_default()
}

/// What a process holds.
struct Held {
    files: usize,
    mib: u64,
}

impl Held {
    fn of(process: &str) -> Result<Self> {
        let status = fs::read_to_string(format!("/proc/{process}/status"))?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = resident.and_then(|line| line.split_whitespace().next()).context("no VmRSS")?;
        let files = fs::read_dir(format!("/proc/{process}/fd"))?.count();
        Ok(Self { files, mib: kib.parse::<u64>()? >> 10 })
    }
}

/// Killed at its end.
struct Server(Child);

impl Server {
    fn start(case: Case, socket: &Path) -> Result<Self> {
        let mut command = Command::new(env::current_exe()?);
        command.args(["serve", case.name()]).arg(socket).stdin(Stdio::null());
        Ok(Self(command.spawn()?))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
