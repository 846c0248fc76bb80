//! KV-cache blocks of a prefill process, pulled by a decode process: registered once, read by id.
//!
//! ```console
//! $ cargo build --release -p nixl-executor --all-features --example kv_pull
//! $ target/release/examples/kv_pull hub --channel tcp
//! $ target/release/examples/kv_pull prefill --channel tcp
//! $ target/release/examples/kv_pull decode --channel tcp --requests 1000
//! ```
//!
//! The prefill side exports a cache of one part for each layer, publishes what it exports under its name, and takes two requests:
//! for a ticket for the blocks of a new request, and that a request is cancelled. The decode side reads the blocks into a cache
//! with all layers of a block together, compares every byte, and says that it is done. Some requests are cancelled before they
//! are read: their tickets are stale. If the prefill side is started anew, the decode side imports the new export and goes on.
//!
//! Both sides meet on a channel: `--channel http`, `tcp`, `nats` or `etcd`, at the usual address of its server on this host or
//! at another (`--at`). HTTP and TCP have the server `hub` of this program, NATS (`nats-server --jetstream`) and etcd have their
//! own. While the server is down, reads go on, and requests wait for it.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line program")]

mod cache;
mod channel;
mod decode;
mod messages;
mod prefill;

use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
enum Side {
    /// Serves a channel over HTTP or TCP.
    Hub(channel::Place),
    /// Owns the cache.
    Prefill(prefill::Args),
    /// Reads from it.
    Decode(decode::Args),
}

#[tokio::main]
async fn main() -> ExitCode {
    let ended = match Side::parse() {
        Side::Hub(args) => args.serve().await,
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
