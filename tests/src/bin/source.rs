//! The owner of the memory whose reads are measured: offers it, and serves the same bytes over HTTP.
//!
//! | request | answer |
//! |---|---|
//! | `GET /offer/HEIGHT/WIDTH/SEED` | Dynamo's message of an image of these pixels, offered until it is read |
//! | `GET /pixels/HEIGHT/WIDTH/SEED` | the same pixels |
//! | `GET /tensor/NAME` | the offer of a tensor of the file, in the native profile |
//! | `GET /tensors` | the offer of all tensors of the file, in the order of their names |
//! | `GET /file` | the same of the whole file |
//!
//! The file of safetensors is its argument, if there is one. The address is the first line that is printed.
#![allow(clippy::print_stdout, reason = "stdout is its interface")]

use std::collections::HashMap;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use bytes::Bytes;
use nixl_connector::media::{ImageLayout, ImageMetadata, MediaItem, MediaMetadata, MediaSender};
use nixl_connector::{Connector, ReadableOperation};
use nixl_descriptor::DescriptorList;
use nixl_descriptor::tensor::DType;
use nixl_descriptor::tensor::safetensors::{SafetensorsError, SafetensorsFile, TensorEntry};
use nixl_tests::pattern;
use tokio::net::TcpListener;

type Failure = (StatusCode, String);

/// Pixels by height, width and seed.
type Pixels = HashMap<(usize, usize, u64), Bytes>;

struct Source {
    connector: Connector,
    sender: MediaSender,
    file: Option<SafetensorsFile>,
    pixels: Mutex<Pixels>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let connector = nixl_executor::connector().await?.name("source");
    let connector = connector.timeout(Duration::from_secs(120)).build().await?;
    let file = std::env::args().nth(1).map(SafetensorsFile::read).transpose()?;
    let sender = MediaSender::new(connector.clone());
    let source = Arc::new(Source { connector, sender, file, pixels: Mutex::default() });
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("http://{}", listener.local_addr()?);
    let routes = Router::new()
        .route("/offer/{height}/{width}/{seed}", get(offer))
        .route("/pixels/{height}/{width}/{seed}", get(pixels))
        .route("/tensor/{name}", get(tensor))
        .route("/tensors", get(tensors))
        .route("/file", get(file_as_a_region))
        .with_state(source);
    axum::serve(listener, routes).await?;
    Ok(())
}

fn failed(error: impl Error) -> Failure {
    (StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

impl Source {
    /// Pixels that are made once.
    fn of(&self, (height, width, seed): (usize, usize, u64)) -> Bytes {
        let mut pixels = self.pixels.lock().unwrap_or_else(PoisonError::into_inner);
        let made = || Bytes::from(pattern(seed, height * width * 3));
        pixels.entry((height, width, seed)).or_insert_with(made).clone()
    }
}

async fn offer(
    State(source): State<Arc<Source>>,
    Path(image): Path<(usize, usize, u64)>,
) -> Result<Json<MediaItem>, Failure> {
    let tensor = source.sender.buffer(DType::U8, &[image.0, image.1, 3]).map_err(failed)?;
    tensor.copy_from_slice(&source.of(image)).map_err(failed)?;
    let metadata = ImageMetadata::new(Some("Png".to_owned()), "Rgb8", ImageLayout::HWC);
    let offered = source.sender.offer(&tensor, Some(MediaMetadata::Image(metadata))).await;
    let mut offered = offered.map_err(failed)?;
    let item = MediaItem::Decoded(Box::new(offered.media().clone()));
    tokio::spawn(async move { offered.ended().await });
    Ok(Json(item))
}

async fn pixels(
    State(source): State<Arc<Source>>,
    Path(image): Path<(usize, usize, u64)>,
) -> Bytes {
    source.of(image)
}

async fn tensor(
    State(source): State<Arc<Source>>,
    Path(name): Path<String>,
) -> Result<Bytes, Failure> {
    let file = source.file.as_ref().ok_or((StatusCode::NOT_FOUND, "no file".to_owned()))?;
    let tensor = file.tensor(&name).map_err(failed)?;
    told(source.connector.create_readable(&tensor).await.map_err(failed)?)
}

async fn tensors(State(source): State<Arc<Source>>) -> Result<Bytes, Failure> {
    let file = source.file.as_ref().ok_or((StatusCode::NOT_FOUND, "no file".to_owned()))?;
    let mut names: Vec<_> = file.header().tensors().iter().map(TensorEntry::name).collect();
    names.sort_unstable();
    let memory = names.into_iter().map(|name| Ok(file.tensor(name)?.memory().clone()));
    let memory = memory.collect::<Result<Vec<_>, SafetensorsError>>().map_err(failed)?;
    let memory = DescriptorList::try_from(memory).map_err(failed)?;
    told(source.connector.create_readable(memory).await.map_err(failed)?)
}

async fn file_as_a_region(State(source): State<Arc<Source>>) -> Result<Bytes, Failure> {
    let file = source.file.as_ref().ok_or((StatusCode::NOT_FOUND, "no file".to_owned()))?;
    told(source.connector.create_readable(file.memory().clone()).await.map_err(failed)?)
}

/// Keeps an offer until it has ended.
fn told(mut offered: ReadableOperation) -> Result<Bytes, Failure> {
    let metadata = offered.metadata().to_native_bytes().map_err(failed)?;
    tokio::spawn(async move { offered.wait_for_completion().await.is_ok() });
    Ok(metadata.into())
}
