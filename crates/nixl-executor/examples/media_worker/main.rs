//! A worker that reads images from the memory of frontends, and answers with their statistics.
//!
//! `media_frontend` has the commands. A frontend sends Dynamo's message of decoded media; the worker reads the pixels into a tensor
//! in memory of its own, compares their content hash, and answers.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line program")]

#[path = "../common/statistics.rs"]
mod statistics;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use clap::Parser;
use nixl_executor::media::{DecodedMedia, MediaItem, MediaReceiver, content_hash, media_layout};
use nixl_executor::{ConnectorError, Region, Tensor};
use nixl_memories::Memory;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::statistics::Statistics;

/// The longest message of a frontend, in bytes.
const MESSAGE: usize = 1 << 20;

/// Images that are held at one time, so that memory is bounded; further ones wait.
const AT_ONCE: usize = 32;

#[derive(Parser)]
struct Args {
    /// Where to serve HTTP; port 0 takes a free one. The address is the first line that is printed.
    #[arg(long, default_value = "127.0.0.1:8400")]
    listen: SocketAddr,
    /// The most bytes of an image.
    #[arg(long, default_value_t = 256 << 20)]
    limit: usize,
    /// The memory that the pixels are read into: host, shared, pinned, cuda:N, pool:N, vmm:N, vmmfd:N or managed:N.
    #[arg(long, value_name = "KIND", default_value_t = Memory::Shared)]
    memory: Memory,
}

struct Worker {
    receiver: MediaReceiver,
    memory: Memory,
    limit: usize,
    places: Semaphore,
}

/// An answer that is no success.
type Failure = (StatusCode, String);

#[tokio::main]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<()> {
    let connector = nixl_executor::connector().await?.name("media-worker");
    let connector = connector.timeout(Duration::from_secs(8)).build().await?;
    let receiver = MediaReceiver::new(connector).limit(args.limit);
    let worker = Arc::new(Worker {
        receiver,
        memory: args.memory,
        limit: args.limit,
        places: Semaphore::new(AT_ONCE),
    });
    let listener = TcpListener::bind(args.listen).await.context("cannot listen")?;
    println!("http://{}", listener.local_addr()?);
    let limit = DefaultBodyLimit::max(MESSAGE);
    let routes = Router::new().route("/items", post(items)).layer(limit).with_state(worker);
    axum::serve(listener, routes).await?;
    Ok(())
}

/// Reads the image of a message and answers with its statistics.
async fn items(
    State(worker): State<Arc<Worker>>,
    message: Bytes,
) -> Result<Json<Statistics>, Failure> {
    let item = MediaItem::from_json(&message);
    let item = item.map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))?;
    let MediaItem::Decoded(media) = item else {
        let text = "only decoded media are taken, no addresses and no ids";
        return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, text.to_owned()));
    };
    let _place = worker.places.acquire().await;
    let tensor = worker.read(&media).await;
    let tensor = tensor.map_err(|error| (status(&error), format!("{error:#}")))?;
    let summed = tokio::task::spawn_blocking(move || statistics(&tensor, &media)).await;
    let summed = summed.map_err(|error| error.into()).and_then(|summed| summed);
    summed.map(Json).map_err(|error| (StatusCode::UNPROCESSABLE_ENTITY, error.to_string()))
}

impl Worker {
    /// The pixels in host memory, compared with their hash.
    async fn read(&self, media: &DecodedMedia) -> Result<Tensor> {
        let tensor = match self.memory {
            Memory::Shared => self.receiver.read(media).await?,
            memory => self.read_into(media, memory).await?,
        };
        self.receiver.verify(media, &tensor).await?;
        Ok(tensor)
    }

    /// Reads into memory of another kind, and copies the pixels to host memory.
    async fn read_into(&self, media: &DecodedMedia, memory: Memory) -> Result<Tensor> {
        let layout = media_layout(media)?;
        let (len, limit) = (layout.byte_len(), self.limit);
        if len > limit {
            return Err(ConnectorError::OverLimit { bytes: len as u64, limit }.into());
        }
        let tensor = Tensor::with_layout(memory.allocate(len)?, layout.clone())?;
        self.receiver.read_into(media, &tensor).await?;
        let pixels = nixl_memories::read(tensor.region(), 0..len)?;
        Ok(Tensor::with_layout(Region::try_from(pixels)?, layout)?)
    }
}

/// Whether the message is at fault, or the frontend.
fn status(error: &anyhow::Error) -> StatusCode {
    match error.downcast_ref() {
        Some(ConnectorError::Tensor(_) | ConnectorError::MediaType { .. }) => {
            StatusCode::UNPROCESSABLE_ENTITY
        }
        Some(ConnectorError::OverLimit { .. }) => StatusCode::PAYLOAD_TOO_LARGE,
        Some(ConnectorError::ContentHash { .. }) => StatusCode::CONFLICT,
        Some(_) => StatusCode::BAD_GATEWAY,
        None => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// The statistics of elements of a byte.
fn statistics(tensor: &Tensor, media: &DecodedMedia) -> Result<Statistics> {
    let hash =
        content_hash(tensor, media.metadata())?.context("only images and videos of bytes")?;
    let elements = tensor.to_vec::<u8>()?;
    let sum: u64 = elements.iter().map(|element| u64::from(*element)).sum();
    Ok(Statistics {
        shape: tensor.shape().to_vec(),
        mean: sum as f64 / elements.len() as f64,
        hash: format!("{hash:016x}"),
    })
}
