//! Offers memory for a peer to write.
//!
//! ```text
//! cargo run --example writable -- --bytes 1048576 | cargo run --example write
//! ```
//!
//! Prints what the peer needs, one line of JSON for each operation, then one line when the peer is done with it.

mod common;

use std::process::ExitCode;

use clap::Parser;
use common::{args, memory, output::Output};
use nixl_connector::Connector;

/// Offers memory for a peer to write
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    offer: args::Offer,
}

fn main() -> ExitCode {
    common::run(writable)
}

async fn writable(Args { offer }: Args) -> common::Result {
    let mut output = Output::new()?;
    let connector = Connector::builder().timeout(offer.common.timeout()).build().await?;
    let sizes = offer.sizes();

    let mut operations = Vec::new();
    for k in 0..offer.count.get() {
        let memory = memory::destination(offer.common.memory, &sizes, offer.common.seed(k.into()))?;
        let local = memory::split(&memory, &sizes)?;
        let operation = connector.create_writable(local).await?;
        output.line(operation.metadata().to_dynamo_json())?;
        operations.push((operation, memory));
    }

    for (mut operation, memory) in operations {
        operation.wait_for_completion().await?;
        output.complete(&memory)?;
    }
    Ok(())
}
