//! Offers memory for a peer to read.
//!
//! ```text
//! cargo run --example readable -- --bytes 1048576 | cargo run --example read
//! ```
//!
//! Prints what the peer needs, one line of JSON for each operation, then one line when the peer is done with it.

mod common;

use std::process::ExitCode;

use clap::Parser;
use common::{args, memory, output::Output};
use nixl_connector::Connector;

/// Offers memory for a peer to read
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    offer: args::Offer,
}

fn main() -> ExitCode {
    common::run(readable)
}

async fn readable(Args { offer }: Args) -> common::Result {
    let mut output = Output::new()?;
    let connector = Connector::builder().timeout(offer.common.timeout()).build().await?;
    let sizes = offer.sizes();

    let mut operations = Vec::new();
    for k in 0..offer.count.get() {
        let memory = memory::source(offer.common.memory, &sizes, offer.common.seed(k.into()))?;
        let local = memory::split(&memory, &sizes)?;
        let operation = connector.create_readable(local).await?;
        output.line(operation.metadata().to_dynamo_json())?;
        operations.push((operation, memory));
    }

    for (mut operation, memory) in operations {
        operation.wait_for_completion().await?;
        output.complete(&memory)?;
    }
    Ok(())
}
