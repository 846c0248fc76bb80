//! Fewer pairs, the same bytes.

use nixl_descriptor::{Descriptor, PairError, Region, Span, coalesce_pairs};
use nixl_device::Device;
use proptest::prelude::*;

const LEN: usize = 64;

/// One pair: a local region and range, and where the remote side begins and on which device.
type Pair = (usize, usize, usize, u64, u32);

fn pairs() -> impl Strategy<Value = Vec<Pair>> {
    // Steps of eight bytes, so that neighbours are frequent; every other pair continues the one before.
    let pair = (0..2usize, 0..7usize, 1..3usize, 0..12u64, 0..2u32, any::<bool>());
    proptest::collection::vec(pair, 0..12).prop_map(|raw| {
        let mut pairs: Vec<Pair> = Vec::new();
        for (region, start, len, address, gpu, follow) in raw {
            let (mut region, mut start, len) = (region, start * 8, (len * 8).min(LEN - start * 8));
            let (mut address, mut gpu) = (address * 8, gpu);
            if let Some(last) = pairs.last().filter(|last| follow && last.1 + last.2 + len <= LEN) {
                (region, start, address, gpu) =
                    (last.0, last.1 + last.2, last.3 + last.2 as u64, last.4);
            }
            pairs.push((region, start, len, address, gpu));
        }
        pairs
    })
}

fn build(regions: &[Region], pairs: &[Pair]) -> (Vec<Descriptor>, Vec<Span>) {
    pairs
        .iter()
        .map(|&(region, start, len, address, gpu)| {
            let local = regions[region].descriptor(start..start + len).unwrap();
            (local, Span { address, len: len as u64, device: Device::cuda(gpu) })
        })
        .unzip()
}

/// Every byte moved, in order.
fn bytes<'a>(pairs: impl IntoIterator<Item = (Span, &'a Span)>) -> Vec<(u64, u64, Device)> {
    pairs
        .into_iter()
        .flat_map(|(here, there)| {
            assert_eq!(here.len, there.len);
            (0..here.len).map(move |i| (here.address + i, there.address + i, there.device))
        })
        .collect()
}

fn regions() -> [Region; 2] {
    // Two regions of one allocation, hence neighbours in memory: they must still not be merged.
    let mut first = bytes::BytesMut::zeroed(2 * LEN);
    let second = first.split_off(LEN);
    [first.try_into().unwrap(), second.try_into().unwrap()]
}

fn region_of(regions: &[Region], span: &Span) -> Option<usize> {
    let inside = |r: &Region| {
        span.address >= r.address() && span.address + span.len <= r.address() + r.len() as u64
    };
    regions.iter().position(inside)
}

proptest! {
    #[test]
    fn the_same_bytes_move_in_the_same_order(pairs in pairs(), barrier in 0..12u64) {
        let regions = regions();
        let (local, remote) = build(&regions, &pairs);
        let barrier = barrier * 8;
        let may_merge = |first: &Span, second: &Span| {
            assert_eq!(first.address + first.len, second.address);
            second.address != barrier
        };
        let merged = coalesce_pairs(&local, &remote, may_merge).unwrap();

        let before = bytes(local.iter().map(Span::from).zip(&remote));
        prop_assert_eq!(bytes(merged.iter().map(|(here, there)| (*here, there))), before);
        prop_assert!(merged.len() <= local.len());

        // Inside one region each, and not across what the caller forbids.
        let mut again = Vec::new();
        for (here, there) in &merged {
            let region = region_of(&regions, here);
            prop_assert!(region.is_some(), "{here:?} crosses regions");
            let start = (here.address - regions[region.unwrap()].address()) as usize;
            again.push((regions[region.unwrap()].descriptor(start..start + here.len as usize).unwrap(), *there));
            let across = |span: &Span| span.address < barrier && barrier < span.address + span.len;
            prop_assert!(!across(there) || remote.iter().any(across));
        }

        // Nothing is left to merge.
        let (local, remote): (Vec<_>, Vec<_>) = again.into_iter().unzip();
        prop_assert_eq!(coalesce_pairs(&local, &remote, may_merge).unwrap(), merged);
    }

    #[test]
    fn without_consent_nothing_merges(pairs in pairs()) {
        let (local, remote) = build(&regions(), &pairs);
        let merged = coalesce_pairs(&local, &remote, |_, _| false).unwrap();
        prop_assert_eq!(merged.len(), pairs.len());
    }

    #[test]
    fn contiguous_pairs_become_one(cuts in proptest::collection::btree_set(1..LEN, 0..10)) {
        let region = Region::zeroed(LEN).unwrap();
        let ends = cuts.iter().copied().chain([LEN]);
        let starts = [0].into_iter().chain(cuts.iter().copied());
        let (local, remote): (Vec<_>, Vec<_>) = starts
            .zip(ends)
            .map(|(start, end)| {
                let there = Span { address: 1000 + start as u64, len: (end - start) as u64, device: Device::HOST };
                (region.descriptor(start..end).unwrap(), there)
            })
            .unzip();
        let whole = (
            Span { address: region.address(), len: LEN as u64, device: Device::HOST },
            Span { address: 1000, len: LEN as u64, device: Device::HOST },
        );
        prop_assert_eq!(coalesce_pairs(&local, &remote, |_, _| true).unwrap(), vec![whole]);
    }
}

#[test]
fn neighbours_in_different_regions_stay_apart() {
    let [first, second] = regions();
    assert_eq!(first.address() + LEN as u64, second.address());
    let remote =
        [0, LEN as u64].map(|address| Span { address, len: LEN as u64, device: Device::HOST });
    let merged = coalesce_pairs(&[first.whole(), second.whole()], remote, |_, _| true).unwrap();
    assert_eq!(merged.len(), 2);
}

#[test]
fn remote_ranges_that_would_wrap_do_not_merge() {
    let region = Region::zeroed(16).unwrap();
    let local = [region.descriptor(..8).unwrap(), region.descriptor(8..).unwrap()];
    let remote = [u64::MAX - 3, 4].map(|address| Span { address, len: 8, device: Device::HOST });
    assert_eq!(coalesce_pairs(&local, remote, |_, _| true).unwrap().len(), 2);
}

#[test]
fn what_does_not_pair_is_refused() {
    let local = [Region::zeroed(16).unwrap().whole()];
    let there = Span { address: 0, len: 15, device: Device::HOST };
    assert_eq!(
        coalesce_pairs(&local, [] as [Span; 0], |_, _| true),
        Err(PairError::Count { local: 1, remote: 0 })
    );
    assert_eq!(
        coalesce_pairs(&local, [there], |_, _| true),
        Err(PairError::Length { index: 0, local: 16, remote: 15 })
    );
}
