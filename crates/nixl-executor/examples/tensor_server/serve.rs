//! The side that owns the tensors.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use nixl_executor::tensor::safetensors::{SafetensorsFile, SafetensorsHeader};
use nixl_executor::{Export, GrantOptions};
use nixl_memories::Memory;
use tokio::net::TcpListener;

use crate::blocks::{BLOCK, blocks};
use crate::messages::{Exported, Granted, Wanted};

#[derive(clap::Args)]
pub(crate) struct Serve {
    /// A file of safetensors.
    #[arg(long)]
    file: PathBuf,
    /// Where to serve HTTP; port 0 takes a free one. The address is the first line that is printed.
    #[arg(long, default_value = "127.0.0.1:8500")]
    listen: SocketAddr,
    /// The memory of the tensors: host, shared, pinned, cuda:N, pool:N, vmm:N, vmmfd:N or managed:N.
    #[arg(long, value_name = "KIND", default_value_t = Memory::Shared)]
    memory: Memory,
}

struct Server {
    file: SafetensorsFile,
    export: Export,
}

/// An answer that is no success.
type Failure = (StatusCode, String);

pub(crate) async fn run(args: Serve) -> Result<()> {
    let len =
        usize::try_from(std::fs::metadata(&args.file).context("cannot read the file")?.len())?;
    let (layout, memory) = blocks(args.memory, len)?;
    let file = match memory.device().is_host() {
        true => SafetensorsFile::read_into(&args.file, memory)?,
        false => {
            let bytes = std::fs::read(&args.file)?;
            nixl_memories::write(&memory, 0, &bytes)?;
            let header = SafetensorsHeader::parse(&bytes, bytes.len() as u64)?;
            SafetensorsFile::with_header(header, memory.descriptor(..bytes.len())?)?
        }
    };
    let connector = nixl_executor::connector().await?.name("tensor-server").build().await?;
    let export = connector.export([("file", layout)]).await?;
    let server = Arc::new(Server { file, export });
    let listener = TcpListener::bind(args.listen).await.context("cannot listen")?;
    println!("http://{}", listener.local_addr()?);
    let routes = Router::new()
        .route("/export", get(exported))
        .route("/tensor", post(tensor))
        .with_state(server);
    axum::serve(listener, routes).await?;
    Ok(())
}

async fn exported(State(server): State<Arc<Server>>) -> Json<Exported> {
    let names = server.file.header().tensors().iter().map(|tensor| tensor.name().to_owned());
    Json(Exported { export: server.export.metadata().clone(), names: names.collect() })
}

/// Grants the blocks of a tensor.
async fn tensor(
    State(server): State<Arc<Server>>,
    Json(wanted): Json<Wanted>,
) -> Result<Json<Granted>, Failure> {
    let failed = |status| move |error: anyhow::Error| (status, format!("{error:#}"));
    let entry = server.file.header().get(&wanted.name).context("there is no such tensor");
    let entry = entry.map_err(failed(StatusCode::NOT_FOUND))?;
    let bytes = entry.bytes();
    let granted = || {
        let (start, end) = (usize::try_from(bytes.start)?, usize::try_from(bytes.end)?);
        let blocks = u32::try_from(start / BLOCK)?..u32::try_from(end.div_ceil(BLOCK))?;
        // It ends by the reader's message, or after this.
        let options = GrantOptions::new().time_to_live(Duration::from_secs(60));
        let grant = server.export.grant(0, &blocks.collect::<Vec<_>>(), options)?;
        Ok((grant, start % BLOCK))
    };
    let (grant, skip) = granted().map_err(failed(StatusCode::SERVICE_UNAVAILABLE))?;
    let ticket = grant.ticket().clone();
    let freed = grant
        .free_blocks()
        .map_err(|error| failed(StatusCode::SERVICE_UNAVAILABLE)(error.into()))?;
    // A grant ends when it is dropped.
    tokio::spawn(async move {
        freed.await;
        drop(grant);
    });
    let (dtype, shape) = (entry.dtype().safetensors_name().to_owned(), entry.shape().to_vec());
    Ok(Json(Granted { ticket, dtype, shape, skip }))
}
