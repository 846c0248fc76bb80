//! Valid values to start from.

use nixl_device::Device;
use nixl_metadata::{
    AgentMetadata, Capabilities, HostIdentity, NotificationKey, OperationKind, PeerInfo,
    RdmaMetadata, SerializedDescriptor,
};
use proptest::prelude::*;

/// What Dynamo's `nixl_connect` 1.6.1 printed; `data/make_dynamo.py` says how.
pub(crate) const DYNAMO_READ: &str = include_str!("data/dynamo_read.json");
pub(crate) const DYNAMO_WRITE: &str = include_str!("data/dynamo_write.json");
pub(crate) const DYNAMO_WRITE_HEX: &str = include_str!("data/dynamo_write_hex.json");
/// The agent metadata in them, before compression.
pub(crate) const BLOB: &[u8] = include_bytes!("data/blob.bin");

/// The golden values are those of `dynamo_write.json`, with a peer.
pub(crate) fn golden() -> RdmaMetadata {
    let host = HostIdentity::new("node-7", "3f0c9d52-7f5e-4f43-8a0e-8c7d1a0b6f11", 4242);
    let peer = PeerInfo::new("worker-1", 0x0011_2233_4455_6677_8899_aabb_ccdd_eeff, host.unwrap())
        .unwrap()
        .with_transports(["nixl", "tcp"])
        .unwrap()
        .with_capabilities(Capabilities::default().with_staging(true));
    RdmaMetadata::from_dynamo_json(DYNAMO_WRITE.as_bytes()).unwrap().with_peer(peer)
}

pub(crate) fn any_device() -> impl Strategy<Value = Device> {
    prop_oneof![
        Just(Device::HOST),
        any::<u32>().prop_map(Device::cuda),
        any::<u32>().prop_map(Device::xpu),
    ]
}

fn any_descriptor() -> impl Strategy<Value = SerializedDescriptor> {
    let small = 1..=1u64 << 40;
    let range = (1..=u64::MAX - (1 << 40), small.clone()).prop_union((1..=u64::MAX >> 1, small));
    (any_device(), range)
        .prop_map(|(device, (ptr, size))| SerializedDescriptor::new(device, ptr, size).unwrap())
}

fn any_name() -> impl Strategy<Value = String> {
    "[ -~\u{a1}-\u{2fff}]{1,80}"
}

fn any_peer() -> impl Strategy<Value = PeerInfo> {
    let host = (any_name(), any_name(), any::<u32>())
        .prop_map(|(name, boot, pid)| HostIdentity::new(name, boot, pid).unwrap());
    let transports = proptest::collection::vec(any_name(), 0..=PeerInfo::MAX_TRANSPORTS);
    let capabilities = (any::<bool>(), any::<bool>())
        .prop_map(|(staging, ipc)| Capabilities::default().with_staging(staging).with_ipc(ipc));
    (any_name(), any::<u128>(), host, transports, capabilities).prop_map(
        |(name, incarnation, host, transports, capabilities)| {
            PeerInfo::new(name, incarnation, host)
                .and_then(|peer| peer.with_transports(transports))
                .unwrap()
                .with_capabilities(capabilities)
        },
    )
}

pub(crate) fn any_metadata() -> impl Strategy<Value = RdmaMetadata> {
    (
        prop_oneof![Just(OperationKind::Read), Just(OperationKind::Write)],
        proptest::collection::vec(any_descriptor(), 1..100),
        proptest::collection::vec(any::<u8>(), 1..2000),
        "[ -~\u{a1}-\u{ff}]{1,100}",
        proptest::option::of(any_peer()),
    )
        .prop_map(|(kind, descriptors, blob, key, peer)| {
            let agent = AgentMetadata::compress(&blob).unwrap();
            let key = NotificationKey::new(&key).unwrap();
            let metadata = RdmaMetadata::new(kind, descriptors, agent, key).unwrap();
            match peer {
                Some(peer) => metadata.with_peer(peer),
                None => metadata,
            }
        })
}
