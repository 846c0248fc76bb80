//! Shares are accepted if they hold their descriptors, from local code and from a peer alike.

use crate::sections::{Parts, Section};
use crate::support::{DYNAMO_WRITE, any_metadata, any_share_kind, golden, ipc_handle};
use crate::targets;
use nixl_device::Device;
use nixl_metadata::{
    AgentMetadata, Limits, MetadataError as E, NativeVersion, NotificationKey, OperationKind,
    RdmaMetadata, SerializedDescriptor, Share, ShareKind,
};
use proptest::prelude::*;

fn offer(descriptors: &[(Device, u64, u64)]) -> RdmaMetadata {
    let descriptors = descriptors
        .iter()
        .map(|&(device, ptr, size)| SerializedDescriptor::new(device, ptr, size).unwrap())
        .collect();
    let agent = AgentMetadata::compress(b"agent").unwrap();
    RdmaMetadata::new(OperationKind::Read, descriptors, agent, NotificationKey::random()).unwrap()
}

const fn file(length: u64) -> ShareKind {
    ShareKind::File { pid: 1, fd: 2, name: [3; 16], length }
}

/// What a peer would send that does not check its shares.
fn unchecked(offer: &RdmaMetadata, shares: &[Share]) -> Vec<u8> {
    let mut payload = (shares.len() as u64).to_le_bytes().to_vec();
    for share in shares {
        let run = share.descriptors();
        payload.extend((run.start as u32).to_le_bytes());
        payload.extend((run.len() as u32).to_le_bytes());
        payload.extend(share.offset().to_le_bytes());
        match share.kind() {
            ShareKind::CudaIpc { handle } => {
                payload.extend(0u32.to_le_bytes());
                payload.extend(72u64.to_le_bytes());
                payload.extend(handle);
            }
            ShareKind::File { pid, fd, name, length } => {
                payload.extend(1u32.to_le_bytes());
                payload.extend(pid.to_le_bytes());
                payload.extend(fd.to_le_bytes());
                payload.extend(name);
                payload.extend(length.to_le_bytes());
            }
            _ => unreachable!(),
        }
    }
    let mut parts = Parts::of(offer);
    parts.sections.push(Section { id: 3, flags: 0, content: payload });
    parts.seal()
}

/// Whether the shares keep what their documentation promises, decided in numbers that cannot overflow.
fn holds(offer: &RdmaMetadata, shares: &[Share]) -> bool {
    let descriptors = offer.descriptors();
    let mut free = 0;
    shares.iter().all(|share| {
        let run = share.descriptors();
        let ordered = free <= run.start;
        free = run.end;
        let Some([first, ..]) = descriptors.get(run.clone()) else {
            return false;
        };
        let (kind, length) = match share.kind() {
            ShareKind::CudaIpc { .. } => ("cuda", share.kind().length()),
            ShareKind::File { length, .. } => ("cpu", *length),
            _ => unreachable!(),
        };
        ordered
            && descriptors[run].iter().all(|descriptor| {
                let begin = i128::from(share.offset()) + i128::from(descriptor.ptr())
                    - i128::from(first.ptr());
                descriptor.device() == first.device()
                    && descriptor.device().kind().as_str() == kind
                    && begin >= 0
                    && begin + i128::from(descriptor.size()) <= i128::from(length)
            })
    })
}

/// Few places and devices, so that shares fit often enough; and numbers at the ends.
fn any_offer() -> impl Strategy<Value = RdmaMetadata> {
    let device = prop_oneof![
        4 => Just(Device::HOST),
        4 => Just(Device::cuda(0)),
        3 => Just(Device::cuda(1)),
        1 => Just(Device::xpu(0)),
    ];
    let ptr = prop_oneof![8 => 1..5u64, 1 => (u64::MAX - 8)..(u64::MAX - 4)];
    let size = prop_oneof![8 => 1..4u64, 1 => Just(1u64 << 60)];
    let fits = |&(_, ptr, size): &(Device, u64, u64)| ptr.checked_add(size).is_some();
    let descriptor = (device, ptr, size).prop_filter("wraps around", fits);
    proptest::collection::vec(descriptor, 1..6).prop_map(|list| offer(&list))
}

fn any_share() -> impl Strategy<Value = Share> {
    let offset = prop_oneof![8 => 0..5u64, 1 => (u64::MAX - 5)..=u64::MAX];
    let length = prop_oneof![4 => 1..12u64, 1 => Just(u64::MAX), 1 => any::<u64>()];
    let count = prop_oneof![8 => 0..3usize, 1 => Just(u32::MAX as usize)];
    let parts = (0..6usize, count, offset, length.prop_flat_map(any_share_kind));
    parts.prop_map(|(first, count, offset, kind)| Share::new(first..first + count, kind, offset))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn what_does_not_hold_is_refused_from_every_peer(
        offer in any_offer(),
        shares in proptest::collection::vec(any_share(), 0..3),
    ) {
        let local = offer.clone().with_shares(shares.clone());
        prop_assert_eq!(local.is_ok(), holds(&offer, &shares));
        let received = RdmaMetadata::decode(&unchecked(&offer, &shares));
        prop_assert_eq!(&received, &local);
        targets::check(received, &Limits::default());
    }
}

