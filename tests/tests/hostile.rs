//! A live process that strangers and holders of its offers attack, with honest traffic beside: it goes on, loses no byte, and
//! takes no more memory.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test says so, by failing too")]

use std::env;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use nixl_connector::nixl::NixlTransport;
use nixl_connector::{Connector, ControlThread};
use nixl_descriptor::Region;
use nixl_executor::paths::LocalFacts;
use nixl_executor::{GpuBackend, GpuCapabilities, PathExecutor, SimulatedGpus};
use nixl_metadata::{AgentMetadata, RdmaMetadata};
use nixl_ops::{Executor, Transport};
use nixl_tests::forge::Blob;
use nixl_tests::{
    Peer, PeerError, Random, alone, crc32, hex_line, metadata, native_line, pattern, within,
};

const PEER: &str = env!("CARGO_BIN_EXE_peer");
const LIMIT: Duration = Duration::from_secs(600);
const LEN: usize = 4096;
const OFFER: &str = "NIXL_TEST_HOSTILE_OFFER";
const ATTACK: &str = "NIXL_TEST_HOSTILE_ATTACK";

/// Bytes for messages of every kind.
struct Forge<'a> {
    random: Random,
    key: &'a [u8],
    token: u64,
    introduction: &'a [u8],
    blob: &'a Blob,
    /// What inflates to more than any metadata.
    bomb: &'a [u8],
}

/// In compressed form.
fn bomb() -> Vec<u8> {
    AgentMetadata::compress(&vec![0; 20 << 20]).unwrap().compressed().to_vec()
}

