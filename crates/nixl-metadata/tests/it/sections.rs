//! Sections of version 4: those of later releases, and faulty ones.

use crate::support::{
    any_metadata, golden, golden_v4, minimal, with_checksum, with_tensor, with_trace, with_word,
};
use crate::targets;
use nixl_metadata::{Field, Limits, MessageVersions, MetadataError as E, RdmaMetadata};
use proptest::prelude::*;

const PEER: u16 = 1;
const VERSIONS: u16 = 2;
const SHARES: u16 = 3;
const DOORBELL: u16 = 4;
const TERMS: u16 = 5;
const CHECKSUM: u16 = 6;
const TRACE_CONTEXT: u16 = 10;
const TENSOR: u16 = 11;
const OFFER_WORD: u16 = 13;
const FIRST_UNKNOWN: u16 = 14;

/// The parts of a message of version 4.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) core: Vec<u8>,
    pub(crate) sections: Vec<Section>,
}

#[derive(Clone, Debug)]
pub(crate) struct Section {
    pub(crate) id: u16,
    pub(crate) flags: u16,
    pub(crate) content: Vec<u8>,
}

impl Parts {
    pub(crate) fn of(metadata: &RdmaMetadata) -> Self {
        Self::of_message(&metadata.to_native_bytes().unwrap())
    }

    /// The parts of an encoded message with a core and sections.
    pub(crate) fn of_message(message: &[u8]) -> Self {
        let mut rest = &message[16..];
        let mut take = |count: usize| {
            let (taken, left) = rest.split_at(count);
            rest = left;
            (taken, left.is_empty())
        };
        let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |all, &b| all << 8 | usize::from(b));
        let len = number(take(4).0);
        let (core, mut end) = take(len);
        let mut parts = Self { core: core.to_vec(), sections: Vec::new() };
        while !end {
            let header = take(8).0;
            let (content, last) = take(number(&header[4..]));
            parts.sections.push(Section {
                id: u16::from_le_bytes([header[0], header[1]]),
                flags: u16::from_le_bytes([header[2], header[3]]),
                content: content.to_vec(),
            });
            end = last;
        }
        parts
    }

    pub(crate) fn section(&mut self, id: u16) -> &mut Section {
        self.sections.iter_mut().find(|section| section.id == id).unwrap()
    }

    pub(crate) fn payload(&self) -> Vec<u8> {
        let mut payload = (self.core.len() as u32).to_le_bytes().to_vec();
        payload.extend(&self.core);
        for section in &self.sections {
            payload.extend(section.id.to_le_bytes());
            payload.extend(section.flags.to_le_bytes());
            payload.extend((section.content.len() as u32).to_le_bytes());
            payload.extend(&section.content);
        }
        payload
    }

    pub(crate) fn seal(&self) -> Vec<u8> {
        targets::seal(4, &self.payload())
    }

    fn decode(&self) -> Result<RdmaMetadata, E> {
        RdmaMetadata::decode(&self.seal())
    }
}

/// The error after a change of the golden message.
fn changed(change: impl FnOnce(&mut Parts)) -> E {
    let mut parts = Parts::of(&golden_v4());
    change(&mut parts);
    parts.decode().unwrap_err()
}

/// Sections that this release does not know, no two alike, and where each goes.
fn any_unknown() -> impl Strategy<Value = Vec<(Section, prop::sample::Index)>> {
    let content = proptest::collection::vec(any::<u8>(), 0..100);
    let parts = (any::<u16>(), content, any::<prop::sample::Index>());
    proptest::collection::btree_map(FIRST_UNKNOWN..=u16::MAX, parts, 1..20).prop_map(|sections| {
        let section =
            |(id, (flags, content, place))| (Section { id, flags: flags & !1, content }, place);
        sections.into_iter().map(section).collect()
    })
}

