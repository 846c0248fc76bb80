//! A frontend that takes images over HTTP, decodes them, and has a worker read the pixels.
//!
//! ```console
//! $ cargo build --release -p nixl-executor --all-features --examples
//! $ target/release/examples/media_worker --listen 127.0.0.1:8400
//! $ target/release/examples/media_frontend --listen 127.0.0.1:8300 --worker http://127.0.0.1:8400
//! $ curl --data-binary @cat.jpg http://127.0.0.1:8300/images
//! ```
//!
//! The pixels are decoded into memory and offered. The worker gets Dynamo's message of decoded media by a request of
//! HTTP, reads the pixels from this process's memory, and answers with their statistics. The holder of the message can read the
//! pixels while they are offered: a worker on another host needs TLS.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line program")]

mod decode;
#[path = "../common/http.rs"]
mod http;
#[path = "../common/statistics.rs"]
mod statistics;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use clap::Parser;
use nixl_executor::media::{ImageLayout, ImageMetadata, MediaItem, MediaMetadata, MediaSender};
use nixl_executor::{DType, Tensor};
use nixl_memories::Memory;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::decode::{Decoded, decode};
use crate::statistics::Statistics;

/// The longest upload, in bytes.
const UPLOAD: usize = 16 << 20;

/// Images that are held at one time, so that memory is bounded; further ones wait.
const AT_ONCE: usize = 32;

/// How long an upload may take, and how long the worker has.
const WITHIN: Duration = Duration::from_secs(10);

#[derive(Parser)]
struct Args {
    /// Where to serve HTTP; port 0 takes a free one. The address is the first line that is printed.
    #[arg(long, default_value = "127.0.0.1:8300")]
    listen: SocketAddr,
    /// The address that the worker printed.
    #[arg(long, default_value = "http://127.0.0.1:8400")]
    worker: String,
    /// The memory of the pixels: host, shared, pinned, cuda:N, pool:N, vmm:N, vmmfd:N or managed:N.
    #[arg(long, value_name = "KIND", default_value_t = Memory::Shared)]
    memory: Memory,
}

struct Frontend {
    sender: MediaSender,
    client: reqwest::Client,
    worker: String,
    memory: Memory,
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
    let connector = nixl_executor::connector().await?.name("media-frontend").build().await?;
    let frontend = Frontend {
        sender: MediaSender::new(connector).life_time(2 * WITHIN),
        client: reqwest::Client::builder().no_proxy().timeout(WITHIN).build()?,
        worker: format!("{}/items", args.worker.trim_end_matches('/')),
        memory: args.memory,
        places: Semaphore::new(AT_ONCE),
    };
    let listener = TcpListener::bind(args.listen).await.context("cannot listen")?;
    println!("http://{}", listener.local_addr()?);
    let routes = Router::new().route("/images", post(images)).with_state(Arc::new(frontend));
    axum::serve(listener, routes).await?;
    Ok(())
}

/// Answers an uploaded image with the worker's statistics of it.
async fn images(
    State(frontend): State<Arc<Frontend>>,
    body: Body,
) -> Result<Json<Statistics>, Failure> {
    let failed = |status| move |error: anyhow::Error| (status, format!("{error:#}"));
    let _place = frontend.places.acquire().await;
    // A slow upload would keep its place from others.
    let upload = timeout(WITHIN, axum::body::to_bytes(body, UPLOAD)).await;
    let upload = upload.with_context(|| format!("the upload took more than {WITHIN:?}"));
    let upload = upload.map_err(failed(StatusCode::REQUEST_TIMEOUT))?;
    let upload = upload
        .context("at most 16 MiB are taken")
        .map_err(failed(StatusCode::PAYLOAD_TOO_LARGE))?;
    // Decoding takes milliseconds of the processor.
    let decoded = tokio::task::spawn_blocking(move || decode(&upload)).await;
    let decoded = decoded.map_err(|error| error.into()).and_then(|decoded| decoded);
    let decoded = decoded.map_err(failed(StatusCode::UNPROCESSABLE_ENTITY))?;
    let tensor = frontend.pixels(&decoded).map_err(failed(StatusCode::SERVICE_UNAVAILABLE))?;
    let statistics = frontend.asked(&tensor, decoded.format).await;
    statistics.map(Json).map_err(failed(StatusCode::BAD_GATEWAY))
}

impl Frontend {
    /// The pixels in memory to offer.
    fn pixels(&self, decoded: &Decoded) -> Result<Tensor> {
        let region = self.memory.allocate(decoded.pixels.len())?;
        nixl_memories::write(&region, 0, &decoded.pixels)?;
        Ok(Tensor::new(region, DType::U8, &decoded.shape)?)
    }

    /// Offers the pixels, and has the worker read them. The offer ends with this.
    async fn asked(&self, tensor: &Tensor, format: String) -> Result<Statistics> {
        let metadata = ImageMetadata::new(Some(format), "Rgb8", ImageLayout::HWC);
        let offer = self.sender.offer(tensor, Some(MediaMetadata::Image(metadata))).await?;
        let item = MediaItem::Decoded(Box::new(offer.media().clone()));
        let response = self.client.post(&self.worker).json(&item).send().await;
        let response = response.context("the worker does not answer")?;
        http::json(response, 1 << 16).await.context("the worker refused the image")
    }
}