impl Forge<'_> {
    fn below(&mut self, bound: u64) -> u64 {
        self.random.below(bound)
    }

    fn bytes(&mut self, most: u64) -> Vec<u8> {
        let len = self.below(most);
        (0..len).map(|_| self.below(256) as u8).collect()
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// Changes some bytes.
    fn damage(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..1 + self.below(3) {
            let at = self.below(bytes.len() as u64 + 1) as usize;
            match self.below(8) {
                0 => bytes.truncate(at),
                1 => {
                    let more = self.bytes(16);
                    bytes.splice(at..at, more);
                }
                2 => {
                    let end = (at + 1 + self.below(8) as usize).min(bytes.len());
                    bytes.drain(at.min(end)..end);
                }
                _ if at < bytes.len() => bytes[at] = self.below(256) as u8,
                _ => {}
            }
        }
    }

    fn introduction(&mut self) -> Vec<u8> {
        match self.below(6) {
            0 => self.introduction.to_vec(),
            1 => {
                let mut bytes = self.introduction.to_vec();
                self.damage(&mut bytes);
                bytes
            }
            2 => self.bomb.to_vec(),
            kind => {
                let mut blob = self.blob.clone();
                blob.name = format!("ghost-{}", self.below(1 << 40)).into_bytes();
                let mut address = std::mem::take(&mut blob.connections[0].1);
                // UCX takes addresses of one worker for one peer: damage to it would be the attacker's own.
                for byte in address.iter_mut().skip(1).take(8) {
                    *byte = self.below(256) as u8;
                }
                if kind > 3 {
                    self.damage(&mut address);
                }
                blob.connections[0].1 = address;
                let mut bytes = blob.bytes();
                if kind == 5 {
                    self.damage(&mut bytes);
                }
                // Nothing may be left.
                AgentMetadata::compress(&bytes)
                    .map_or_else(|_| Vec::new(), |a| a.compressed().to_vec())
            }
        }
    }

    /// A message of staged transfers and of lending, in either version.
    fn staged(&mut self, is_holder: bool) -> Vec<u8> {
        let version = self.pick(&[1, 2, 2]);
        let mut out = vec![b'n', b'x', b's', version];
        let session = if self.below(4) == 0 { self.below(8) } else { self.below(u64::MAX) };
        out.extend(u128::from(session).to_be_bytes());
        let tag = self.below(15) as u8;
        out.push(tag);
        let stranger = format!("{:032x}", self.below(u64::MAX)).into_bytes();
        let key = if is_holder { self.key.to_vec() } else { stranger };
        let text = |out: &mut Vec<u8>, text: &[u8]| {
            out.push(text.len() as u8);
            out.extend(text);
        };
        let introduction = match self.below(if is_holder { 1 } else { 8 }) {
            0 => self.introduction(),
            _ => Vec::new(),
        };
        let long = |out: &mut Vec<u8>, introduction: &[u8]| {
            out.extend((introduction.len() as u32).to_be_bytes());
            out.extend(introduction);
        };
        if version == 2 {
            text(&mut out, &key);
            let token = if is_holder { self.token } else { self.below(u64::MAX) };
            out.extend(token.to_be_bytes());
        }
        let kind = 1 + self.below(2) as u8;
        let chunk = self.pick(&[0, 1, 7, 4096, 1 << 20, u64::MAX]);
        match tag {
            0 => {
                out.push(kind);
                out.extend(chunk.to_be_bytes());
                if version == 1 {
                    text(&mut out, &key);
                }
                long(&mut out, &introduction);
            }
            2 | 3 => {
                let count = self.below(70) as u8;
                out.push(count);
                for _ in 0..count {
                    out.extend((self.below(9) as u16).to_be_bytes());
                    out.extend((self.below(9) as u32).to_be_bytes());
                    out.extend(self.below(u64::MAX).to_be_bytes());
                    out.extend(chunk.to_be_bytes());
                }
            }
            4 | 5 => {
                out.extend(self.below(9).to_be_bytes());
                out.extend((self.below(9) as u16).to_be_bytes());
                out.extend((self.below(9) as u32).to_be_bytes());
            }
            7 | 8 => text(&mut out, b"because"),
            10 | 13 => {
                if tag == 13 {
                    out.extend((self.below(1 << 22) as u32).to_be_bytes());
                }
                out.push(kind);
                if version == 1 {
                    text(&mut out, &key);
                } else {
                    out.extend((self.below(1 << 22) as u32).to_be_bytes());
                }
                out.extend(*b"simulated GPU   ");
                let loans = self.pick(&[0u16, 1, 1, 1, 3]);
                out.extend(loans.to_be_bytes());
                for _ in 0..loans {
                    let mut handle: Vec<u8> = (0..72).map(|_| self.below(256) as u8).collect();
                    if self.below(2) == 0 {
                        handle[64..].copy_from_slice(&(LEN as u64).to_le_bytes());
                    }
                    out.extend(handle);
                    out.extend(1u16.to_be_bytes());
                    out.extend(self.pick(&[0, 1, u64::MAX]).to_be_bytes());
                }
                long(&mut out, &introduction);
            }
            11 => {
                if version == 1 {
                    text(&mut out, &key);
                }
                long(&mut out, &introduction);
                text(&mut out, &[b'x'; 240]);
            }
            _ => {}
        }
        if version == 2 && self.below(3) == 0 {
            out.extend((self.below(4) as u16).to_be_bytes());
            long(&mut out, b"a section of a later release");
        }
        if self.below(3) == 0 {
            self.damage(&mut out);
        }
        out
    }

    /// A message about claims.
    fn claim(&mut self, is_holder: bool) -> Vec<u8> {
        let mut out = b"\x89NXC\x01".to_vec();
        // What declines or completes the offer ends it, as a holder may.
        out.push(self.pick(&[1, 1, 1, 2, 3, 4, 5, 9]));
        let stranger = format!("{:032x}", self.below(u64::MAX)).into_bytes();
        let key = if is_holder { self.key.to_vec() } else { stranger };
        out.push(key.len() as u8);
        out.extend(key);
        out.extend(if is_holder { self.token } else { self.below(u64::MAX) }.to_le_bytes());
        if is_holder || self.below(8) == 0 {
            out.extend(self.introduction());
        }
        if self.below(3) == 0 {
            self.damage(&mut out);
        }
        out
    }

    fn message(&mut self, is_holder: bool) -> Vec<u8> {
        match self.below(10) {
            0 => self.bytes(300),
            1 => {
                let size = self.pick(&[1u64, 200, 4000, 60_000]);
                [b"nxs\x02".to_vec(), self.bytes(size)].concat()
            }
            2..5 => self.claim(is_holder),
            _ => self.staged(is_holder),
        }
    }
}