proptest! {
    #[test]
    fn optional_sections_of_the_future_are_skipped_anywhere(
        metadata in any_metadata(),
        unknown in any_unknown(),
        turned in any::<prop::sample::Index>(),
    ) {
        let mut parts = Parts::of(&metadata);
        for (section, place) in unknown {
            parts.sections.insert(place.index(parts.sections.len() + 1), section);
        }
        let turned = turned.index(parts.sections.len());
        parts.sections.rotate_left(turned);
        prop_assert_eq!(parts.decode(), Ok(metadata));
    }

    #[test]
    fn required_sections_of_the_future_are_refused_by_id(
        metadata in any_metadata(),
        mut unknown in any_unknown(),
        required in any::<prop::sample::Index>(),
    ) {
        let required = required.index(unknown.len());
        unknown[required].0.flags |= 1;
        let id = unknown[required].0.id;
        let mut parts = Parts::of(&metadata);
        for (section, place) in unknown {
            parts.sections.insert(place.index(parts.sections.len() + 1), section);
        }
        prop_assert_eq!(parts.decode(), Err(E::UnknownSection { id }));
    }

    #[test]
    fn versions_of_kinds_of_the_future_are_skipped(
        metadata in any_metadata(),
        unknown in proptest::collection::btree_map(5..=u16::MAX, any::<u16>(), 0..50),
    ) {
        let mut parts = Parts::of(&metadata);
        if metadata.peer().is_some() {
            let content = &mut parts.section(VERSIONS).content;
            for (kind, version) in unknown {
                content.extend(kind.to_le_bytes());
                content.extend(version.to_le_bytes());
            }
        }
        prop_assert_eq!(parts.decode(), Ok(metadata));
    }

    #[test]
    fn garbled_sections_are_refused_or_hold(
        metadata in any_metadata(),
        unknown in any_unknown(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let mut parts = Parts::of(&metadata);
        for (section, place) in unknown {
            parts.sections.insert(place.index(parts.sections.len() + 1), section);
        }
        let mut payload = parts.payload();
        // The core is longer than all else, and damaged by other tests.
        let start = 4 + parts.core.len();
        for (at, byte) in damage {
            let at = start + at.index(payload.len() - start);
            payload[at] = byte;
        }
        if let Some(cut) = cut {
            payload.truncate(start + cut.index(payload.len() - start));
        }
        targets::check(RdmaMetadata::decode(&targets::seal(4, &payload)), &Limits::default());
    }
}

#[test]
fn sections_are_required_or_not_as_documented() {
    let flags: Vec<_> = Parts::of(&golden_v4())
        .sections
        .iter()
        .map(|section| (section.id, section.flags))
        .collect();
    assert_eq!(flags, [(PEER, 0), (VERSIONS, 0), (SHARES, 0), (DOORBELL, 0), (TERMS, 1)]);
    assert!(Parts::of(&minimal()).sections.is_empty());

    // The bit is for readers that do not know the section.
    let mut parts = Parts::of(&golden_v4());
    for section in &mut parts.sections {
        section.flags ^= 1;
    }
    assert_eq!(parts.decode(), Ok(golden_v4()));
}

#[test]
fn frames_that_are_faulty() {
    let unknown = |id| Section { id, flags: 0, content: vec![7; 3] };
    for id in [PEER, VERSIONS, SHARES, DOORBELL, TERMS] {
        let error = changed(|parts| {
            let again = parts.section(id).clone();
            parts.sections.push(again);
        });
        assert_eq!(error, E::DuplicateField { field: Field::Section(id) });
        for flags in [1 << 1, 1 << 15 | 1] {
            let error = changed(|parts| parts.section(id).flags = flags);
            assert_eq!(error, E::UnsupportedSectionFlags { id, flags });
        }
    }
    let twice = changed(|parts| parts.sections.extend([unknown(900), unknown(900)]));
    assert_eq!(twice, E::DuplicateField { field: Field::Section(900) });

    let open = |payload: &[u8]| RdmaMetadata::decode(&targets::seal(4, payload));
    let good = Parts::of(&golden_v4()).payload();
    for (len, claimed) in [(29u8, 30u8), (29, 255)] {
        let mut bad = good.clone();
        let at = bad.len() - 29 - 4;
        assert_eq!(bad[at], len);
        bad[at] = claimed;
        let error = E::SectionOverrun { id: TERMS, len: claimed.into(), left: len.into() };
        assert_eq!(open(&bad), Err(error));
    }
    for more in 1..8 {
        let bad = [&good[..], &[0; 7][..more]].concat();
        assert_eq!(open(&bad), Err(E::Truncated { field: Field::Payload }));
    }

    let flooded = |count: u16| {
        let mut parts = Parts::of(&minimal());
        parts.sections.extend((0..count).map(|id| unknown(1000 + id)));
        parts.decode()
    };
    assert_eq!(flooded(64), Ok(minimal()));
    assert_eq!(flooded(65), Err(E::TooManySections { limit: 64 }));
}

#[test]
fn cores_that_are_too_short_or_too_long() {
    let open = |payload: &[u8]| RdmaMetadata::decode(&targets::seal(4, payload));
    let field = Field::Core;
    let good = Parts::of(&minimal()).payload();
    for cut in 0..good.len() {
        assert_eq!(open(&good[..cut]), Err(E::Truncated { field }), "{cut}");
    }
    for len in 0..good.len() as u32 - 4 {
        let mut parts = Parts::of(&minimal());
        parts.core.truncate(len as usize);
        assert_eq!(parts.decode(), Err(E::Truncated { field }), "{len}");
    }
    assert_eq!(changed(|parts| parts.core.push(0)), E::TrailingBytes { field });
    assert_eq!(changed(|parts| parts.core[0] = 3), E::WrongKind { value: 3 });
    let bomb = (1u64 << 40).to_le_bytes();
    for at in [1, 45, 1 + 8 + 36 + 8 + 3 * 21] {
        let error = changed(|parts| parts.core[at..at + 8].copy_from_slice(&bomb));
        assert_eq!(error, E::Truncated { field }, "{at}");
    }
}

#[test]
fn contents_that_are_too_short_or_too_long() {
    for id in [PEER, SHARES, DOORBELL, TERMS] {
        let field = Field::Section(id);
        let len = Parts::of(&golden_v4()).section(id).content.len();
        for cut in 0..len {
            let error = changed(|parts| parts.section(id).content.truncate(cut));
            assert_eq!(error, E::Truncated { field }, "{cut}");
        }
        let error = changed(|parts| parts.section(id).content.push(0));
        assert_eq!(error, E::TrailingBytes { field });
    }
    let field = Field::Section(VERSIONS);
    for cut in [1, 2, 3, 5, 15] {
        let error = changed(|parts| parts.section(VERSIONS).content.truncate(cut));
        assert_eq!(error, E::Truncated { field });
    }
    assert_eq!(
        E::TrailingBytes { field }.to_string(),
        "section 2 (message versions) is followed by other bytes: pass on exactly one message, as it was encoded"
    );
}

#[test]
fn contents_that_are_faulty() {
    let with = |id: u16, at: usize, bytes: &[u8]| {
        changed(|parts| parts.section(id).content[at..at + bytes.len()].copy_from_slice(bytes))
    };
    assert_eq!(with(PEER, 8, b"\n"), E::BadName { field: Field::AgentName });
    assert_eq!(with(SHARES, 0, &[4]), E::Truncated { field: Field::Section(SHARES) });
    assert_eq!(with(SHARES, 8, &[3]), E::ShareRange { index: 0, count: 3 });
    assert_eq!(with(DOORBELL, 32, &[0, 16]), E::BadSlotAddress { slot: 4096 });
    assert_eq!(with(VERSIONS, 4, &[1]), E::MessageVersionOrder { kind: 1 });
    assert_eq!(with(VERSIONS, 8, &[1]), E::MessageVersionOrder { kind: 1 });
    assert_eq!(with(VERSIONS, 12, &[3]), E::MessageVersionOrder { kind: 3 });
    assert_eq!(with(TERMS, 0, &[0; 8]), E::BadExpiry);
    assert_eq!(with(TERMS, 16, &[0; 4]), E::NoReaders);
    assert_eq!(with(TERMS, 16, &[2]), E::ReadersOfWritable { readers: 2 });
    assert_eq!(with(TERMS, 20, &[3]), E::UnknownClaimDemand { value: 3 });
    assert_eq!(with(TERMS, 21, &[0; 8]), E::NoToken);
}

#[test]
fn parts_that_a_peer_leaves_out() {
    let without = |ids: &[u16]| {
        let mut parts = Parts::of(&golden_v4());
        parts.sections.retain(|section| !ids.contains(&section.id));
        parts.decode().unwrap()
    };
    let versions = |metadata: &RdmaMetadata| metadata.peer().map(|peer| peer.versions());
    assert_eq!(versions(&without(&[VERSIONS])), Some(MessageVersions::default()));
    assert_eq!(without(&[VERSIONS, TERMS]), golden());
    // A later release may describe its peer otherwise.
    assert_eq!(without(&[PEER]).peer(), None);

    // A kind that is not stated where others are is not spoken.
    let mut parts = Parts::of(&golden_v4());
    parts.section(VERSIONS).content.drain(..4);
    let stated = versions(&parts.decode().unwrap()).unwrap();
    assert_eq!([stated.staging(), stated.remote_copy()], [0, 1]);
    assert_eq!([stated.doorbell(), stated.claims()], [2, 1]);
}

#[test]
fn checksums_that_are_faulty() {
    let good = Parts::of(&with_checksum());
    let [section] = &good.sections[..] else { panic!("{:?}", good.sections) };
    assert_eq!((section.id, section.flags, section.content.len()), (CHECKSUM, 0, 10));
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut parts = good.clone();
        change(&mut parts.section(CHECKSUM).content);
        parts.decode().unwrap_err()
    };
    let field = Field::Section(CHECKSUM);
    for cut in 0..10 {
        assert_eq!(with(&|content| content.truncate(cut)), E::Truncated { field }, "{cut}");
    }
    assert_eq!(with(&|content| content.push(0)), E::TrailingBytes { field });
    for algorithm in [0, 2, u16::MAX] {
        let error = with(&|content| content[..2].copy_from_slice(&algorithm.to_le_bytes()));
        assert_eq!(error, E::UnknownChecksum { algorithm });
    }
    let mut parts = good.clone();
    parts.sections.push(section.clone());
    assert_eq!(parts.decode(), Err(E::DuplicateField { field }));
    let error = changed(|parts| parts.sections.push(section.clone()));
    assert_eq!(error, E::ChecksumOfWritable);
    // A release that does not know it skips it.
    let mut parts = good.clone();
    parts.section(CHECKSUM).id = FIRST_UNKNOWN;
    assert_eq!(parts.decode(), Ok(minimal()));
}

