//! Findings of a program that is linked with `nixl-connector`, in one line each, and one transfer over
//! the simulated transport.
#![allow(clippy::print_stdout, reason = "stdout is its interface")]

use std::error::Error;
use std::sync::Arc;

use nixl_connector::Connector;
use nixl_connector::simulated::Fabric;
use nixl_descriptor::Region;
use nixl_metadata::RdmaMetadata;
use nixl_ops::SystemClock;
use nixl_tests::pattern;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    match Connector::builder().build().await {
        Ok(connector) => println!("nixl: {}", connector.name()),
        Err(error) => println!("nixl: error {error:?}\nadvice: {error}"),
    }
    match nixl_device::cuda::probe() {
        Ok(driver) => println!("cuda: {driver:?}"),
        Err(error) => println!("cuda: error {error:?}"),
    }

    let fabric = Fabric::new(Arc::new(SystemClock::new()));
    let source = Connector::builder().transport(fabric.transport("source")).build().await?;
    let sink = Connector::builder().transport(fabric.transport("sink")).build().await?;
    let bytes = pattern(1, 1 << 20);
    let mut offered = source.create_readable(Region::try_from(bytes.clone())?).await?;
    let remote = RdmaMetadata::decode(offered.metadata().to_dynamo_json().as_bytes())?;
    let local = Region::zeroed(bytes.len())?;
    let mut read = sink.begin_read(&remote, local.clone()).await?;
    read.wait_for_completion().await?;
    offered.wait_for_completion().await?;
    println!("simulated: {}", if local.to_vec()? == bytes { "verified" } else { "wrong bytes" });
    Ok(())
}