/// Sends what the environment says. Run by the tests below, in a process of its own: it grants the target memory of its own that
/// is not there.
#[test]
#[ignore = "a part of the other tests"]
fn attacks() {
    let (Ok(offer), Ok(attack)) = (env::var(OFFER), env::var(ATTACK)) else { return };
    let [is_holder, seed, count] =
        attack.split(' ').map(|n| n.parse::<u64>().unwrap()).collect::<Vec<_>>()[..]
    else {
        panic!("{attack}")
    };
    let remote = metadata(&fs::read_to_string(offer).unwrap()).unwrap();
    let control = ControlThread::spawn().unwrap();
    let name = format!("attacker-{}-{seed}", std::process::id());
    let transport = NixlTransport::open(&name, control).unwrap();
    let victim = remote.agent_metadata().inflate(&Default::default()).unwrap();
    let peer = transport.connect(&victim).unwrap().peer;
    let own = AgentMetadata::compress(&transport.local_metadata().unwrap()).unwrap();
    let carrier = RdmaMetadata::new(
        remote.operation_kind(),
        remote.descriptors().to_vec(),
        own.clone(),
        remote.notification_key().clone(),
    );
    let blob = Blob::of(&carrier.unwrap());
    let mut forge = Forge {
        random: Random::new(seed),
        key: remote.notification_key().as_bytes(),
        token: remote.terms().map_or(0, |terms| terms.token().get()),
        introduction: own.compressed(),
        blob: &blob,
        bomb: &bomb(),
    };
    let mut sent = 0;
    while sent < count {
        let message = forge.message(is_holder == 1);
        // The key alone would complete the offer.
        if message == forge.key {
            continue;
        }
        let began = Instant::now();
        loop {
            match transport.notify(&peer, &message) {
                Poll::Ready(Ok(())) => break,
                Poll::Ready(Err(error)) => {
                    println!("sent {sent}");
                    panic!("the target is gone: {error}");
                }
                Poll::Pending => {
                    assert!(began.elapsed() < Duration::from_secs(60), "nothing can be sent");
                    thread::yield_now();
                }
            }
        }
        sent += 1;
        if sent % 64 == 0 {
            transport.take_notifications(&mut |_, _| {}).unwrap();
        }
    }
    println!("sent {sent}");
    std::process::exit(0);
}

/// UCX's words about its peers would stand between the answers.
fn peer() -> Peer {
    Peer::start(
        PEER,
        &[("NIXL_TEST_STAGED", Path::new("2000")), ("UCX_LOG_LEVEL", Path::new("fatal"))],
    )
}

/// The process that is attacked, and one that uses it as it is meant.
struct Scene {
    victim: Arc<Mutex<Peer>>,
    pid: u32,
    directory: tempfile::TempDir,
    seed: u64,
}

/// One that takes part in staged transfers.
async fn connector(name: &str) -> Connector {
    let mut capabilities = GpuCapabilities::default();
    (capabilities.gpus, capabilities.batch) = (1, true);
    let facts = LocalFacts::discover().as_ref().clone().with_simulated_gpus(&capabilities);
    let gpus: Arc<dyn GpuBackend> = Arc::new(SimulatedGpus::new(capabilities).unwrap());
    let executor = PathExecutor::with(gpus, Arc::new(facts)).unwrap();
    let builder = Connector::builder().name(name).executor(Arc::new(executor) as Arc<dyn Executor>);
    builder.build().await.unwrap()
}

/// How long honest operations took.
#[derive(Debug, Default)]
struct Honest {
    took: Vec<Duration>,
    failed: usize,
}

impl Honest {
    fn percentile(&self, percent: usize) -> Duration {
        let mut took = self.took.clone();
        took.sort_unstable();
        took.get(took.len().saturating_sub(1) * percent / 100).copied().unwrap_or_default()
    }
}

