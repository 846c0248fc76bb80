//! Valid values to start from.

use std::num::{NonZeroU32, NonZeroU64};
use std::time::{Duration, UNIX_EPOCH};

use nixl_device::Device;
use nixl_metadata::{
    AgentMetadata, Capabilities, Checksum, ClaimDemand, Doorbell, HostIdentity, MessageVersions,
    NotificationKey, OfferTerms, OperationKind, PeerDevice, PeerInfo, RdmaMetadata,
    SerializedDescriptor, Share, ShareKind,
};
use proptest::prelude::*;

/// What Dynamo's `nixl_connect` 1.6.1 printed; `data/make_dynamo.py` says how.
pub(crate) const DYNAMO_READ: &str = include_str!("data/dynamo_read.json");
pub(crate) const DYNAMO_WRITE: &str = include_str!("data/dynamo_write.json");
pub(crate) const DYNAMO_WRITE_HEX: &str = include_str!("data/dynamo_write_hex.json");
/// The agent metadata in them, before compression.
pub(crate) const BLOB: &[u8] = include_bytes!("data/blob.bin");

/// The golden values are those of `dynamo_write.json`, with a peer, a doorbell and shares.
pub(crate) fn golden() -> RdmaMetadata {
    without_doorbell().with_doorbell(doorbell(4095, 1 << 63)).unwrap()
}

/// The golden values and what version 4 adds to them.
pub(crate) fn golden_v4() -> RdmaMetadata {
    let metadata = golden();
    let versions = MessageVersions::default().with_staging(3).with_doorbell(2).with_claims(1);
    let peer = metadata.peer().unwrap().clone().with_versions(versions);
    let expires = UNIX_EPOCH + Duration::from_millis(1_795_878_000_123);
    let terms = OfferTerms::new(expires, NonZeroU64::new(0xfeed_f00d_dead_beef).unwrap())
        .unwrap()
        .with_made_unix_millis(1_795_877_400_123);
    metadata.with_peer(peer).with_terms(terms.with_claims(ClaimDemand::SameHost)).unwrap()
}

/// An offer of `dynamo_read.json` alone.
pub(crate) fn minimal() -> RdmaMetadata {
    RdmaMetadata::from_dynamo_json(DYNAMO_READ.as_bytes()).unwrap()
}

/// The minimal offer with a checksum.
pub(crate) fn with_checksum() -> RdmaMetadata {
    minimal().with_checksum(Checksum::xxh3(0x0123_4567_89ab_cdef)).unwrap()
}

/// The golden values as far as version 3 is still written.
pub(crate) fn without_doorbell() -> RdmaMetadata {
    let host = HostIdentity::new("node-7", "3f0c9d52-7f5e-4f43-8a0e-8c7d1a0b6f11", 4242)
        .unwrap()
        .with_pid_namespace(NonZeroU64::new(4_026_531_836))
        .with_ipc_namespace(NonZeroU64::new(1 << 40));
    let devices = [
        PeerDevice::cuda(3).with_uuid(*b"0123456789abcdef").with_gpu_direct(true),
        PeerDevice::cuda(0),
    ];
    let peer = PeerInfo::new("worker-1", 0x0011_2233_4455_6677_8899_aabb_ccdd_eeff, host)
        .unwrap()
        .with_transports(["nixl", "tcp"])
        .unwrap()
        .with_devices(devices)
        .unwrap()
        .with_capabilities(
            Capabilities::default().with_staging(true).with_ipc(false).with_shared_memory(true),
        );
    let handle = ipc_handle([0xa5; 64], (1 << 30) + 4096);
    let shares = vec![
        Share::new(0..1, ShareKind::CudaIpc { handle }, 4096),
        Share::new(
            2..3,
            ShareKind::File { pid: 4243, fd: 17, name: [0x6b; 16], length: (1 << 62) + 8 },
            8,
        ),
    ];
    RdmaMetadata::from_dynamo_json(DYNAMO_WRITE.as_bytes())
        .unwrap()
        .with_peer(peer)
        .with_shares(shares)
        .unwrap()
}