proptest! {
    #[test]
    fn cut_and_garbled_messages_are_refused_or_hold(
        metadata in any_metadata(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in proptest::option::of(any::<prop::sample::Index>()),
        v3 in any::<bool>(),
    ) {
        let version = if v3 { NativeVersion::V3 } else { NativeVersion::V4 };
        let Ok(message) = metadata.to_native_bytes_as(version) else {
            return Ok(()); // the terms demand claims
        };
        let mut payload = message[16..].to_vec();
        // The last bytes are the shares, which is what is to be hit.
        let tail = payload.len().saturating_sub(600);
        for (at, byte) in damage {
            let at = tail + at.index(payload.len() - tail);
            payload[at] = byte;
        }
        if let Some(cut) = cut {
            payload.truncate(cut.index(payload.len()));
            let cut = RdmaMetadata::decode(&targets::seal(version.to_wire(), &payload));
            // Version 4 may end after each of its sections.
            prop_assert!(cut.is_err() || !v3);
        }
        targets::native(&payload);
    }
}

#[test]
fn every_fault_has_its_error() {
    let offer = offer(&[
        (Device::cuda(0), 1000, 10),
        (Device::cuda(0), 900, 10),
        (Device::cuda(1), 1000, 10),
        (Device::HOST, u64::MAX - 100, 100),
        (Device::xpu(0), 1000, 10),
    ]);
    let ipc = |length| ShareKind::CudaIpc { handle: ipc_handle([1; 64], length) };
    let error = |shares: Vec<Share>| offer.clone().with_shares(shares).unwrap_err();
    let alone = |run, kind, offset| error(vec![Share::new(run, kind, offset)]);

    for run in [0..0, 5..6, 4..6, usize::MAX - 1..usize::MAX] {
        assert_eq!(alone(run, ipc(1 << 20), 0), E::ShareRange { index: 0, count: 5 });
    }
    assert_eq!(alone(0..3, ipc(1 << 20), 500), E::ShareDevice { index: 0, descriptor: 2 });
    assert_eq!(alone(3..4, ipc(1 << 20), 0), E::ShareDevice { index: 0, descriptor: 3 });
    assert_eq!(alone(0..1, file(1 << 20), 0), E::ShareDevice { index: 0, descriptor: 0 });
    assert_eq!(alone(4..5, ipc(1 << 20), 0), E::ShareDevice { index: 0, descriptor: 4 });

    // The second descriptor begins 100 bytes before the first, and the memory with it or not.
    assert_eq!(alone(0..2, ipc(110), 99), E::ShareBounds { index: 0, descriptor: 1 });
    assert_eq!(alone(0..2, ipc(109), 100), E::ShareBounds { index: 0, descriptor: 0 });
    let fits = Share::new(0..2, ipc(110), 100);
    assert_eq!(alone(3..4, file(u64::MAX), u64::MAX), E::ShareBounds { index: 0, descriptor: 3 });
    let last = Share::new(3..4, file(u64::MAX), u64::MAX - 100);
    let good = offer.clone().with_shares(vec![fits.clone(), last.clone()]).unwrap();
    let place = |at| good.share_of(at).map(|(share, place)| (share.clone(), place));
    assert_eq!(place(0), Some((fits.clone(), 100)));
    assert_eq!(place(1), Some((fits.clone(), 0)));
    assert_eq!(place(2), None);
    assert_eq!(place(3), Some((last.clone(), u64::MAX - 100)));

    // What begins beyond all that 64 bits can count does not begin at the start again.
    let beyond = Share::new(0..2, file(u64::MAX), u64::MAX - 5);
    let two = self::offer(&[(Device::HOST, 10, 1), (Device::HOST, 20, 1)]);
    let error_of_two = two.with_shares(vec![beyond]).unwrap_err();
    assert_eq!(error_of_two, E::ShareBounds { index: 0, descriptor: 1 });

    assert_eq!(error(vec![last.clone(), fits.clone()]), E::ShareOrder { index: 1 });
    assert_eq!(error(vec![fits.clone(), fits.clone()]), E::ShareOrder { index: 1 });
    let inner = Share::new(1..2, ipc(110), 0);
    assert_eq!(error(vec![fits.clone(), inner, last]), E::ShareOrder { index: 1 });
    assert_eq!(error(vec![fits; 6]), E::TooManyShares { limit: 5 });
}

#[test]
fn a_flood_of_shares_is_not_unpacked() {
    let offer = offer(&[(Device::HOST, 1, 1)]);
    let share = Share::new(0..1, file(1), 0);
    let message = unchecked(&offer, &vec![share; 100_000]);
    assert_eq!(RdmaMetadata::decode(&message), Err(E::TooManyShares { limit: 1 }));
}

#[test]
fn nothing_of_it_travels_in_the_dynamo_profile() {
    let metadata = golden();
    assert_eq!(metadata.to_dynamo_json(), DYNAMO_WRITE);
    let received = RdmaMetadata::decode(metadata.to_dynamo_json().as_bytes()).unwrap();
    assert_eq!((received.peer(), received.shares()), (None, &[][..]));
}
