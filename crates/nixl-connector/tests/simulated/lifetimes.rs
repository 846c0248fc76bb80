//! Offers and grants without an end.

use std::time::{Duration, UNIX_EPOCH};

use nixl_connector::OperationOptions;
use nixl_descriptor::Region;
use nixl_metadata::RdmaMetadata;

use crate::net::net;

#[tokio::test]
async fn an_offer_may_live_as_long_as_is_counted() {
    let net = net().await;
    let memory = || Region::zeroed(4096).unwrap();
    for life in
        [Duration::MAX, Duration::from_secs(i64::MAX as u64), Duration::from_millis(u64::MAX)]
    {
        let options = OperationOptions::new().life_time(life).timeout(life);
        let read = net.target.create_readable_with(memory(), options).await.unwrap();
        let written = net.target.create_writable_with(memory(), options).await.unwrap();
        for metadata in [read.metadata(), written.metadata()] {
            let native = metadata.to_native_bytes().unwrap();
            let terms = *RdmaMetadata::decode(&native).unwrap().terms().unwrap();
            assert_eq!(terms.expires_unix_millis().get(), u64::MAX);
            assert!(terms.expires() > UNIX_EPOCH);
        }
        net.initiator.begin_read(read.metadata(), memory()).await.unwrap().await.unwrap();
        net.initiator.begin_write(memory(), written.metadata()).await.unwrap().await.unwrap();
        read.await.unwrap();
        written.await.unwrap();
    }
}