#[test]
fn trace_contexts_that_are_faulty_are_ignored() {
    let good = Parts::of(&with_trace());
    let [section] = &good.sections[..] else { panic!("{:?}", good.sections) };
    assert_eq!((section.id, section.flags, section.content.len()), (TRACE_CONTEXT, 0, 25));
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut parts = good.clone();
        change(&mut parts.section(TRACE_CONTEXT).content);
        parts.decode()
    };
    for cut in 0..25 {
        assert_eq!(with(&|content| content.truncate(cut)), Ok(minimal()), "{cut}");
    }
    assert_eq!(with(&|content| content.push(0)), Ok(minimal()));
    assert_eq!(with(&|content| content.resize(100_000, 1)), Ok(minimal()));
    assert_eq!(with(&|content| content[..16].fill(0)), Ok(minimal()), "no trace");
    assert_eq!(with(&|content| content[16..24].fill(0)), Ok(minimal()), "no parent");
    // Flags of later levels are dropped.
    assert_eq!(with(&|content| content[24] = 0xff), Ok(with_trace()));
    // The frame is checked as any other.
    let mut parts = good.clone();
    parts.sections.push(section.clone());
    let field = Field::Section(TRACE_CONTEXT);
    assert_eq!(parts.decode(), Err(E::DuplicateField { field }));
    // A release that does not know it skips it.
    let mut parts = good.clone();
    parts.section(TRACE_CONTEXT).id = FIRST_UNKNOWN;
    assert_eq!(parts.decode(), Ok(minimal()));
}