impl Scene {
    fn new() -> Self {
        let mut victim = peer();
        victim.ask("memory cuda").unwrap();
        let offer = victim.offer("readable", LEN, 0).unwrap();
        let remote = metadata(&offer.json).unwrap();
        let pid = remote.peer().unwrap().host().pid();
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("offer"), &offer.json).unwrap();
        Self { victim: Arc::new(Mutex::new(victim)), pid, directory, seed: 1 }
    }

    /// The victim's resident memory, in KiB.
    fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// Reads and writes the victim's memory until `stop`, and checks each byte.
    fn honest(&self, stop: &Arc<AtomicBool>) -> thread::JoinHandle<Honest> {
        let (victim, stop) = (Arc::clone(&self.victim), Arc::clone(stop));
        thread::spawn(move || {
            within(LIMIT, async {
                let connector = connector("honest").await;
                let mut honest = Honest::default();
                let mut seed = 1u64;
                while !stop.load(Ordering::Relaxed) {
                    seed += 1;
                    let began = one(&connector, &victim, seed).await;
                    match began {
                        Ok(took) => honest.took.push(took),
                        Err(error) => {
                            honest.failed += 1;
                            if honest.failed < 5 {
                                println!("honest: {error}");
                            }
                        }
                    }
                }
                honest
            })
        })
    }

    /// Attacks while honest traffic goes on. Returns what that saw.
    fn beside(&mut self, what: &str, attack: impl FnOnce(&mut Self) -> usize) -> Honest {
        let before = self.memory();
        let stop = Arc::<AtomicBool>::default();
        let honest = self.honest(&stop);
        let began = Instant::now();
        let inputs = attack(self);
        let took = began.elapsed();
        stop.store(true, Ordering::Relaxed);
        let honest = honest.join().unwrap();
        let (median, late) = (honest.percentile(50), honest.percentile(99));
        println!(
            "{what}: {inputs} inputs in {took:.1?}; honest {} ok, {} failed, median {median:.0?}, p99 {late:.0?}; RSS {before} \
             -> {} KiB",
            honest.took.len(),
            honest.failed,
            self.memory()
        );
        assert!(self.memory() < before + (256 << 10), "memory grows");
        honest
    }

    /// A child that sends `count` messages.
    fn send(&mut self, is_holder: bool, count: usize) -> usize {
        self.seed += 1;
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["attacks", "--exact", "--nocapture", "--ignored", "--test-threads=1"])
            .env(OFFER, self.directory.path().join("offer"))
            .env(ATTACK, format!("{} {} {count}", u8::from(is_holder), self.seed))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let began = Instant::now();
        let status: ExitStatus = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            assert!(began.elapsed() < LIMIT, "the attacker hangs");
            thread::sleep(Duration::from_millis(5));
        };
        let output = std::io::read_to_string(child.stdout.take().unwrap()).unwrap();
        let sent = output.lines().find_map(|line| line.split("sent ").nth(1)?.parse().ok());
        assert!(is_holder || status.success(), "{status} {output}");
        sent.unwrap_or(0)
    }

    /// A holder may end its own process; another goes on.
    fn send_as_holder(&mut self, count: usize) -> usize {
        const ATTACKERS: usize = 60;
        let (mut sent, mut attackers) = (0, 0);
        while sent < count && attackers < ATTACKERS {
            attackers += 1;
            sent += self.send(true, count - sent);
            self.ask("stats");
        }
        println!("{attackers} holders, one after the other");
        sent
    }

    fn ask(&self, line: &str) -> Option<String> {
        match ask(&self.victim, line) {
            Ok(answer) => Some(answer),
            Err(PeerError::Refused(_)) => None,
            Err(error) => panic!("the process ended or hangs: {error}"),
        }
    }

    /// Gives the victim damaged metadata to use.
    fn offer_damaged(&mut self, count: usize) -> usize {
        let mut bait = peer();
        let mut offers = Vec::new();
        for shared in ["host", "shared", "cuda"] {
            bait.ask(&format!("memory {shared}")).unwrap();
            let offer = bait.offer("readable", 64, 5).unwrap();
            let native = metadata(&offer.json).unwrap();
            offers.push((native.to_dynamo_json().into_bytes(), native));
        }
        self.seed += 1;
        let blob = Blob::of(&offers[0].1);
        let mut forge = Forge {
            random: Random::new(self.seed),
            key: b"key",
            token: 0,
            introduction: offers[0].1.agent_metadata().compressed(),
            blob: &blob,
            bomb: &bomb(),
        };
        for number in 0..count {
            let (json, native) = &offers[forge.below(offers.len() as u64) as usize];
            let line = match forge.below(3) {
                0 => {
                    let mut text = json.clone();
                    forge.damage(&mut text);
                    String::from_utf8_lossy(&text).replace(['\n', '\r'], " ")
                }
                1 => {
                    let mut bytes = native.to_native_bytes().unwrap();
                    forge.damage(&mut bytes);
                    hex_line(&bytes)
                }
                _ => {
                    let agent = AgentMetadata::from_compressed(
                        forge.introduction().into(),
                        &Default::default(),
                    );
                    let Ok(agent) = agent else { continue };
                    let memory = native.descriptors().to_vec();
                    let key = native.notification_key().clone();
                    native_line(
                        &RdmaMetadata::new(native.operation_kind(), memory, agent, key).unwrap(),
                    )
                }
            };
            if let Some(begun) = self.ask(&format!("read {line}")) {
                let _ = self.ask(&format!("cancel {begun}"));
            }
            if number % 1000 == 999 && bait.ask("stats").is_err() {
                bait = peer();
            }
        }
        count
    }

    /// Writes what a holder likes to the page by which offers of the victim are ended.
    fn scribble(&mut self, count: usize) -> usize {
        let line = fs::read_to_string(self.directory.path().join("offer")).unwrap();
        let doorbell = *metadata(&line).unwrap().doorbell().unwrap();
        let path = format!("/proc/{}/fd/{}", doorbell.pid, doorbell.fd);
        let page = OpenOptions::new().read(true).write(true).open(path).unwrap();
        self.seed += 1;
        let mut random = Random::new(self.seed);
        for _ in 0..count {
            let len = 1 + random.below(8);
            let at = random.below(doorbell.length - len + 1);
            let bytes: Vec<u8> = (0..len).map(|_| random.below(256) as u8).collect();
            page.write_all_at(&bytes, at).unwrap();
        }
        count
    }

    fn still_works(&self) {
        within(LIMIT, async {
            let connector = connector("after").await;
            for seed in 900..920 {
                one(&connector, &self.victim, seed).await.unwrap();
            }
        });
    }
}

