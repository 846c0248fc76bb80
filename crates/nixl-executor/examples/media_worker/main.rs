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
use nixl_executor::media::{DecodedMedia, MediaItem, MediaReceiver, content_hash};
use nixl_executor::{ConnectorError, Tensor};
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
}

struct Worker {
    receiver: MediaReceiver,
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
    let worker = Arc::new(Worker { receiver, places: Semaphore::new(AT_ONCE) });
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
    let tensor = tensor.map_err(|error| (status(&error), error.to_string()))?;
    let summed = tokio::task::spawn_blocking(move || statistics(&tensor, &media)).await;
    let summed = summed.map_err(|error| error.into()).and_then(|summed| summed);
    summed.map(Json).map_err(|error| (StatusCode::UNPROCESSABLE_ENTITY, error.to_string()))
}

impl Worker {
    async fn read(&self, media: &DecodedMedia) -> Result<Tensor, ConnectorError> {
        let tensor = self.receiver.read(media).await?;
        self.receiver.verify(media, &tensor).await?;
        Ok(tensor)
    }
}

/// Whether the message is at fault, or the frontend.
fn status(error: &ConnectorError) -> StatusCode {
    match error {
        ConnectorError::Tensor(_) | ConnectorError::MediaType { .. } => {
            StatusCode::UNPROCESSABLE_ENTITY
        }
        ConnectorError::OverLimit { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        ConnectorError::ContentHash { .. } => StatusCode::CONFLICT,
        _ => StatusCode::BAD_GATEWAY,
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
