//! Offers with a W3C trace context, which their initiators are given.

use nixl_connector::OperationOptions;
use nixl_descriptor::Region;
use nixl_metadata::{RdmaMetadata, TraceContext};

use crate::net::net;

#[tokio::test]
async fn an_offer_carries_its_trace_to_its_initiator() {
    let net = net().await;
    let context = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let context: TraceContext = context.parse().unwrap();
    let options = OperationOptions::new().trace_context(context);
    let memory = || Region::zeroed(4096).unwrap();
    let offer = net.target.create_readable_with(memory(), options).await.unwrap();
    let written = net.target.create_writable_with(memory(), options).await.unwrap();
    assert_eq!(written.metadata().trace_context(), Some(context));

    let native = offer.metadata().to_native_bytes().unwrap();
    let remote = RdmaMetadata::decode(&native).unwrap();
    assert_eq!(remote.trace_context(), Some(context));
    net.initiator.begin_read(&remote, memory()).await.unwrap().await.unwrap();
    offer.await.unwrap();

    let plain = net.target.create_readable(memory()).await.unwrap();
    assert_eq!(plain.metadata().trace_context(), None);
}
