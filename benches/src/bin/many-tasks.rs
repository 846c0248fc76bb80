//! Many tasks of one process that each read 4 KiB of another process's memory, again and again.
//!
//! ```text
//! cargo run --release -p nixl-benches --bin many-tasks [TASKS [SECONDS]]
//! ```
//!
//! Prints for plain nixl-sys with as many transfers in flight, for the transport executor and for `PathExecutor` over shared memory:
//! reads per second, p50, p99 and the longest read, the slowest task's share of the mean, and the CPU time of a read.
#![allow(clippy::print_stdout, reason = "a program that prints a table")]

use std::collections::VecDeque;
use std::env;
use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nixl_connector::Connector;
use nixl_descriptor::Region;
use nixl_device::Device;
use nixl_executor::PathExecutor;
use nixl_metadata::RdmaMetadata;
use nixl_ops::OperationOptions;
use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::Builder;

#[path = "nixl-bench/baseline.rs"]
#[allow(dead_code, reason = "shared with the two-process benchmark")]
mod baseline;

mod messages {
    #[derive(Clone, Copy)]
    #[allow(dead_code, reason = "as the two-process benchmark has it")]
    pub(crate) enum Kind {
        Read,
        Write,
    }
}

use baseline::Baseline;

const LEN: usize = 4096;
/// Offers for each task, and uses of one.
const OFFERS: usize = 100;
const USES: u32 = 2000;

#[derive(Clone, Copy, Eq, PartialEq)]
enum Case {
    Plain,
    Direct,
    Paths,
}

impl Case {
    const ALL: [Self; 3] = [Self::Plain, Self::Direct, Self::Paths];

    fn name(self) -> &'static str {
        match self {
            Self::Plain => "nixl-sys",
            Self::Direct => "default",
            Self::Paths => "paths-shared",
        }
    }

    fn region(self, len: usize) -> Result<Region> {
        match self {
            Self::Paths => Ok(Region::shared(len)?),
            Self::Plain | Self::Direct => Ok(Region::zeroed(len)?),
        }
    }
}

fn main() -> Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    if let [role, case, tasks] = args.as_slice()
        && role == "owner"
    {
        let case = Case::ALL.into_iter().find(|c| c.name() == case).context("no such case")?;
        return match case {
            Case::Plain => own_plain(),
            _ => Builder::new_current_thread().build()?.block_on(own(case, tasks.parse()?)),
        };
    }
    let tasks = args.first().map_or(Ok(32), |arg| arg.parse())?;
    let time = Duration::from_secs_f64(args.get(1).map_or(Ok(1.0), |arg| arg.parse())?);
    let only = args.get(2);
    println!("{tasks} tasks, {LEN} bytes each:");
    for case in Case::ALL.into_iter().filter(|c| only.is_none_or(|only| only == c.name())) {
        let mut owner = Owner::start(case, tasks)?;
        let cpu = cpu();
        let reads = match case {
            Case::Plain => read_plain(&mut owner, tasks, time)?,
            _ => {
                let runtime =
                    Builder::new_multi_thread().worker_threads(2).enable_time().build()?;
                runtime.block_on(read(case, &mut owner, tasks, time))?
            }
        };
        report(case, reads, time, self::cpu().saturating_sub(cpu));
    }
    Ok(())
}

/// The times of each task's reads.
type Reads = Vec<Vec<Duration>>;

fn report(case: Case, reads: Reads, time: Duration, cpu: Duration) {
    let counts: Vec<usize> = reads.iter().map(Vec::len).collect();
    let mut all: Vec<Duration> = reads.into_iter().flatten().collect();
    all.sort_unstable();
    let at = |share: f64| all.get((all.len() as f64 * share) as usize).copied().unwrap_or_default();
    let mean = all.len() as f64 / counts.len() as f64;
    let slowest = counts.iter().min().copied().unwrap_or_default() as f64 / mean;
    println!(
        "{:>13}: {:>8.0} reads/s  p50 {:>8.1?}  p99 {:>8.1?}  longest {:>8.1?}  slowest task {:>4.2} of the mean  {:>5.1} us CPU",
        case.name(),
        all.len() as f64 / time.as_secs_f64(),
        at(0.5),
        at(0.99),
        all.last().copied().unwrap_or_default(),
        slowest,
        cpu.as_secs_f64() * 1e6 / all.len() as f64,
    );
}

fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The process that owns the memory.
struct Owner {
    child: Child,
    to: ChildStdin,
    from: Lines<BufReader<ChildStdout>>,
}

