//! The side that owns the cache.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use nixl_executor::{Export, Grant, GrantOptions};
use tokio::net::TcpListener;

use crate::cache::PerLayer;
use crate::http::{Cancel, Exported, Prefilled, Prompt};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where to serve HTTP; port 0 takes a free one. The address is the first line that is printed.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Blocks of the cache, of 256 KiB.
    #[arg(long, default_value_t = 256)]
    blocks: usize,
}

struct Server {
    cache: PerLayer,
    export: Export,
    state: Mutex<Requests>,
}

#[derive(Default)]
struct Requests {
    /// Blocks that hold nothing.
    free: Vec<u32>,
    /// The grants of requests that were not read to the end.
    granted: HashMap<u64, Grant>,
    filled: u64,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let connector = nixl_executor::connector().await?.name("prefill").build().await?;
    let cache = PerLayer::new(args.blocks)?;
    let export = connector.export([("full", cache.layout.clone())]).await?;
    let free = (0..u32::try_from(args.blocks)?).rev().collect();
    let state = Mutex::new(Requests { free, ..Requests::default() });
    let server = Arc::new(Server { cache, export, state });
    let listener = TcpListener::bind(args.listen).await.context("cannot listen")?;
    println!("http://{}", listener.local_addr()?);
    let routes = Router::new()
        .route("/export", get(exported))
        .route("/prefill", post(prefill))
        .route("/cancel", post(cancel))
        .with_state(server);
    axum::serve(listener, routes).await?;
    Ok(())
}

async fn exported(State(server): State<Arc<Server>>) -> Json<Exported> {
    Json(Exported { export: server.export.metadata().clone() })
}

/// Fills blocks for a request, and grants them to one reader.
async fn prefill(
    State(server): State<Arc<Server>>,
    Json(prompt): Json<Prompt>,
) -> Result<Json<Prefilled>, (StatusCode, String)> {
    let failed =
        |error: &dyn std::fmt::Display| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
    let (blocks, seeds) = {
        let mut state = server.lock();
        let Some(left) = state.free.len().checked_sub(prompt.blocks) else {
            return Err((StatusCode::SERVICE_UNAVAILABLE, "no free blocks".to_owned()));
        };
        let blocks = state.free.split_off(left);
        let first = state.filled;
        state.filled += blocks.len() as u64;
        (blocks, (first..state.filled).collect::<Vec<_>>())
    };
    for (block, seed) in blocks.iter().zip(&seeds) {
        server.cache.fill(*block, *seed).map_err(|error| failed(&error))?;
    }
    // A reader that is lost keeps its blocks no longer than this.
    let options = GrantOptions::new().time_to_live(Duration::from_secs(20));
    let grant = server.export.grant(0, &blocks, options).map_err(|error| failed(&error))?;
    let freed = grant.free_blocks().map_err(|error| failed(&error))?;
    let ticket = grant.ticket().clone();
    server.lock().granted.insert(prompt.request, grant);
    // The blocks are free once they were read, the request was cancelled, or its time is over.
    tokio::spawn(async move {
        freed.await;
        let mut state = server.lock();
        state.granted.remove(&prompt.request);
        state.free.extend(blocks);
    });
    Ok(Json(Prefilled { ticket, seeds }))
}

/// Ends the grant of a request: from now on its ticket reads nothing.
async fn cancel(State(server): State<Arc<Server>>, Json(cancel): Json<Cancel>) {
    let grant = server.lock().granted.remove(&cancel.request);
    grant.map(Grant::end);
}

impl Server {
    fn lock(&self) -> std::sync::MutexGuard<'_, Requests> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
