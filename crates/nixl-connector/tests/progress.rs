//! Agents without a progress thread, or with one that spins.
#![cfg(feature = "nixl")]
#![allow(clippy::unwrap_used, reason = "a test says so by failing")]

use std::time::Duration;

use nixl_connector::Connector;
use nixl_connector::nixl::NixlOptions;
use nixl_descriptor::Region;

#[test]
fn bytes_arrive_however_the_target_makes_progress() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let tcp = || NixlOptions::new().transports(["tcp", "self"]);
        for target in [tcp().no_progress_thread(), tcp().progress_delay(Duration::ZERO)] {
            let target = Connector::builder().nixl(target).build().await.unwrap();
            let initiator = Connector::builder().nixl(tcp()).build().await.unwrap();
            let bytes: Vec<u8> = (0..1_u32 << 18).flat_map(u32::to_le_bytes).collect();
            let mut offer =
                target.create_readable(Region::try_from(bytes.clone()).unwrap()).await.unwrap();
            let local = Region::zeroed(bytes.len()).unwrap();
            let mut read = initiator.begin_read(offer.metadata(), local.clone()).await.unwrap();
            read.wait_for_completion().await.unwrap();
            offer.wait_for_completion().await.unwrap();
            assert!(local.to_vec().unwrap() == bytes, "the bytes read are wrong");
        }
    });
}
