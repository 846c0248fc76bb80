//! A slice of cudarc, of `half::bf16`, read by another process into a slice of its own.
//!
//! ```console
//! $ cargo build --release -p nixl-executor --all-features --example cuda_slices
//! $ target/release/examples/cuda_slices offer --elements 33554432 | target/release/examples/cuda_slices read
//! ```
//!
//! Each side has a stream. The offer begins after the work that its stream has queued, and the reader's stream goes on with what was
//! read. The first line of `offer` is the offer in hexadecimal digits, for the standard input of `read`; the others are for people.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line program")]

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, ensure};
use clap::Parser;
use cudarc::driver::{CudaContext, CudaSlice, CudaStream};
use half::bf16;
use nixl_executor::{Connector, PathExecutor, RdmaMetadata, Region, cuda, cudarc as slices};

#[derive(Parser)]
enum Side {
    /// Offers a slice.
    Offer {
        /// Numbers in the slice.
        #[arg(long, default_value_t = 1 << 20)]
        elements: usize,
        /// The number of the GPU.
        #[arg(long, default_value_t = 0)]
        gpu: usize,
    },
    /// Reads the slice that an offer on the standard input is of.
    Read {
        /// The number of the GPU.
        #[arg(long, default_value_t = 0)]
        gpu: usize,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let ended = match Side::parse() {
        Side::Offer { elements, gpu } => offer(elements, gpu).await,
        Side::Read { gpu } => read(gpu).await,
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn offer(elements: usize, gpu: usize) -> Result<()> {
    let stream = stream(gpu)?;
    let (executor, connector) = connector("slices-offer").await?;
    let slice = stream.clone_htod(&numbers(elements))?;
    let mut offer = connector.create_readable(slices::descriptors(&executor, slice)?).await?;
    say(&hex(&offer.metadata().to_native_bytes()?))?;
    let done = offer.wait_for_completion().await?;
    eprintln!("read by a peer: {} bytes", done.bytes());
    Ok(())
}

async fn read(gpu: usize) -> Result<()> {
    let mut line = String::new();
    io::stdin().read_line(&mut line)?;
    let remote = RdmaMetadata::decode(&bytes(line.trim()).context("the input is no offer")?)?;
    let len = usize::try_from(remote.total_bytes())?;
    let elements = len / size_of::<bf16>();
    ensure!(elements > 0 && elements * size_of::<bf16>() == len, "{len} bytes are no bf16 numbers");
    let stream = stream(gpu)?;
    let (executor, connector) = connector("slices-read").await?;
    let sink: CudaSlice<bf16> = stream.alloc_zeros(elements)?;
    let local = slices::descriptors(&executor, sink)?;
    let region: Region = local.as_slice()[0].region().clone();
    let begun = Instant::now();
    let mut read = connector.begin_read(&remote, local).await?;
    let done = read.wait_for_completion().await?;
    let rate = len as f64 / begun.elapsed().as_secs_f64() / 1e9;
    let path = done.path().map_or_else(|| "unknown".to_owned(), |path| path.kind().to_string());
    drop(read);
    let sink = taken_back(region).await?;
    let is_right = stream.clone_dtoh(&sink)? == numbers(elements);
    ensure!(is_right, "the numbers are not those that were offered");
    say(&format!("read {elements} numbers by {path}, {rate:.1} GB/s"))
}

/// A stream of a GPU. cudarc panics without a driver.
fn stream(gpu: usize) -> Result<Arc<CudaStream>> {
    let driver = cuda::probe().as_ref();
    let driver = driver.map_err(|reason| anyhow!("there is no GPU: {reason}"))?;
    let count = driver.device_count() as usize;
    ensure!(gpu < count, "there is no GPU {gpu}: the driver shows {count}, counted from 0");
    Ok(CudaContext::new(gpu)?.new_stream()?)
}

async fn connector(name: &str) -> Result<(Arc<PathExecutor>, Connector)> {
    let executor = Arc::new(PathExecutor::new()?);
    let builder = Connector::builder().name(name).executor(Arc::clone(&executor) as _);
    Ok((executor, builder.build().await?))
}

/// The slice of a region. Threads of the connection have handles of it for a moment after an operation.
async fn taken_back(mut region: Region) -> Result<CudaSlice<bf16>> {
    for _ in 0..1000 {
        match slices::slice(region) {
            Ok(slice) => return Ok(slice),
            Err(refused) => region = refused.into_region(),
        }
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    Err(anyhow!("the slice is still in use"))
}

/// Numbers that differ from their neighbours.
fn numbers(elements: usize) -> Vec<bf16> {
    (0..elements).map(|index| bf16::from_f32((index % 251) as f32 - 125.0)).collect()
}

fn say(line: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(digits: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let bytes: Option<Vec<u8>> = pairs.iter().map(byte).collect();
    bytes.filter(|bytes| rest.is_empty() && !bytes.is_empty())
}