/// Asks, and waits for an answer that comes late: otherwise it would be taken for that to the next question.
fn ask(victim: &Mutex<Peer>, line: &str) -> Result<String, PeerError> {
    const PATIENCE: usize = 10;
    let mut victim = victim.lock().unwrap();
    let mut answer = victim.ask(line);
    for _ in 0..PATIENCE {
        if !matches!(answer, Err(PeerError::Silent(_))) {
            break;
        }
        answer = victim.answer(line);
    }
    answer
}

fn offer(
    victim: &Mutex<Peer>,
    line: &str,
) -> Result<(String, RdmaMetadata), Box<dyn std::error::Error>> {
    let answer = ask(victim, line)?;
    let (id, offered) = answer.split_once(' ').ok_or("no offer")?;
    Ok((id.to_owned(), metadata(offered)?))
}

/// One read and one write, from the offer to the end of both sides. Returns how long this side took for both.
async fn one(
    connector: &Connector,
    victim: &Mutex<Peer>,
    seed: u64,
) -> Result<Duration, Box<dyn std::error::Error>> {
    let bytes = pattern(seed, LEN);
    let (id, remote) = offer(victim, &format!("readable {LEN} {seed}"))?;
    let region = Region::zeroed(LEN)?;
    let began = Instant::now();
    let mut read = connector.begin_read(&remote, region.clone()).await?;
    read.wait_for_completion().await?;
    let mut took = began.elapsed();
    assert!(region.to_vec()? == bytes, "the bytes read are wrong");
    ask(victim, &format!("wait {id}"))?;

    let (id, remote) = offer(victim, &format!("writable {LEN} 0"))?;
    let region = Region::try_from(bytes.clone())?;
    let began = Instant::now();
    let mut write = connector.begin_write(region, &remote).await?;
    write.wait_for_completion().await?;
    took += began.elapsed();
    let crc = ask(victim, &format!("wait {id}"))?;
    assert!(crc == crc32(&bytes), "the bytes written are wrong");
    Ok(took)
}

fn attack(name: &str, count: usize) {
    alone(name, &[("UCX_MEM_EVENTS", Path::new("no"))], || {
        let mut scene = Scene::new();
        let alone = scene.beside("nothing", |_| {
            thread::sleep(Duration::from_secs(2));
            0
        });
        let honest = [
            scene.beside("messages of strangers", |scene| scene.send(false, count)),
            scene.beside("damaged metadata", |scene| scene.offer_damaged(count)),
        ];
        println!("p99 alone {:.0?}", alone.percentile(99));
        assert!(honest.iter().all(|honest| honest.failed == 0), "honest operations failed");
        scene.still_works();
        // An address that leads to a process that does not answer keeps the thread for blocking calls for as long as UCX waits.
        scene.beside("messages of holders", |scene| scene.send_as_holder(count));
        scene.still_works();
        // What is written there may be the word of any holder: honest ends are lost, and bytes are not.
        scene.beside("pages that a holder writes", |scene| scene.scribble(count));
        println!("{}", scene.ask("stats").unwrap());
        println!("{}", scene.ask("slots").unwrap());
        assert!(fs::metadata(format!("/proc/{}", scene.pid)).is_ok());
    });
}

#[test]
fn a_process_under_attack_goes_on() {
    attack("a_process_under_attack_goes_on", 300);
}

#[test]
#[ignore = "takes minutes: run with `cargo test -p nixl-tests --test hostile -- --ignored --nocapture a_process_goes_on_after`"]
fn a_process_goes_on_after_a_hundred_thousand_inputs_of_each_kind() {
    let count = env::var("NIXL_TEST_HOSTILE_COUNT").ok().and_then(|count| count.parse().ok());
    let name = "a_process_goes_on_after_a_hundred_thousand_inputs_of_each_kind";
    attack(name, count.unwrap_or(100_000));
}
