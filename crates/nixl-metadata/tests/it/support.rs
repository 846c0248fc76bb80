//! Valid values to start from.

use std::num::{NonZeroU32, NonZeroU64};
use std::time::{Duration, UNIX_EPOCH};

use nixl_device::Device;
use nixl_metadata::{
    AgentMetadata, Capabilities, Checksum, ClaimDemand, ExportId, ExportMetadata, ExportedInner,
    ExportedKind, ExportedLayout, ExportedPart, HostIdentity, MessageVersions, NotificationKey,
    OfferTerms, OfferWord, OperationKind, PeerDevice, PeerInfo, RdmaMetadata, Rights,
    SerializedDescriptor, Share, ShareKind, SharedFile, SlotAddress, TensorDescription, Ticket,
    TicketTerms, TraceContext, WordsLocation,
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
    without_doorbell().with_slot_address(doorbell(4095, 1 << 63)).unwrap()
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

/// The minimal offer with a trace context.
pub(crate) fn with_trace() -> RdmaMetadata {
    let context = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    minimal().with_trace_context(context.parse().unwrap())
}

/// The minimal offer as a tensor: 2 matrices of 4-bit elements, columns before rows in the owner's memory.
pub(crate) fn with_tensor() -> RdmaMetadata {
    let rows = minimal().total_bytes() / 2;
    let dimensions = vec![(2, 2 * rows), (rows, 1), (2, rows)];
    minimal().with_tensor(TensorDescription::new(17, 4, dimensions).unwrap()).unwrap()
}

/// The minimal offer with a word.
pub(crate) fn with_word() -> RdmaMetadata {
    let word = OfferWord::new(0x7f12_3456_7ff8, 0x0123_4567_89ab_cdef).unwrap();
    minimal().with_word(word).unwrap()
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

pub(crate) fn doorbell(slot: u32, token: u64) -> SlotAddress {
    let length = 8 * SlotAddress::WORDS as u64;
    SlotAddress::new(SharedFile::new(4242, 18, [0x64; 16], length), slot, token)
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
    "[ -~\u{a1}-\u{2fff}]{1,80}".prop_filter("a name", |name| PeerInfo::is_name(name))
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
    any::<[u16; 4]>().prop_map(|[staging, remote_copy, doorbell, claims]| {
        MessageVersions::default()
            .with_staging(staging)
            .with_remote_copy(remote_copy)
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
        "[ -~\u{a1}-\u{ff}]{1,100}".prop_filter("a key", |key| PeerInfo::is_name(key)),
        proptest::option::of(any_peer()),
        proptest::option::of((0..SlotAddress::SLOTS, 1..=u64::MAX)),
        proptest::option::of((any_terms(), 1..=u32::MAX)),
        proptest::option::of(any::<u64>().prop_map(Checksum::xxh3)),
        any::<([u8; 16], [u8; 8], u8, u8)>(),
    )
        .prop_map(
            |(kind, (descriptors, shares), blob, key, peer, place, terms, checksum, trace)| {
                let agent = AgentMetadata::compress(&blob).unwrap();
                let key = NotificationKey::new(&key).unwrap();
                let metadata = RdmaMetadata::new(kind, descriptors, agent, key)
                    .and_then(|metadata| metadata.with_shares(shares))
                    .unwrap();
                let metadata = match place {
                    Some((slot, token)) => {
                        metadata.with_slot_address(doorbell(slot, token)).unwrap()
                    }
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
                    (Some(checksum), OperationKind::Read) => {
                        metadata.with_checksum(checksum).unwrap()
                    }
                    _ => metadata,
                };
                let (trace_id, parent_id, flags, code) = trace;
                let metadata = match TraceContext::new(trace_id, parent_id, flags) {
                    Some(context) if flags & 2 != 0 => metadata.with_trace_context(context),
                    _ => metadata,
                };
                let total = metadata.total_bytes();
                let metadata = match TensorDescription::new(code, 8, vec![(1, 0), (total, 7)]) {
                    Ok(tensor) if flags & 4 != 0 => metadata.with_tensor(tensor).unwrap(),
                    _ => metadata,
                };
                let metadata = match kind {
                    OperationKind::Read if flags & 8 != 0 => {
                        let word = OfferWord::new(8 * (1 + u64::from(code)), total);
                        metadata.with_word(word.unwrap()).unwrap()
                    }
                    _ => metadata,
                };
                match peer {
                    Some(peer) => metadata.with_peer(peer),
                    None => metadata,
                }
            },
        )
}

/// Leave to write blocks whose ids lie at both ends, and are close and far apart.
pub(crate) fn golden_ticket() -> Ticket {
    let terms = TicketTerms {
        export: ExportId::new(0x0123_4567_89ab_cdef),
        layout: 3,
        layers: 2..80,
        rights: Rights::Write,
        slot: 4095,
        generation: (1 << 63) - 2,
        token: *b"0123456789abcdef",
        expires_unix_millis: 1_900_000_000_123,
    };
    Ticket::new(terms, vec![7, 8, 6, 70, 0, u32::MAX, 1, 100_000, 99_000]).unwrap()
}

/// Leave to read one block.
pub(crate) fn minimal_ticket() -> Ticket {
    let terms = TicketTerms {
        export: ExportId::new(1),
        layout: 0,
        layers: 0..1,
        rights: Rights::Read,
        slot: 0,
        generation: 1,
        token: [0; 16],
        expires_unix_millis: 0,
    };
    Ticket::new(terms, vec![0]).unwrap()
}

/// An export of one layout that no other process can open.
pub(crate) fn minimal_export() -> ExportMetadata {
    let metadata = golden_v4();
    let layout = ExportedLayout {
        name: "kv".to_owned(),
        kind: ExportedKind::FullyContiguous,
        blocks: 1,
        layers: 1,
        outer: 1,
        page_size: 1,
        inner: ExportedInner::Elements(512),
        element_width: 2,
        block_stride: 1024,
        device: Device::HOST,
        parts: vec![ExportedPart { address: 0x7f00_0000_1000, len: 1024 }],
    };
    ExportMetadata::new(
        ExportId::new(1),
        metadata.agent_metadata().clone(),
        metadata.peer().unwrap().clone(),
        vec![layout],
        WordsLocation { address: 0x7f00_0000_0000, slots: 1, file: None },
    )
    .unwrap()
}

/// An export with all that there is.
pub(crate) fn golden_export() -> ExportMetadata {
    let minimal = minimal_export();
    let full = ExportedLayout {
        name: "full".to_owned(),
        kind: ExportedKind::OuterFirst,
        blocks: 4,
        layers: 3,
        outer: 2,
        page_size: 16,
        inner: ExportedInner::Heads { heads: 8, head_size: 128 },
        element_width: 2,
        block_stride: 32_768,
        device: Device::cuda(3),
        parts: (1..4).map(|layer| ExportedPart { address: layer << 32, len: 262_144 }).collect(),
    };
    let mut state = minimal.layouts()[0].clone();
    state.name = "état".to_owned();
    let window = ExportedLayout {
        name: "window".to_owned(),
        kind: ExportedKind::BlockFirst,
        device: Device::HOST,
        parts: vec![
            ExportedPart { address: 0x7f00_1000_0000, len: 1 << 20 },
            ExportedPart { address: 0x7f00_2000_0000, len: 1 << 20 },
        ],
        layers: 2,
        ..full.clone()
    };
    let name = *b"words of grants!";
    let words = WordsLocation {
        address: 0x7f00_0000_2000,
        slots: 4096,
        file: Some(SharedFile::new(4242, 20, name, 131_072)),
    };
    let file = ShareKind::File { pid: 4243, fd: 17, name: [0x6b; 16], length: 1 << 30 };
    let shares = vec![
        Share::new(0..3, ShareKind::CudaIpc { handle: ipc_handle([0xa5; 64], 3 << 32) }, 4096),
        Share::new(4..6, file, 8192),
    ];
    ExportMetadata::new(
        ExportId::new(0x0123_4567_89ab_cdef),
        minimal.agent_metadata().clone(),
        minimal.peer().clone(),
        vec![full, state, window],
        words,
    )
    .and_then(|export| export.with_shares(shares))
    .and_then(|export| export.with_claims(SharedFile::new(4242, 21, [0x63; 16], 32_768)))
    .unwrap()
}

/// The full export with the tensors of two of its layouts' blocks.
pub(crate) fn export_with_tensors() -> ExportMetadata {
    let strided = |sizes: &[u64]| {
        let mut stride = 1;
        let mut dimensions: Vec<_> = sizes
            .iter()
            .rev()
            .map(|&size| {
                let here = stride;
                stride *= size;
                (size, here)
            })
            .collect();
        dimensions.reverse();
        dimensions
    };
    // bfloat16, and FP8 in pairs of bytes.
    let full = TensorDescription::new(4, 16, strided(&[3, 2, 16, 8, 128])).unwrap();
    let window = TensorDescription::new(10, 8, strided(&[2, 2, 16, 8, 256])).unwrap();
    golden_export().with_tensors(vec![(0, full), (2, window)]).unwrap()
}

pub(crate) fn any_ticket() -> impl Strategy<Value = Ticket> {
    let id = prop_oneof![4 => 0..2000u32, 1 => any::<u32>(), 1 => (u32::MAX - 9)..=u32::MAX];
    let blocks = proptest::collection::hash_set(id, 1..300);
    let layers = (any::<u16>(), any::<u16>()).prop_filter("no layers", |(start, end)| start < end);
    let rights = prop_oneof![Just(Rights::Read), Just(Rights::Write)];
    let numbers = any::<(u64, u16, u32, u64, [u8; 16], u64, bool)>();
    (blocks, layers, rights, numbers).prop_map(|(blocks, (start, end), rights, numbers)| {
        let (export, layout, slot, generation, token, expires_unix_millis, unfilled) = numbers;
        let terms = TicketTerms {
            export: ExportId::new(export),
            layout,
            layers: start..end,
            rights,
            slot,
            generation,
            token,
            expires_unix_millis,
        };
        let blocks: Vec<_> = blocks.into_iter().collect();
        match unfilled && rights == Rights::Read {
            true => Ticket::new_unfilled(terms, blocks).unwrap(),
            false => Ticket::new(terms, blocks).unwrap(),
        }
    })
}

fn any_part() -> impl Strategy<Value = ExportedPart> {
    (1..=1u64 << 61, 1..=1u64 << 40).prop_map(|(address, len)| ExportedPart { address, len })
}

fn any_layout() -> impl Strategy<Value = ExportedLayout> {
    let kind = prop_oneof![
        Just(ExportedKind::FullyContiguous),
        Just(ExportedKind::BlockFirst),
        Just(ExportedKind::OuterFirst),
    ];
    let inner = prop_oneof![
        (1..=u64::MAX, 1..=u64::MAX)
            .prop_map(|(heads, head_size)| ExportedInner::Heads { heads, head_size }),
        (1..=u64::MAX).prop_map(ExportedInner::Elements),
    ];
    let shape = (1..=1u64 << 32, 1..=u8::MAX, 1..=u64::MAX, 1..=u8::MAX, 1..=u64::MAX);
    (any_name(), kind, inner, shape, any_device(), proptest::collection::vec(any_part(), 1..30))
        .prop_map(|(name, kind, inner, shape, device, mut parts)| {
            let layers = parts.len() as u16;
            if kind == ExportedKind::FullyContiguous {
                parts.truncate(1);
            }
            let (blocks, outer, page_size, element_width, block_stride) = shape;
            ExportedLayout {
                name: name.chars().take(20).collect(),
                kind,
                blocks,
                layers,
                outer,
                page_size,
                inner,
                element_width,
                block_stride,
                device,
                parts,
            }
        })
}

fn any_file(least: u64) -> impl Strategy<Value = SharedFile> {
    any::<(u32, u32, [u8; 16])>().prop_flat_map(move |(pid, fd, name)| {
        (least..=u64::MAX).prop_map(move |length| SharedFile::new(pid, fd, name, length))
    })
}

fn any_words() -> impl Strategy<Value = (WordsLocation, Option<SharedFile>)> {
    (1..=u32::MAX, 1..1u64 << 60).prop_flat_map(|(slots, address)| {
        let file = proptest::option::of(any_file(32 * u64::from(slots)));
        let claims = proptest::option::of(any_file(8 * 4096));
        (file, claims).prop_map(move |(file, claims)| {
            (WordsLocation { address: 8 * address, slots, file }, claims)
        })
    })
}

pub(crate) fn any_export() -> impl Strategy<Value = ExportMetadata> {
    let layouts = proptest::collection::vec((any_layout(), any::<bool>()), 1..8);
    let blob = proptest::collection::vec(any::<u8>(), 1..2000);
    (any::<u64>(), blob, any_peer(), layouts, any_words()).prop_map(
        |(export, blob, peer, layouts, (words, claims))| {
            let (mut named, mut shares, mut at) = (Vec::<ExportedLayout>::new(), Vec::new(), 0);
            for (mut layout, shared) in layouts {
                if named.iter().any(|other| other.name == layout.name) {
                    layout.name = format!("{}", named.len());
                }
                let run = at..at + layout.parts.len();
                at = run.end;
                // Addresses are below 2^61, so any two are closer than the first is to either end of the shared memory.
                let kind = match layout.device {
                    Device::HOST => {
                        ShareKind::File { pid: 1, fd: 2, name: [3; 16], length: u64::MAX }
                    }
                    _ => ShareKind::CudaIpc { handle: ipc_handle([4; 64], u64::MAX) },
                };
                if shared && layout.device.kind().as_str() != "xpu" {
                    shares.push(Share::new(run, kind, 1 << 62));
                }
                named.push(layout);
            }
            let agent = AgentMetadata::compress(&blob).unwrap();
            let export = ExportMetadata::new(ExportId::new(export), agent, peer, named, words)
                .and_then(|export| export.with_shares(shares))
                .unwrap();
            match claims {
                Some(claims) => export.with_claims(claims).unwrap(),
                None => export,
            }
        },
    )
}
