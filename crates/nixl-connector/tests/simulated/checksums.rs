//! Offers with a checksum: damaged bytes are found, and reads of whole ones complete.

use std::num::NonZeroU32;

use nixl_connector::simulated::Fault;
use nixl_connector::{
    Completion, ConnectorError, OperationError, OperationOptions, TransportError,
};
use nixl_descriptor::{Descriptor, DescriptorList, Region};
use nixl_metadata::{NativeVersion, RdmaMetadata};
use proptest::prelude::*;
use xxhash_rust::xxh3::xxh3_64;

use crate::net::net;
use crate::side::pattern;

/// Inline, on the connection's thread in one turn, and in several.
const LENGTHS: [usize; 4] = [1, 64 << 10, (64 << 10) + 1, (20 << 20) + 3];

fn options() -> OperationOptions {
    OperationOptions::new().checksum(true)
}

/// A list of the region's bytes but some between its descriptors.
fn apart(region: &Region, lengths: &[usize]) -> DescriptorList {
    let mut at = 0;
    let mut descriptor = |len: &usize| {
        let descriptor = region.descriptor(at..at + len).unwrap();
        at += len + 1;
        descriptor
    };
    DescriptorList::try_from(lengths.iter().map(&mut descriptor).collect::<Vec<_>>()).unwrap()
}

fn bytes_of(list: &DescriptorList) -> Vec<u8> {
    let bytes = |d: &Descriptor| {
        let mut bytes = vec![0; d.len()];
        d.region().copy_to_slice(d.offset(), &mut bytes).unwrap();
        bytes
    };
    list.iter().flat_map(bytes).collect()
}

#[tokio::test]
async fn whole_bytes_are_accepted_and_damaged_ones_are_not() {
    let net = net().await;
    for len in LENGTHS {
        let source = Region::try_from(pattern(len)).unwrap();
        let readers = NonZeroU32::new(4).unwrap();
        let offered = net.target.create_readable_with(source, options().readers(readers)).await;
        let mut offer = offered.unwrap();
        let checksum = offer.metadata().checksum().unwrap();
        assert_eq!(checksum.value(), xxh3_64(&pattern(len)));
        for at in [None, Some(0), Some(len / 2), Some(len - 1)] {
            let remote = RdmaMetadata::decode(&offer.metadata().to_native_bytes().unwrap());
            let local = Region::zeroed(len).unwrap();
            net.fabric.faults().next(at.map(|at| Fault::FlipsBit { at: at as u64 }));
            let begun = net.initiator.begin_read(&remote.unwrap(), local.clone()).await;
            let mut read = begun.unwrap();
            let ended = read.wait_for_completion().await;
            let is_verified = |done: &Completion| done.path().unwrap().has_verified_checksum();
            assert!(ended.as_ref().is_ok_and(is_verified) == at.is_none());
            let ended = ended.map(|completion| completion.bytes());
            let arrived = local.to_vec().unwrap();
            let Some(at) = at else {
                assert_eq!(ended, Ok(len as u64));
                assert_eq!(arrived, pattern(len));
                continue;
            };
            let corrupted = TransportError::Corrupted { bytes: len as u64 };
            assert_eq!(ended, Err(OperationError::Transport(corrupted)), "byte {at} of {len}");
            assert!(read.reclaim().await.memory.is_some());
            let mut expected = pattern(len);
            expected[at] ^= 1;
            assert_eq!(arrived, expected);
        }
        offer.wait_for_completion().await.unwrap();
    }
}

#[tokio::test]
async fn an_offer_without_a_checksum_is_read_as_it_arrives() {
    let net = net().await;
    let offer = |options: OperationOptions| {
        let source = Region::try_from(pattern(100)).unwrap();
        net.target.create_readable_with(source, options)
    };
    let plain = offer(OperationOptions::new()).await.unwrap();
    assert_eq!(plain.metadata().checksum(), None);
    // Forms that carry none.
    let (old, json) = (offer(options()).await.unwrap(), offer(options()).await.unwrap());
    let old = old.metadata().to_native_bytes_as(NativeVersion::V3).unwrap();
    let json = json.metadata().to_dynamo_json().into_bytes();
    for form in [plain.metadata().to_native_bytes().unwrap(), old, json] {
        let local = Region::zeroed(100).unwrap();
        net.fabric.faults().next([Fault::FlipsBit { at: 7 }]);
        let remote = RdmaMetadata::decode(&form).unwrap();
        let demanding = net.initiator.begin_read_with(&remote, local.clone(), options()).await;
        assert_eq!(demanding.unwrap_err(), ConnectorError::NoChecksum);
        let mut read = net.initiator.begin_read(&remote, local.clone()).await.unwrap();
        let done = read.wait_for_completion().await.unwrap();
        assert!(!done.path().unwrap().has_verified_checksum());
        assert_ne!(local.to_vec().unwrap(), pattern(100));
    }
}

#[tokio::test]
async fn a_writable_offer_is_refused() {
    let net = net().await;
    let memory = Region::zeroed(64).unwrap();
    let refused = net.target.create_writable_with(memory, options()).await.unwrap_err();
    assert_eq!(refused, ConnectorError::ChecksumOfWritable);
}

#[tokio::test]
async fn a_write_that_demands_a_checksum_is_refused() {
    let net = net().await;
    let offer = net.target.create_writable(Region::zeroed(64).unwrap()).await.unwrap();
    let source = Region::zeroed(64).unwrap();
    let write = net.initiator.begin_write_with(source, offer.metadata(), options()).await;
    assert_eq!(write.unwrap_err(), ConnectorError::NoChecksum);
}

#[tokio::test]
async fn a_read_that_is_given_up_gives_its_memory_back() {
    let net = net().await;
    let len = 16 << 20;
    for _ in 0..3 {
        let source = Region::try_from(pattern(len)).unwrap();
        let offer = net.target.create_readable_with(source, options()).await.unwrap();
        let local = Region::zeroed(len).unwrap();
        let mut read = net.initiator.begin_read(offer.metadata(), local.clone()).await.unwrap();
        // Wherever it is then.
        tokio::task::yield_now().await;
        let _ = read.cancel();
        assert!(read.reclaim().await.memory.is_some());
        local.copy_from_slice(0, &[1]).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn lists_of_any_lengths_are_verified(
        lengths in proptest::collection::vec(1..300usize, 1..300),
        at in any::<prop::sample::Index>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let net = net().await;
            let all = lengths.iter().map(|len| len + 1).sum();
            let source = apart(&Region::try_from(pattern(all)).unwrap(), &lengths);
            let bytes = bytes_of(&source);
            for at in [None, Some(at.index(bytes.len()) as u64)] {
                let source = source.clone();
                let offer = net.target.create_readable_with(source, options()).await.unwrap();
                let remote = offer.metadata();
                assert_eq!(remote.checksum().unwrap().value(), xxh3_64(&bytes));
                let local = apart(&Region::zeroed(all).unwrap(), &lengths);
                net.fabric.faults().next(at.map(|at| Fault::FlipsBit { at }));
                let mut read = net.initiator.begin_read(remote, local.clone()).await.unwrap();
                let ended = read.wait_for_completion().await.map(|completion| completion.bytes());
                let corrupted = TransportError::Corrupted { bytes: bytes.len() as u64 };
                match at {
                    None => assert_eq!(ended, Ok(bytes.len() as u64)),
                    Some(_) => assert_eq!(ended, Err(OperationError::Transport(corrupted))),
                }
                assert_eq!(bytes_of(&local) == bytes, at.is_none());
            }
        });
    }
}