impl Owner {
    fn start(case: Case, tasks: usize) -> Result<Self> {
        let mut child = Command::new(env::current_exe()?)
            .args(["owner", case.name(), &tasks.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let to = child.stdin.take().context("no stdin")?;
        let from = BufReader::new(child.stdout.take().context("no stdout")?).lines();
        Ok(Self { child, to, from })
    }

    fn line(&mut self) -> Result<String> {
        Ok(self.from.next().context("the owner is gone")??)
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn connector(case: Case) -> Result<Connector> {
    let builder = Connector::builder().timeout(Duration::from_secs(20));
    Ok(match case {
        Case::Paths => builder.executor(Arc::new(PathExecutor::new()?)).build().await?,
        _ => builder.build().await?,
    })
}

async fn own(case: Case, tasks: usize) -> Result<()> {
    let connector = connector(case).await?;
    let region = case.region(tasks * LEN)?;
    let mut offers = Vec::new();
    let options =
        OperationOptions::new().readers(USES.try_into()?).timeout(Duration::from_secs(600));
    for _ in 0..OFFERS {
        for task in 0..tasks {
            let part = region.descriptor(task * LEN..(task + 1) * LEN)?;
            let offer = connector.create_readable_with(part, options).await?;
            println!("{}", hex(&offer.metadata().to_native_bytes()?));
            offers.push(offer);
        }
    }
    std::future::pending().await
}

async fn read(case: Case, owner: &mut Owner, tasks: usize, time: Duration) -> Result<Reads> {
    let connector = connector(case).await?;
    let mut offers = vec![Vec::new(); tasks];
    for _ in 0..OFFERS {
        for offers in &mut offers {
            offers.push(RdmaMetadata::decode(&unhex(&owner.line()?)?)?);
        }
    }
    let begin = Instant::now() + Duration::from_millis(200);
    let end = begin + time;
    let tasks: Vec<_> = offers
        .into_iter()
        .map(|offers| {
            let (connector, local) = (connector.clone(), case.region(LEN));
            tokio::spawn(async move {
                let local = local?;
                let mut times = Vec::new();
                let uses =
                    offers.iter().flat_map(|offer| std::iter::repeat_n(offer, USES as usize));
                // The first reads meet the peer and register the memory.
                for offer in uses {
                    let begun = Instant::now();
                    if begun >= end {
                        break;
                    }
                    let mut read = connector.begin_read(offer, local.clone()).await?;
                    read.wait_for_completion().await?;
                    if begun >= begin {
                        times.push(begun.elapsed());
                    }
                }
                anyhow::Ok(times)
            })
        })
        .collect();
    let mut reads = Vec::new();
    for task in tasks {
        reads.push(task.await??);
    }
    Ok(reads)
}

fn own_plain() -> Result<()> {
    let mut agent = Baseline::start("owner")?;
    let region = Region::zeroed(1 << 20)?;
    let _registered = agent.register(&region)?;
    println!("{}", hex(&agent.metadata()?));
    println!("{}", region.address());
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    agent.meet(&unhex(line.trim())?)?;
    println!("met");
    loop {
        agent.is_notified(b"none")?;
        std::thread::sleep(Duration::from_micros(500));
    }
}

fn read_plain(owner: &mut Owner, tasks: usize, time: Duration) -> Result<Reads> {
    let agent = Baseline::start("reader")?;
    let local = Region::zeroed(tasks * LEN)?;
    let registered = agent.register(&local)?;
    let peer = agent.meet(&unhex(&owner.line()?)?)?;
    let there: u64 = owner.line()?.parse()?;
    writeln!(owner.to, "{}", hex(&agent.metadata()?))?;
    if owner.line()? != "met" {
        bail!("the owner has not met this process");
    }
    let post = |task: usize| {
        let at = (task * LEN) as u64;
        let begun = Instant::now();
        let devices = (Device::HOST, Device::HOST);
        let pairs = [(local.address() + at, there + at, LEN)];
        let kind = messages::Kind::Read;
        let (request, _) = agent.post(kind, devices, &pairs, &peer, b"0123456789abcdef")?;
        anyhow::Ok((task, begun, request))
    };
    let mut reads = vec![Vec::new(); tasks];
    let begin = Instant::now() + Duration::from_millis(200);
    let end = begin + time;
    let mut flying: VecDeque<_> = (0..tasks).map(post).collect::<Result<_>>()?;
    while let Some((task, begun, request)) = flying.pop_front() {
        if !agent.is_done(&request)? {
            flying.push_back((task, begun, request));
            continue;
        }
        drop(request);
        if begun >= begin
            && begun < end
            && let Some(times) = reads.get_mut(task)
        {
            times.push(begun.elapsed());
        }
        if Instant::now() < end {
            flying.push_back(post(task)?);
        }
    }
    registered.deregister()?;
    Ok(reads)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Result<Vec<u8>> {
    let pairs = (0..text.len() / 2).map(|at| text.get(2 * at..2 * at + 2).unwrap_or_default());
    Ok(pairs.map(|pair| u8::from_str_radix(pair, 16)).collect::<Result<_, _>>()?)
}
