//! Writes into the memory that a peer offers.
//!
//! ```text
//! cargo run --example writable -- --bytes 1048576 | cargo run --example write
//! ```
//!
//! Takes the lines that the peer printed on stdin, and prints one line when each transfer is done.

mod common;

use std::process::ExitCode;

use clap::Parser;
use common::{args, input::Input, memory, output::Output};
use nixl_connector::Connector;

/// Writes into the memory that a peer offers, in the lines of JSON that come on stdin
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    common: args::Common,
}

fn main() -> ExitCode {
    common::run(write)
}

async fn write(Args { common }: Args) -> common::Result {
    let mut input = Input::new(common.timeout())?;
    let mut output = Output::new()?;
    let connector = Connector::builder().timeout(common.timeout()).build().await?;

    let mut k = 0;
    while let Some(remote) = input.next().await? {
        let sizes: Vec<u64> = remote.descriptors().iter().map(|d| d.size()).collect();
        let memory = memory::source(common.memory, &sizes, common.seed(k))?;
        let local = memory::split(&memory, &sizes)?;
        let mut operation = connector.begin_write(local, &remote).await?;
        operation.wait_for_completion().await?;
        output.complete(&memory)?;
        k += 1;
    }
    Ok(())
}