pub(crate) fn doorbell(slot: u32, token: u64) -> Doorbell {
    let length = 8 * Doorbell::WORDS as u64;
    Doorbell { pid: 4242, fd: 18, name: [0x64; 16], length, slot, token }
}

/// A handle as `nixl-device` writes it.
pub(crate) fn ipc_handle(bytes: [u8; 64], length: u64) -> [u8; 72] {
    let mut handle = [0; 72];
    handle[..64].copy_from_slice(&bytes);
    handle[64..].copy_from_slice(&length.to_le_bytes());
    handle
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

pub(crate) fn any_host() -> impl Strategy<Value = HostIdentity> {
    // Small numbers, so that two are often equal.
    let inode = || {
        prop_oneof![
            4 => (0..3u64).prop_map(NonZeroU64::new),
            1 => any::<u64>().prop_map(NonZeroU64::new),
        ]
    };
    let boot = prop_oneof![2 => "[ab]?", 1 => any_name()];
    let pid = prop_oneof![2 => 0..3u32, 1 => any::<u32>()];
    (any_name(), boot, pid, inode(), inode()).prop_map(|(name, boot, pid, pids, ipcs)| {
        HostIdentity::new(name, boot, pid)
            .unwrap()
            .with_pid_namespace(pids)
            .with_ipc_namespace(ipcs)
    })
}

fn any_devices() -> impl Strategy<Value = Vec<PeerDevice>> {
    let uuid = prop_oneof![Just([0; 16]), any::<[u8; 16]>()];
    let devices = proptest::collection::btree_map(
        any::<u32>(),
        (uuid, any::<bool>()),
        0..=PeerInfo::MAX_DEVICES,
    );
    devices.prop_map(|devices| {
        let device = |(ordinal, (uuid, direct))| {
            PeerDevice::cuda(ordinal).with_uuid(uuid).with_gpu_direct(direct)
        };
        devices.into_iter().map(device).collect()
    })
}

fn any_peer() -> impl Strategy<Value = PeerInfo> {
    let transports = proptest::collection::vec(any_name(), 0..=PeerInfo::MAX_TRANSPORTS);
    let capabilities = any::<[bool; 3]>().prop_map(|[staging, ipc, shared_memory]| {
        Capabilities::default()
            .with_staging(staging)
            .with_ipc(ipc)
            .with_shared_memory(shared_memory)
    });
    let parts = (
        any_name(),
        any::<u128>(),
        any_host(),
        transports,
        capabilities,
        any_devices(),
        any_versions(),
    );
    parts.prop_map(|(name, incarnation, host, transports, capabilities, devices, versions)| {
        PeerInfo::new(name, incarnation, host)
            .and_then(|peer| peer.with_transports(transports))
            .and_then(|peer| peer.with_devices(devices))
            .unwrap()
            .with_capabilities(capabilities)
            .with_versions(versions)
    })
}

fn any_versions() -> impl Strategy<Value = MessageVersions> {
    any::<[u16; 4]>().prop_map(|[staging, lending, doorbell, claims]| {
        MessageVersions::default()
            .with_staging(staging)
            .with_lending(lending)
            .with_doorbell(doorbell)
            .with_claims(claims)
    })
}

/// Terms of an offer for one initiator.
pub(crate) fn any_terms() -> impl Strategy<Value = OfferTerms> {
    let claims = [ClaimDemand::WhereMapped, ClaimDemand::SameHost, ClaimDemand::Everywhere];
    let millis = 1..=1u64 << 45; // in a thousand years
    (millis, any::<u64>(), 1..=u64::MAX, prop::sample::select(claims.to_vec())).prop_map(
        |(millis, made, token, claims)| {
            let expires = UNIX_EPOCH + Duration::from_millis(millis);
            OfferTerms::new(expires, NonZeroU64::new(token).unwrap())
                .unwrap()
                .with_made_unix_millis(made)
                .with_claims(claims)
        },
    )
}

/// Descriptors that lie in one shared memory, in any order, and how it is shared once they are in a list.
type Run = (Vec<SerializedDescriptor>, Option<(ShareKind, u64)>);

pub(crate) fn any_share_kind(length: u64) -> impl Strategy<Value = ShareKind> {
    prop_oneof![
        any::<[u8; 32]>().prop_map(move |bytes| {
            let mut all = [0; 64];
            all[16..48].copy_from_slice(&bytes);
            ShareKind::CudaIpc { handle: ipc_handle(all, length) }
        }),
        any::<([u32; 2], [u8; 16])>().prop_map(move |([pid, fd], name)| ShareKind::File {
            pid,
            fd,
            name,
            length
        }),
    ]
}

fn any_run() -> impl Strategy<Value = Run> {
    let places = proptest::collection::vec((0..1u64 << 40, 1..=1u64 << 20), 1..20);
    // How far into the shared memory the owner has mapped it, and how much of it lies behind what is offered.
    let before = prop_oneof![0..3u64, 0..1u64 << 62];
    let behind = prop_oneof![0..2u64, 0..1u64 << 62];
    let mapped_at = prop_oneof![1..3u64, 1..1u64 << 62];
    (places, before, behind, mapped_at, any::<u32>())
        .prop_flat_map(|(places, before, behind, mapped_at, ordinal)| {
            let end = places.iter().map(|(at, size)| at + size).max().unwrap();
            let kind = any_share_kind(before + end + behind);
            (Just(places), Just(before), Just(mapped_at), Just(ordinal), kind)
        })
        .prop_map(|(places, before, mapped_at, ordinal, kind)| {
            let device = match kind {
                ShareKind::CudaIpc { .. } => Device::cuda(ordinal),
                _ => Device::HOST,
            };
            let offset = before + places[0].0;
            let descriptor =
                |(at, size)| SerializedDescriptor::new(device, mapped_at + at, size).unwrap();
            (places.into_iter().map(descriptor).collect(), Some((kind, offset)))
        })
}

fn any_runs() -> impl Strategy<Value = (Vec<SerializedDescriptor>, Vec<Share>)> {
    let unshared = proptest::collection::vec(any_descriptor(), 1..20).prop_map(|run| (run, None));
    let runs = proptest::collection::vec(prop_oneof![unshared, any_run()], 1..6);
    runs.prop_map(|runs| {
        let (mut descriptors, mut shares) = (Vec::new(), Vec::new());
        for (run, share) in runs {
            let first = descriptors.len();
            descriptors.extend(run);
            if let Some((kind, offset)) = share {
                shares.push(Share::new(first..descriptors.len(), kind, offset));
            }
        }
        (descriptors, shares)
    })
}

pub(crate) fn any_metadata() -> impl Strategy<Value = RdmaMetadata> {
    (
        prop_oneof![Just(OperationKind::Read), Just(OperationKind::Write)],
        any_runs(),
        proptest::collection::vec(any::<u8>(), 1..2000),
        "[ -~\u{a1}-\u{ff}]{1,100}",
        proptest::option::of(any_peer()),
        proptest::option::of((0..Doorbell::SLOTS, 1..=u64::MAX)),
        proptest::option::of((any_terms(), 1..=u32::MAX)),
        proptest::option::of(any::<u64>().prop_map(Checksum::xxh3)),
    )
        .prop_map(|(kind, (descriptors, shares), blob, key, peer, place, terms, checksum)| {
            let agent = AgentMetadata::compress(&blob).unwrap();
            let key = NotificationKey::new(&key).unwrap();
            let metadata = RdmaMetadata::new(kind, descriptors, agent, key)
                .and_then(|metadata| metadata.with_shares(shares))
                .unwrap();
            let metadata = match place {
                Some((slot, token)) => metadata.with_doorbell(doorbell(slot, token)).unwrap(),
                None => metadata,
            };
            let metadata = match (terms, kind) {
                (Some((terms, readers)), OperationKind::Read) => {
                    let readers = NonZeroU32::new(readers).unwrap();
                    metadata.with_terms(terms.with_readers(readers)).unwrap()
                }
                (Some((terms, _)), OperationKind::Write) => metadata.with_terms(terms).unwrap(),
                (None, _) => metadata,
            };
            let metadata = match (checksum, kind) {
                (Some(checksum), OperationKind::Read) => metadata.with_checksum(checksum).unwrap(),
                _ => metadata,
            };
            match peer {
                Some(peer) => metadata.with_peer(peer),
                None => metadata,
            }
        })
}
