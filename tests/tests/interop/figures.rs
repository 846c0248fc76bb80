//! Figures of media and of tensors between two processes: docs/BENCHMARKS.md has them.

use std::fs;
use std::io::{Read as _, Write as _};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nixl_connector::Connector;
use nixl_connector::media::{DecodedMedia, MediaItem, MediaReceiver};
use nixl_descriptor::DescriptorList;
use nixl_descriptor::tensor::safetensors::{SafetensorsFile, SafetensorsHeader};
use nixl_descriptor::tensor::{DType, Tensor};
use nixl_metadata::RdmaMetadata;
use nixl_tests::{Program, pattern};
use reqwest::Client;
use serde_json::{Value, json};

use crate::DEADLINE;
use crate::peer::Python;

const SOURCE: &str = env!("CARGO_BIN_EXE_source");

/// Heights and widths.
const IMAGES: [(usize, usize); 2] = [(480, 640), (1080, 1920)];

/// Images of a run at once, and in all; memory and files are counted from the end of an earlier run of as many.
const AT_ONCE: usize = 32;
const ALL: usize = 1000;

/// Images of a run one by one.
const ONE_BY_ONE: usize = 200;

fn print(line: &str) {
    // Not captured, as the output of tests is.
    let _closed = writeln!(std::io::stderr(), "{line}");
}

async fn connector() -> Connector {
    let connector = nixl_executor::connector().await.unwrap();
    connector.timeout(DEADLINE).build().await.unwrap()
}

/// One of the requests of a client.
#[derive(Clone)]
struct Worker {
    receiver: MediaReceiver,
    client: Client,
    source: String,
}

impl Worker {
    async fn get(&self, path: &str) -> Vec<u8> {
        let response = self.client.get(format!("{}{path}", self.source)).send().await.unwrap();
        let response = response.error_for_status().unwrap();
        let mut body = Vec::with_capacity(response.content_length().unwrap_or(0) as usize);
        let mut response = response;
        while let Some(piece) = response.chunk().await.unwrap() {
            body.extend_from_slice(&piece);
        }
        body
    }

    async fn offered(&self, image: (usize, usize), seed: usize) -> Vec<u8> {
        self.get(&format!("/offer/{}/{}/{}", image.0, image.1, seed % 8)).await
    }

    /// The pixels of an offered image, and the time from the message in hand to the pixels in place.
    async fn pixels(&self, message: &[u8]) -> (DecodedMedia, Tensor, Duration) {
        let begun = Instant::now();
        let media = decoded(message);
        let tensor = self.receiver.read(&media).await.unwrap();
        (media, tensor, begun.elapsed())
    }

    async fn check(&self, media: &DecodedMedia, tensor: &Tensor) {
        assert!(media.content_hash().is_some());
        self.receiver.verify(media, tensor).await.unwrap();
    }

    /// Offers an image, reads and checks it.
    async fn read(&self, image: (usize, usize), seed: usize) -> Duration {
        let message = self.offered(image, seed).await;
        let (media, tensor, took) = self.pixels(&message).await;
        self.check(&media, &tensor).await;
        took
    }

    /// Reads so many images at once, which are offered before and checked afterwards.
    async fn round(&self, image: (usize, usize), count: usize) -> Vec<Duration> {
        let mut messages = Vec::new();
        for seed in 0..count {
            messages.push(self.offered(image, seed).await);
        }
        let reads = messages.into_iter().map(|message| {
            let worker = self.clone();
            tokio::spawn(async move { worker.pixels(&message).await })
        });
        let mut read = Vec::new();
        for pixels in reads.collect::<Vec<_>>() {
            read.push(pixels.await.unwrap());
        }
        let mut times = Vec::new();
        for (media, tensor, took) in read {
            self.check(&media, &tensor).await;
            times.push(took);
        }
        times
    }

    /// From the address in hand to the pixels in place.
    async fn fetched(&self, image: (usize, usize), seed: usize) -> Duration {
        let begun = Instant::now();
        let body = self.get(&format!("/pixels/{}/{}/{}", image.0, image.1, seed % 8)).await;
        let took = begun.elapsed();
        assert_eq!(body.len(), image.0 * image.1 * 3);
        took
    }
}

fn decoded(message: &[u8]) -> DecodedMedia {
    match MediaItem::from_json(message).unwrap() {
        MediaItem::Decoded(media) => *media,
        other => panic!("{other:?}"),
    }
}

/// The times of a run of so many, so many at once.
async fn run<F>(
    worker: &Worker,
    (at_once, all): (usize, usize),
    one: impl Fn(Worker, usize) -> F + Copy + Send + 'static,
) -> Vec<Duration>
where
    F: Future<Output = Duration> + Send + 'static,
{
    let next = Arc::new(AtomicUsize::new(0));
    let tasks = (0..at_once).map(|_| {
        let (worker, next) = (worker.clone(), Arc::clone(&next));
        tokio::spawn(async move {
            let mut times = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= all {
                    return times;
                }
                times.push(one(worker.clone(), number).await);
            }
        })
    });
    let mut times = Vec::new();
    for task in tasks.collect::<Vec<_>>() {
        times.extend(task.await.unwrap());
    }
    times
}

