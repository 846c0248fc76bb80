//! KV-cache blocks of a prefill process, pulled by a decode process: registered once, read by id.
//!
//! ```console
//! $ cargo run --release -p nixl-executor --example kv_pull -- prefill --listen 127.0.0.1:8200
//! $ cargo run --release -p nixl-executor --example kv_pull -- decode --prefill http://127.0.0.1:8200 --requests 1000
//! ```
//!
//! The prefill side exports a cache of one part for each layer and serves three requests over HTTP: what it exports, a ticket
//! for the blocks of a new request, and that a request is cancelled. The decode side reads the blocks into a cache with all
//! layers of a block together, compares every byte, and says that it is done. Some requests are cancelled before they are read:
//! their tickets are stale. If the prefill side is started anew, the decode side imports the new export and goes on.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line program")]

mod cache;
mod decode;
mod http;
mod prefill;

use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
enum Side {
    /// Owns the cache.
    Prefill(prefill::Args),
    /// Reads from it.
    Decode(decode::Args),
}

#[tokio::main]
async fn main() -> ExitCode {
    let ended = match Side::parse() {
        Side::Prefill(args) => prefill::run(args).await,
        Side::Decode(args) => decode::run(args).await,
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
