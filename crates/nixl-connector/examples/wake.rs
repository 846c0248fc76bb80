//! Delay of a target's completion, beside that of a wake-up of a thread of another process.
//!
//! ```text
//! cargo run --release --example wake -- --rounds 300 --idle-ms 20
//! ```
//!
//! Two processes. In each round, each way to tell the target takes one turn, after the target has waited for `--idle-ms`. All but the
//! round trip are times from the word of the first process to the clock of the thread or future that waits in the second, in
//! microseconds.
//!
//! | line | what wakes |
//! |---|---|
//! | futex | one thread by `FUTEX_WAKE` on a shared page: the least that there is |
//! | futex, thread | that thread, which unparks another |
//! | futex, task | that thread, which wakes a task of tokio: the least for a target whose offers a thread looks after |
//! | slot | the future of an offer whose slot the peer changes; from before that |
//! | slot, blocking | the same, where the thread waits in `wait_blocking` |
//! | notify | the future of a receiver of an export that the peer notifies; from before that |
//! | notify, blocking | the same, where the thread waits in `recv_blocking` |
//! | read | the future of an offer that the peer has read; from the end of the read |
//! | read, Dynamo | the same, where the metadata names no slot: by a notification of NIXL's |
//! | round trip | two such reads, one after the other, in both directions; as a whole |
#![allow(clippy::print_stdout, reason = "a command-line program")]

use std::cell::OnceCell;
use std::error::Error;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use nixl_connector::{Connector, Export, ExportNotifications, OperationError, RemoteExport};
use nixl_descriptor::layout::{Dimensions, Inner, Layout, LayoutGeometry};
use nixl_descriptor::{Region, SharedMemory, SharedName};
use nixl_memories::Memory;
use nixl_metadata::{ExportMetadata, RdmaMetadata};
use nixl_ops::{FoundSlot, RemoteSlots};
use rustix::thread::futex;
use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::{self, Runtime};
use tokio::sync::oneshot;
use tokio::time::timeout;

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

/// How late a target learns that its offer was used
#[derive(Parser)]
struct Args {
    /// How often each way is measured
    #[arg(long, default_value_t = 300)]
    rounds: usize,
    /// How long the target has waited when it is told
    #[arg(long, default_value_t = 20)]
    idle_ms: u64,
    /// For how long the processor time of a waiting target is measured, and of one with nothing outstanding; 0 for not at all
    #[arg(long, default_value_t = 0)]
    cpu_seconds: u64,
    /// The memory of both processes: host, shared, pinned, cuda:N, pool:N, vmm:N, vmmfd:N or managed:N, where N is the number of a GPU
    #[arg(long, value_name = "KIND", default_value_t = Memory::Host)]
    memory: Memory,
    /// The second process; the first starts it
    #[arg(long, hide = true)]
    target: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Way {
    Futex,
    Thread,
    Task,
    Slot,
    SlotBlocking,
    Notify,
    NotifyBlocking,
    Read,
    Dynamo,
    RoundTrip,
}

impl Way {
    const fn name(self) -> &'static str {
        match self {
            Self::Futex => "futex",
            Self::Thread => "futex, thread",
            Self::Task => "futex, task",
            Self::Slot => "slot",
            Self::SlotBlocking => "slot, blocking",
            Self::Notify => "notify",
            Self::NotifyBlocking => "notify, blocking",
            Self::Read => "read",
            Self::Dynamo => "read, Dynamo",
            Self::RoundTrip => "round trip",
        }
    }

    const fn is_futex(self) -> bool {
        matches!(self, Self::Futex | Self::Thread | Self::Task)
    }

    const fn is_notify(self) -> bool {
        matches!(self, Self::Notify | Self::NotifyBlocking)
    }
}

fn main() -> Result {
    let args = Args::parse();
    match args.target {
        true => target(args.memory),
        false => initiator(&args),
    }
}

/// Nanoseconds, the same in both processes.
fn now() -> u64 {
    nanos(ClockId::Monotonic)
}

