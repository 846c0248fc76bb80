//! Tensors of a file of safetensors, read by their names from the memory of another process.
//!
//! ```console
//! $ cargo build --release -p nixl-executor --all-features --examples
//! $ target/release/examples/tensor_server serve --file model.safetensors --listen 127.0.0.1:8500
//! $ target/release/examples/tensor_server read --from http://127.0.0.1:8500 model.embed.weight
//! ```
//!
//! The server exports the memory of the whole file once, as blocks of 4 KiB. For the name of a tensor it grants the blocks of its
//! bytes, by a request of HTTP. The reader reads them into memory of its own and has a tensor there.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line program")]

mod blocks;
#[path = "../common/http.rs"]
mod http;
mod messages;
mod read;
mod serve;

use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
enum Side {
    /// Owns the file's tensors.
    Serve(serve::Serve),
    /// Reads tensors by name.
    Read(read::Read),
}

#[tokio::main]
async fn main() -> ExitCode {
    let ended = match Side::parse() {
        Side::Serve(args) => serve::run(args).await,
        Side::Read(args) => read::run(args).await,
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