#[test]
fn words_at_impossible_addresses_and_of_writable_offers_are_refused() {
    let good = Parts::of(&with_word());
    let [section] = &good.sections[..] else { panic!("{:?}", good.sections) };
    assert_eq!((section.id, section.flags, section.content.len()), (OFFER_WORD, 0, 16));
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut parts = good.clone();
        change(&mut parts.section(OFFER_WORD).content);
        parts.decode()
    };
    let field = Field::Section(OFFER_WORD);
    for cut in 0..16 {
        assert_eq!(with(&|content| content.truncate(cut)), Err(E::Truncated { field }), "{cut}");
    }
    assert_eq!(with(&|content| content.push(0)), Err(E::TrailingBytes { field }));
    for address in [0, 1, 0x7f00_0000_0004, u64::MAX - 7, u64::MAX] {
        let error = with(&|content| content[..8].copy_from_slice(&address.to_le_bytes()));
        assert!(matches!(error, Err(E::BadOfferWord { .. })), "{address:#x}: {error:?}");
    }
    assert!(with(&|content| content[8..].fill(0)).is_ok(), "any number is one");
    let error = changed(|parts| parts.sections.push(section.clone()));
    assert!(matches!(error, E::BadOfferWord { .. }), "{error}");
    let mut parts = good.clone();
    parts.sections.push(section.clone());
    assert_eq!(parts.decode(), Err(E::DuplicateField { field }));
    // A release that does not know it skips it.
    let mut parts = good.clone();
    parts.section(OFFER_WORD).id = FIRST_UNKNOWN;
    assert_eq!(parts.decode(), Ok(minimal()));
}