fn nanos(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

/// A side of the measurement.
struct Side {
    runtime: Runtime,
    connector: Connector,
    memory: Region,
    /// The other side's pages, opened once.
    slots: RemoteSlots,
    /// The other side's export, imported once.
    remote: OnceCell<RemoteExport>,
}

impl Side {
    fn new(name: &str, memory: Memory) -> Result<Self> {
        let runtime = runtime::Builder::new_current_thread().enable_time().build()?;
        let connector = runtime.block_on(Connector::builder().name(name).build())?;
        let (slots, remote) = (RemoteSlots::default(), OnceCell::new());
        let memory = memory.allocate(8192)?;
        Ok(Self { runtime, connector, memory, slots, remote })
    }
}

fn initiator(args: &Args) -> Result {
    let memory = SharedMemory::new(4096)?;
    let word = memory.half_word(0).ok_or("no word")?;
    let mut peer = Peer::start(&memory.name(), args.memory)?;
    let side = Side::new("wake-initiator", args.memory)?;
    let ways = Way::value_variants();
    let mut samples = vec![Vec::with_capacity(args.rounds); ways.len()];
    let warm_up = 5;
    for round in 0..args.rounds + warm_up {
        for (way, samples) in ways.iter().zip(&mut samples) {
            let took = tell(*way, &side, &mut peer, word, Duration::from_millis(args.idle_ms))?;
            if round >= warm_up {
                samples.push(took);
            }
        }
    }
    println!("{:<17}{:>10}{:>10}{:>10}", "microseconds", "p50", "p90", "p99");
    for (way, samples) in ways.iter().zip(&mut samples) {
        samples.sort_unstable();
        let at = |percent: usize| match samples
            .get((samples.len() * percent / 100).min(samples.len() - 1))
        {
            Some(nanos) => *nanos as f64 / 1000.0,
            None => 0.0,
        };
        println!("{:<17}{:>10.1}{:>10.1}{:>10.1}", way.name(), at(50), at(90), at(99));
    }
    if args.cpu_seconds > 0 {
        for (outstanding, name) in [("yes", "one offer outstanding"), ("no", "nothing outstanding")]
        {
            peer.say(&format!("idle {outstanding} {}", args.cpu_seconds))?;
            let used: f64 = peer.hear()?.parse()?;
            println!("processor time of a target with {name}: {used:.3} % of a core");
        }
    }
    peer.end()
}

/// One turn of one way. Returns the nanoseconds that it took.
fn tell(way: Way, side: &Side, peer: &mut Peer, word: &AtomicU32, idle: Duration) -> Result<u64> {
    let Side { runtime, connector, memory, slots, .. } = side;
    let mut answer = match way {
        Way::RoundTrip => {
            Some(runtime.block_on(connector.create_readable(memory.descriptor(..1)?))?)
        }
        _ => None,
    };
    let more = answer.as_ref().map(|answer| answer.metadata().to_native_bytes()).transpose()?;
    peer.say(&format!("{way:?} {}", more.as_deref().map_or_else(String::new, hex)))?;
    let offered = peer.hear()?;
    if way.is_notify() {
        let remote = match side.remote.get() {
            Some(remote) => remote,
            None => {
                let export = ExportMetadata::decode(&unhex(&offered)?)?;
                let imported = runtime.block_on(connector.import(&export))?;
                side.remote.get_or_init(|| imported)
            }
        };
        thread::sleep(idle);
        let begun = now();
        runtime.block_on(remote.notify(b"told"))?;
        let seen: u64 = peer.hear()?.parse()?;
        return Ok(seen.saturating_sub(begun));
    }
    let remote = match way.is_futex() {
        true => None,
        false => Some(RdmaMetadata::decode(&unhex(&offered)?)?),
    };
    let begun = match &remote {
        None => {
            thread::sleep(idle);
            let begun = now();
            word.fetch_add(1, Ordering::SeqCst);
            futex::wake(word, futex::Flags::empty(), 1)?;
            begun
        }
        Some(remote) if matches!(way, Way::Slot | Way::SlotBlocking) => {
            slots.open(remote.slot_address().ok_or("the offer has no slot")?);
            let FoundSlot::Mapped(slot) = slots.find(remote) else {
                return Err("the slots of the target cannot be mapped".into());
            };
            thread::sleep(idle);
            let begun = now();
            slot.decline()?;
            begun
        }
        Some(remote) => runtime.block_on(async {
            thread::sleep(idle);
            let begun = now();
            let local = memory.descriptor(4096..4097)?;
            connector.begin_read(remote, local).await?.wait_for_completion().await?;
            match &mut answer {
                Some(answer) => {
                    answer.wait_for_completion().await?;
                    Ok::<_, Box<dyn Error>>(begun)
                }
                None => Ok(now()),
            }
        })?,
    };
    let ended = now();
    let seen: u64 = peer.hear()?.parse()?;
    Ok(if way == Way::RoundTrip { ended - begun } else { seen.saturating_sub(begun) })
}

fn target(memory: Memory) -> Result {
    let mut lines = io::stdin().lines();
    let mut next = move || lines.next().transpose();
    let page = SharedMemory::open(&parse_name(&next()?.ok_or("no name")?)?)?;
    let word = page.half_word(0).ok_or("no word")?;
    let side = Side::new("wake-target", memory)?;
    let Side { runtime, connector, memory, .. } = &side;
    let (export, mut notifications) = export(&side)?;
    while let Some(line) = next()? {
        let words: Vec<_> = line.split(' ').collect();
        let seen = match (words[0], words.get(1).copied().unwrap_or_default()) {
            ("idle", outstanding) => {
                let seconds = words.get(2).ok_or("no time")?.parse()?;
                println!("{}", idle(&side, outstanding == "yes", Duration::from_secs(seconds))?);
                continue;
            }
            (way @ ("Futex" | "Thread" | "Task"), _) => thread::scope(|scope| {
                let before = word.load(Ordering::SeqCst);
                let (sender, receiver) = oneshot::channel();
                let (last, waits) = (thread::current(), mpsc::channel());
                let waiter = scope.spawn(move || {
                    while word.load(Ordering::SeqCst) == before {
                        let _ = futex::wait(word, futex::Flags::empty(), before, None);
                    }
                    let woken = now();
                    match way {
                        "Thread" => {
                            let _ = waits.0.send(());
                            last.unpark();
                        }
                        "Task" => _ = sender.send(()),
                        _ => {}
                    }
                    woken
                });
                println!("waiting");
                let seen = match way {
                    "Thread" => {
                        while waits.1.try_recv().is_err() {
                            thread::park();
                        }
                        Some(now())
                    }
                    "Task" => Some(runtime.block_on(async {
                        let _ = receiver.await;
                        now()
                    })),
                    _ => None,
                };
                let woken = waiter.join().map_err(|_| "the waiter panicked")?;
                Ok::<_, Box<dyn Error>>(seen.unwrap_or(woken))
            })?,
            ("NotifyBlocking", _) => {
                println!("{}", hex(&export.metadata().encode()?));
                notifications.recv_blocking().ok_or("the export is closed")?;
                now()
            }
            ("Notify", _) => {
                println!("{}", hex(&export.metadata().encode()?));
                runtime.block_on(async {
                    notifications.recv().await.ok_or("the export is closed")?;
                    Ok::<_, Box<dyn Error>>(now())
                })?
            }
            (way, answer) => {
                let mut offer =
                    runtime.block_on(connector.create_readable(memory.descriptor(..1)?))?;
                println!(
                    "{}",
                    hex(&match way {
                        "Dynamo" => offer.metadata().to_dynamo_json().into_bytes(),
                        _ => offer.metadata().to_native_bytes()?,
                    })
                );
                if way == "SlotBlocking" {
                    match offer.wait_blocking() {
                        Ok(_) | Err(OperationError::Declined) => {}
                        Err(error) => return Err(error.into()),
                    }
                    println!("{}", now());
                    continue;
                }
                runtime.block_on(async {
                    match offer.wait_for_completion().await {
                        Ok(_) => {}
                        Err(OperationError::Declined) if way == "Slot" => {}
                        Err(error) => return Err(Box::<dyn Error>::from(error)),
                    }
                    let seen = now();
                    if way == "RoundTrip" {
                        let remote = RdmaMetadata::decode(&unhex(answer)?)?;
                        let local = memory.descriptor(4096..4097)?;
                        connector.begin_read(&remote, local).await?.wait_for_completion().await?;
                    }
                    Ok(seen)
                })?
            }
        };
        println!("{seen}");
    }
    Ok(())
}

/// What the initiator imports and notifies.
fn export(side: &Side) -> Result<(Export, ExportNotifications)> {
    let one = Dimensions {
        blocks: 1,
        layers: 1,
        outer: 1,
        page_size: 1,
        inner: Inner::Elements(1),
        element_width: 1,
    };
    let memory = side.connector.buffer(1)?;
    let layout = Layout::fully_contiguous(LayoutGeometry::try_from(one)?, memory)?;
    let export = side.runtime.block_on(side.connector.export([("one", layout)]))?;
    let notifications = export.notifications().ok_or("another receives")?;
    Ok((export, notifications))
}

/// The processor time of all threads, in percent of a core.
fn idle(side: &Side, outstanding: bool, time: Duration) -> Result<f64> {
    let Side { runtime, connector, memory, .. } = side;
    let offer = match outstanding {
        true => Some(runtime.block_on(connector.create_readable(memory.descriptor(..1)?))?),
        false => None,
    };
    // What went before comes to rest first.
    thread::sleep(Duration::from_millis(100));
    let (used, begun) = (nanos(ClockId::ProcessCPUTime), now());
    match offer {
        // Its metadata was not handed out, so it does not end.
        Some(mut offer) => {
            let _ = runtime.block_on(async { timeout(time, offer.wait_for_completion()).await });
        }
        None => thread::sleep(time),
    }
    Ok((nanos(ClockId::ProcessCPUTime) - used) as f64 * 100.0 / (now() - begun) as f64)
}

/// The second process.
struct Peer {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Peer {
    fn start(name: &SharedName, memory: Memory) -> Result<Self> {
        let mut command = Command::new("/proc/self/exe");
        command.args(["--target", "--memory", &memory.to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let input = child.stdin.take().ok_or("no pipe")?;
        let output = BufReader::new(child.stdout.take().ok_or("no pipe")?);
        let mut peer = Self { child, input, output };
        let SharedName { pid, fd, name, len } = name;
        peer.say(&format!("{pid} {fd} {} {len}", hex(name)))?;
        Ok(peer)
    }

    fn say(&mut self, line: &str) -> Result {
        Ok(writeln!(self.input, "{line}")?)
    }

    fn hear(&mut self) -> Result<String> {
        let mut line = String::new();
        match self.output.read_line(&mut line)? {
            0 => Err("the target has ended".into()),
            _ => Ok(line.trim_end().to_owned()),
        }
    }

    fn end(self) -> Result {
        let Self { mut child, input, .. } = self;
        drop(input);
        match child.wait()?.success() {
            true => Ok(()),
            false => Err("the target has failed".into()),
        }
    }
}

fn parse_name(line: &str) -> Result<SharedName> {
    let words: Vec<_> = line.split(' ').collect();
    let &[pid, fd, name, len] = words.as_slice() else { return Err("no name".into()) };
    let name = unhex(name)?.try_into().map_err(|_| "a name has 16 bytes")?;
    Ok(SharedName { pid: pid.parse()?, fd: fd.parse()?, name, len: len.parse()? })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Result<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?)).collect()
}