fn p50(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// Open files and resident MiB of a process.
fn held(process: &str) -> (usize, u64) {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kib: u64 = resident.split_whitespace().next().unwrap().parse().unwrap();
    (fs::read_dir(format!("/proc/{process}/fd")).unwrap().count(), kib >> 10)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints figures"]
async fn figures_of_media() {
    let source = Program::start(SOURCE, &[], "http://");
    let owner = source.id().to_string();
    let client = Client::builder().no_proxy().build().unwrap();
    let receiver = MediaReceiver::new(connector().await);
    let worker = Worker { receiver, client, source: source.said().to_owned() };
    for image in IMAGES {
        let read = move |worker: Worker, seed| async move { worker.read(image, seed).await };
        let fetched = move |worker: Worker, seed| async move { worker.fetched(image, seed).await };
        // The first connects, registers and allocates pages.
        run(&worker, (1, ONE_BY_ONE), read).await;
        let one = run(&worker, (1, ONE_BY_ONE), read).await;
        let one_body = run(&worker, (1, ONE_BY_ONE), fetched).await;
        // The most images at one time that either process will hold.
        for _ in 0..2 {
            run(&worker, (AT_ONCE, ALL), read).await;
        }
        let before = ["self", &owner].map(held);
        let many = run(&worker, (AT_ONCE, ALL), read).await;
        let after = ["self", &owner].map(held);
        assert_eq!(many.len(), ALL);
        let many_bodies = run(&worker, (AT_ONCE, ALL), fetched).await;
        let mut rounds = Vec::new();
        for _ in 0..ALL / AT_ONCE {
            rounds.extend(worker.round(image, AT_ONCE).await);
        }

        let mut python = Python::start();
        let mut theirs = Vec::new();
        for number in 0..ONE_BY_ONE {
            let message = worker.offered(image, number).await;
            let item: Value = serde_json::from_slice(&message).unwrap();
            let read = tokio::task::block_in_place(|| python.read_media(&item["Decoded"]));
            theirs.push(Duration::from_secs_f64(read["seconds"].as_f64().unwrap()));
        }
        let [one, one_body, theirs] = [one, one_body, theirs].map(p50);
        let [many, rounds, many_bodies] = [many, rounds, many_bodies].map(p50);
        let share = |of: Duration, whole: Duration| of.as_secs_f64() / whole.as_secs_f64();
        print(&format!("{} x {} x 3", image.0, image.1));
        print(&format!(
            "  one by one, p50: read {one:.1?}, HTTP body {one_body:.1?} ({:.2}x), Python {theirs:.1?} ({:.2}x)",
            share(one, one_body),
            share(one, theirs),
        ));
        print(&format!(
            "  {AT_ONCE} at once, {ALL} in all, p50: read {rounds:.1?}, HTTP body {many_bodies:.1?} ({:.2}x); read while others are offered and checked {many:.1?} ({:.2}x)",
            share(rounds, many_bodies),
            share(many, many_bodies),
        ));
        print(&format!("  (files, MiB) of worker and owner: {before:?} -> {after:?}"));
        for (before, after) in before.into_iter().zip(after) {
            // A slab of the pool, a file of 16 MiB, if more images met at one time than before.
            assert!(after.0 <= before.0 + 2 && after.1 <= before.1 + 32, "it has grown");
        }
    }
}

/// Bytes of each tensor, in files of 2 GiB.
const TENSORS: [usize; 3] = [16 << 20, 64 << 20, 128 << 20];
const FILE: usize = 2 << 30;

/// Reads at one time.
const READS: [usize; 2] = [1, 4];

/// Bytes of a copy.
const PIECE: usize = 1 << 20;

/// Rounds, of which the first allocates pages, connects and registers.
const ROUNDS: usize = 6;

/// A file of safetensors with random bytes, in tensors of this length.
fn model(folder: &tempfile::TempDir, len: usize) -> String {
    let path = folder.path().join("model.safetensors");
    let tensor = |at: usize| {
        let offsets = [at * len, (at + 1) * len];
        let shape = [len / 4096, 2048];
        let entry = json!({ "dtype": "BF16", "shape": shape, "data_offsets": offsets });
        (name(at), entry)
    };
    let header = Value::Object((0..FILE / len).map(tensor).collect()).to_string();
    let header = format!("{header:<len$}", len = header.len().next_multiple_of(8));
    let mut file = fs::File::create(&path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    for at in 0..FILE / len {
        file.write_all(&pattern(at as u64, len)).unwrap();
    }
    path.display().to_string()
}

fn name(at: usize) -> String {
    format!("layers.{at}.weight")
}

/// The time of the reads of all tensors into those of the same names, so many at once, with the offers in hand.
async fn by_name(
    connector: &Connector,
    local: &SafetensorsFile,
    offers: Vec<RdmaMetadata>,
    at_once: usize,
) -> Duration {
    let offers = offers.into_iter().enumerate();
    let reads = offers.map(|(at, offer)| (offer, local.tensor(&name(at)).unwrap()));
    let reads = Arc::new(Mutex::new(reads.collect::<Vec<_>>()));
    let begun = Instant::now();
    let tasks = (0..at_once).map(|_| {
        let (connector, reads) = (connector.clone(), Arc::clone(&reads));
        tokio::spawn(async move {
            loop {
                let next = reads.lock().unwrap().pop();
                let Some((offer, tensor)) = next else { return };
                connector.read_into_tensor(&offer, &tensor).await.unwrap();
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    begun.elapsed()
}

/// Tensors of the reader's own, as many and as long as those of the file.
fn own_tensors(connector: &Connector, len: usize) -> Vec<(String, Tensor)> {
    let tensor = |at| {
        let memory = connector.buffer(len).unwrap();
        let tensor = Tensor::new(memory, DType::BF16, &[len / 4096, 2048]).unwrap();
        tensor.copy_from_bytes(&vec![1; len]).unwrap();
        (name(at), tensor)
    };
    let mut tensors: Vec<_> = (0..FILE / len).map(tensor).collect();
    tensors.sort_by(|(a, _), (b, _)| a.cmp(b));
    tensors
}

/// Figures of a file in tensors of this length.
async fn file_of(len: usize) {
    let folder = tempfile::tempdir().unwrap();
    let path = model(&folder, len);
    let source = Program::start(SOURCE, &[&path], "http://");
    let mut start = Vec::new();
    let file = fs::File::open(&path).unwrap();
    let bytes = file.metadata().unwrap().len();
    file.take(1 << 20).read_to_end(&mut start).unwrap();
    let header = SafetensorsHeader::parse(&start, bytes).unwrap();
    let connector = connector().await;
    let memory = connector.buffer(bytes as usize).unwrap().whole();
    let memory = memory.slice(..bytes as usize).unwrap();
    // The pages are there: the first operation would take seconds, and the executor would learn that.
    for at in (0..bytes as usize).step_by(PIECE) {
        let piece = vec![1; PIECE.min(bytes as usize - at)];
        memory.region().copy_from_slice(memory.offset() + at, &piece).unwrap();
    }
    let local = SafetensorsFile::with_header(header, memory).unwrap();
    let client = Client::builder().no_proxy().build().unwrap();
    let get = async |path: String| {
        let sent = client.get(format!("{}{path}", source.said())).send().await.unwrap();
        RdmaMetadata::decode(&sent.error_for_status().unwrap().bytes().await.unwrap()).unwrap()
    };
    let own = own_tensors(&connector, len);
    let (mut whole, mut named, mut listed) = (Vec::new(), READS.map(|_| Vec::new()), Vec::new());
    for round in 0..ROUNDS {
        let offer = get("/file".to_owned()).await;
        let begun = Instant::now();
        connector.read(&offer, local.memory().clone()).await.unwrap();
        let took = begun.elapsed();
        if round > 0 {
            whole.push(took);
        }
        let offer = get("/tensors".to_owned()).await;
        let memory: Vec<_> = own.iter().map(|(_, tensor)| tensor.memory().clone()).collect();
        let begun = Instant::now();
        connector.read(&offer, DescriptorList::try_from(memory).unwrap()).await.unwrap();
        let took = begun.elapsed();
        if round > 0 {
            listed.push(took);
        }
        for (at_once, times) in READS.into_iter().zip(&mut named) {
            let mut offers = Vec::new();
            for at in 0..FILE / len {
                offers.push(get(format!("/tensor/{}", name(at))).await);
            }
            let took = by_name(&connector, &local, offers, at_once).await;
            if round > 0 {
                times.push(took);
            }
        }
    }
    for at in [0, FILE / len - 1] {
        let read = local.tensor(&name(at)).unwrap().to_bytes().unwrap();
        assert!(read == pattern(at as u64, len), "{}", name(at));
    }
    for at in [0, FILE / len - 1] {
        let (_, tensor) = own.iter().find(|(found, _)| *found == name(at)).unwrap();
        assert!(tensor.to_bytes().unwrap() == pattern(at as u64, len), "{}", name(at));
    }
    let rate = |times: Vec<Duration>| FILE as f64 / p50(times).as_secs_f64() / 1e9;
    let whole = rate(whole);
    print(&format!("2 GiB: one region {whole:.2} GB/s"));
    let (count, mib, rate_of_list) = (FILE / len, len >> 20, rate(listed));
    let share = rate_of_list / whole;
    print(&format!(
        "  {count} tensors of {mib} MiB by name, in one operation: {rate_of_list:.2} GB/s ({share:.2}x)"
    ));
    for (at_once, times) in READS.into_iter().zip(named) {
        let (count, mib, rate) = (FILE / len, len >> 20, rate(times));
        let share = rate / whole;
        print(&format!(
            "  {count} tensors of {mib} MiB by name, {at_once} at once: {rate:.2} GB/s ({share:.2}x)"
        ));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints figures"]
async fn figures_of_a_file() {
    for len in TENSORS {
        file_of(len).await;
    }
}