#[test]
fn tensors_that_do_not_fit_their_bytes_are_refused() {
    let good = Parts::of(&with_tensor());
    let [section] = &good.sections[..] else { panic!("{:?}", good.sections) };
    let len = 1 + 1 + 8 + 3 * 16;
    assert_eq!((section.id, section.flags, section.content.len()), (TENSOR, 0, len));
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut parts = good.clone();
        change(&mut parts.section(TENSOR).content);
        parts.decode()
    };
    let field = Field::Section(TENSOR);
    for cut in 0..len {
        assert_eq!(with(&|content| content.truncate(cut)), Err(E::Truncated { field }), "{cut}");
    }
    assert_eq!(with(&|content| content.push(0)), Err(E::TrailingBytes { field }));
    let size = |axis: usize, size: u64| {
        let at = 10 + axis * 16;
        with(&|content| content[at..at + 8].copy_from_slice(&size.to_le_bytes()))
    };
    let offered = minimal().total_bytes();
    let described = offered / 2;
    assert_eq!(size(0, 1), Err(E::TensorBytes { described, offered }));
    assert_eq!(size(1, 0), Err(E::TensorSize { axis: 1, size: 0 }));
    assert_eq!(size(2, u64::MAX), Err(E::TensorSize { axis: 2, size: u64::MAX }));
    assert_eq!(with(&|content| content[1] = 0), Err(E::TensorBits { bits: 0, total: 0 }));
    assert_eq!(
        with(&|content| content[1] = 8),
        Err(E::TensorBytes { described: 2 * offered, offered })
    );
    // The codes are DLPack's, and strides are the owner's.
    assert!(with(&|content| content[0] = 0xff).is_ok());
    assert!(with(&|content| content[18..26].fill(0xff)).is_ok());

    let rank = |rank: usize| {
        with(&|content| {
            *content = [&[17u8, 4][..], &(rank as u64).to_le_bytes()].concat();
            content.extend([1u64, 0].map(u64::to_le_bytes).concat().repeat(rank));
        })
    };
    assert_eq!(rank(64), Err(E::TensorBits { bits: 4, total: 4 }));
    assert_eq!(rank(65), Err(E::TensorRank { limit: 64 }));
    assert_eq!(rank(100_000), Err(E::TensorRank { limit: 64 }));
    let claimed =
        |count: u64| with(&|content| content[2..10].copy_from_slice(&count.to_le_bytes()));
    assert_eq!(claimed(1 << 40), Err(E::Truncated { field }));

    let mut parts = good.clone();
    parts.sections.push(section.clone());
    assert_eq!(parts.decode(), Err(E::DuplicateField { field }));
    // A release that does not know it skips it.
    let mut parts = good.clone();
    parts.section(TENSOR).id = FIRST_UNKNOWN;
    assert_eq!(parts.decode(), Ok(minimal()));
}
