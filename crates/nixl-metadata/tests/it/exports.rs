//! Exports are accepted if what they say holds, from local code and from a peer alike.

use crate::sections::{Parts, Section};
use crate::support::{any_export, export_with_tensors, golden_export, golden_v4, minimal_export};
use crate::targets;
use nixl_device::Device;
use nixl_metadata::{
    ExportMetadata, ExportedInner, ExportedKind, ExportedLayout, ExportedPart, Field, Limits,
    MetadataError as E, RdmaMetadata, Share, ShareKind, SharedFile, WordsLocation,
};
use proptest::prelude::*;

const PEER: u16 = 1;
const VERSIONS: u16 = 2;
const SHARES: u16 = 3;
const TERMS: u16 = 5;
const LAYOUTS: u16 = 7;
const WORDS: u16 = 8;
const CLAIMS: u16 = 9;
const LAYOUT_TENSORS: u16 = 12;

fn parts(export: &ExportMetadata) -> Parts {
    Parts::of_message(&export.encode().unwrap())
}

fn decode(parts: &Parts) -> Result<ExportMetadata, E> {
    ExportMetadata::decode(&targets::seal_as(*b"\x89NXE", 1, &parts.payload()))
}

/// The error after a change of the golden message.
fn changed(change: impl FnOnce(&mut Parts)) -> E {
    let mut parts = parts(&golden_export());
    change(&mut parts);
    decode(&parts).unwrap_err()
}

fn with_layouts(layouts: Vec<ExportedLayout>) -> Result<ExportMetadata, E> {
    let export = minimal_export();
    ExportMetadata::new(
        export.export(),
        export.agent_metadata().clone(),
        export.peer().clone(),
        layouts,
        *export.words(),
    )
}

fn with_words(words: WordsLocation) -> Result<ExportMetadata, E> {
    let export = minimal_export();
    ExportMetadata::new(
        export.export(),
        export.agent_metadata().clone(),
        export.peer().clone(),
        export.layouts().to_vec(),
        words,
    )
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(export in any_export()) {
        targets::check_export(&export);
        let encoded = export.encode().unwrap();
        let decoded = ExportMetadata::decode(&encoded).unwrap();
        prop_assert_eq!(&decoded, &export);
        prop_assert_eq!(decoded.encode(), Ok(encoded));
    }

    #[test]
    fn sections_of_the_future_are_skipped_or_refused(
        export in any_export(),
        id in LAYOUT_TENSORS + 1..=u16::MAX,
        flags in any::<u16>(),
        content in proptest::collection::vec(any::<u8>(), 0..50),
        place in any::<prop::sample::Index>(),
    ) {
        let mut parts = parts(&export);
        let place = place.index(parts.sections.len() + 1);
        parts.sections.insert(place, Section { id, flags, content });
        let expected = if flags & 1 == 0 { Ok(export) } else { Err(E::UnknownSection { id }) };
        prop_assert_eq!(decode(&parts), expected);
    }

    #[test]
    fn garbled_payloads_are_refused_or_hold(
        export in any_export(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let parts = parts(&export);
        let mut payload = parts.payload();
        let start = 4 + parts.core.len();
        for (at, byte) in damage {
            let at = start + at.index(payload.len() - start);
            payload[at] = byte;
        }
        if let Some(cut) = cut {
            payload.truncate(start + cut.index(payload.len() - start));
        }
        targets::export(&payload);
    }
}

fn resized(file: SharedFile, length: u64) -> SharedFile {
    SharedFile::new(file.pid(), file.fd(), file.name(), length)
}

#[test]
fn every_truncation_and_every_flipped_bit_is_noticed() {
    let good = golden_export().encode().unwrap();
    for cut in 0..good.len() {
        assert!(ExportMetadata::decode(&good[..cut]).is_err(), "{cut}");
    }
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(ExportMetadata::decode(&bad).is_err(), "bit {bit}");
    }
    let more = [&good[..], b"x"].concat();
    let field = Field::Document;
    assert_eq!(ExportMetadata::decode(&more), Err(E::TrailingBytes { field }));
}

#[test]
fn offers_and_exports_are_told_apart() {
    let (offer, export) = ("the metadata of an offer", "the metadata of an export");
    let encoded = golden_export().encode().unwrap();
    let error = E::OtherMessage { found: export, expected: offer };
    assert_eq!(RdmaMetadata::decode(&encoded), Err(error.clone()));
    assert_eq!(RdmaMetadata::from_native_bytes(&encoded), Err(error));
    let error = E::OtherMessage { found: offer, expected: export };
    let encoded = golden_v4().to_native_bytes().unwrap();
    assert_eq!(ExportMetadata::decode(&encoded), Err(error));
    assert_eq!(ExportMetadata::decode(b"{}"), Err(E::BadMagic));
    for version in [0, 2, 3, 4] {
        let sealed = targets::seal_as(*b"\x89NXE", version, &parts(&golden_export()).payload());
        assert_eq!(ExportMetadata::decode(&sealed), Err(E::UnsupportedVersion { version }));
    }
}

#[test]
fn sections_are_required_or_not_as_documented() {
    let flags = |export: &ExportMetadata| -> Vec<_> {
        parts(export).sections.iter().map(|section| (section.id, section.flags)).collect()
    };
    let required = [(PEER, 1), (VERSIONS, 0), (LAYOUTS, 1), (WORDS, 1)];
    assert_eq!(flags(&minimal_export()), required);
    let all = [(PEER, 1), (VERSIONS, 0), (SHARES, 0), (LAYOUTS, 1), (WORDS, 1), (CLAIMS, 0)];
    assert_eq!(flags(&golden_export()), all);

    for id in [PEER, LAYOUTS, WORDS] {
        let error = changed(|parts| parts.sections.retain(|section| section.id != id));
        assert_eq!(error, E::MissingField { field: Field::Section(id) });
    }
    for id in [PEER, SHARES, LAYOUTS, WORDS, CLAIMS] {
        let field = Field::Section(id);
        let error = changed(|parts| parts.section(id).content.push(0));
        assert_eq!(error, E::TrailingBytes { field });
        for cut in 0..parts(&golden_export()).section(id).content.len() {
            let error = changed(|parts| parts.section(id).content.truncate(cut));
            assert_eq!(error, E::Truncated { field }, "{id} {cut}");
        }
    }
    // What an offer has and an export has not is as unknown as a section of a later release.
    let terms = Section { id: TERMS, flags: 1, content: Vec::new() };
    let error = changed(|parts| parts.sections.push(terms));
    assert_eq!(error, E::UnknownSection { id: TERMS });
    assert_eq!(
        E::MissingField { field: Field::Section(LAYOUTS) }.to_string(),
        "section 7 (layouts) is missing: the peer has to send it"
    );
}

#[test]
fn layouts_that_are_faulty() {
    let good = golden_export().layouts()[0].clone();
    let changed = |change: &dyn Fn(&mut ExportedLayout)| {
        let mut layout = good.clone();
        change(&mut layout);
        with_layouts(vec![minimal_export().layouts()[0].clone(), layout]).map(|_| ())
    };
    assert_eq!(changed(&|_| ()), Ok(()));
    let layout = 1;
    let zero = |dimension| Err(E::ZeroDimension { layout, dimension });
    assert_eq!(changed(&|l| l.blocks = 0), zero("blocks"));
    assert_eq!(changed(&|l| l.layers = 0), zero("layers"));
    assert_eq!(changed(&|l| l.outer = 0), zero("outer"));
    assert_eq!(changed(&|l| l.page_size = 0), zero("page_size"));
    assert_eq!(changed(&|l| l.inner = ExportedInner::Elements(0)), zero("inner"));
    let heads = |heads, head_size| ExportedInner::Heads { heads, head_size };
    assert_eq!(changed(&|l| l.inner = heads(0, 1)), zero("heads"));
    assert_eq!(changed(&|l| l.inner = heads(1, 0)), zero("inner"));
    assert_eq!(changed(&|l| l.element_width = 0), zero("element_width"));
    assert_eq!(changed(&|l| l.block_stride = 0), zero("block_stride"));
    assert_eq!(changed(&|l| l.blocks = 1 << 32), Ok(()));
    let blocks = (1 << 32) + 1;
    assert_eq!(changed(&|l| l.blocks = blocks), Err(E::LayoutBlocks { layout, blocks }));
    assert_eq!(
        changed(&|l| l.parts.truncate(2)),
        Err(E::LayoutParts { layout, parts: 2, needed: 3 })
    );
    assert_eq!(
        changed(&|l| l.kind = ExportedKind::FullyContiguous),
        Err(E::LayoutParts { layout, parts: 3, needed: 1 })
    );
    for (address, len) in [(0, 1), (1, 0), (u64::MAX, 1), (1, u64::MAX)] {
        let error = changed(&|l| l.parts[2] = ExportedPart { address, len });
        assert_eq!(error, Err(E::BadPart { layout, part: 2 }));
    }
    let field = Field::LayoutName(layout);
    let named = |name: &str| changed(&|l| l.name = name.to_owned());
    assert_eq!(named(""), Err(E::Empty { field }));
    assert_eq!(named("a\nb"), Err(E::BadName { field }));
    assert_eq!(named(&"a".repeat(64)), Ok(()));
    assert_eq!(named(&"a".repeat(65)), Err(E::TooLarge { field, len: 65, limit: 64 }));
    assert_eq!(named("kv"), Err(E::DuplicateLayout { index: 1 }));
}

#[test]
fn numbers_of_layouts_and_parts() {
    assert_eq!(with_layouts(Vec::new()), Err(E::NoLayouts));
    let layout = |index: usize, layers: u16| {
        let mut layout = minimal_export().layouts()[0].clone();
        layout.name = index.to_string();
        layout.kind = ExportedKind::BlockFirst;
        layout.layers = layers;
        layout.parts = vec![layout.parts[0]; layers.into()];
        layout
    };
    let layouts = |count, layers| (0..count).map(|index| layout(index, layers)).collect();
    let largest = with_layouts(layouts(64, 256)).unwrap();
    let encoded = largest.encode().unwrap();
    assert_eq!(ExportMetadata::decode(&encoded).as_ref(), Ok(&largest));
    let limit = 16_383;
    assert_eq!(
        ExportMetadata::decode_with(&encoded, &Limits::default().descriptors(limit)),
        Err(E::TooManyDescriptors { limit })
    );
    assert_eq!(with_layouts(layouts(65, 1)), Err(E::TooManyLayouts { limit: 64 }));
    assert_eq!(with_layouts(layouts(1, 16_385)), Err(E::TooManyParts { limit: 16_384 }));
    assert_eq!(with_layouts(layouts(2, 8193)), Err(E::TooManyParts { limit: 16_384 }));

    // The same from a peer that does not check.
    let section = |export: &ExportMetadata| parts(export).section(LAYOUTS).content.clone();
    let one = section(&with_layouts(layouts(1, 1)).unwrap())[8..].to_vec();
    let received = |count: usize, layout: &[u8]| {
        changed(|parts| {
            let content = [&(count as u64).to_le_bytes(), &layout.repeat(count)[..]].concat();
            parts.section(LAYOUTS).content = content;
        })
    };
    assert_eq!(received(0, &[]), E::NoLayouts);
    assert_eq!(received(65, &one), E::TooManyLayouts { limit: 64 });
    assert_eq!(received(100_000, &one), E::TooManyLayouts { limit: 64 });
    assert_eq!(received(2, &one), E::DuplicateLayout { index: 1 });
    let many = section(&with_layouts(layouts(1, 16_384)).unwrap())[8..].to_vec();
    assert_eq!(received(2, &many), E::TooManyParts { limit: 16_384 });
    let claimed = [&(1u64 << 40).to_le_bytes(), &one[..]].concat();
    let error = changed(|parts| parts.section(LAYOUTS).content = claimed);
    assert_eq!(error, E::Truncated { field: Field::Section(LAYOUTS) });
}

#[test]
fn numbers_on_the_wire_that_are_unknown() {
    let at = 8 + 8 + "full".len();
    let with = |at: usize, byte: u8| changed(|parts| parts.section(LAYOUTS).content[at] = byte);
    assert_eq!(with(at, 3), E::UnknownLayoutKind { layout: 0, kind: 3 });
    let device = at + 1 + 8 + 2 + 1 + 8 + 8 + 8 + 1 + 8;
    let unsupported = |kind| E::UnsupportedLayoutDevice { layout: 0, kind, ordinal: 3 };
    assert_eq!(with(device, 9), unsupported(9));
    assert_eq!(with(device, 1), unsupported(1)); // there is one host
    assert_eq!(with(16, 0xff), E::Malformed); // not UTF-8
    assert_eq!(with(16, b'\n'), E::BadName { field: Field::LayoutName(0) });
}

#[test]
fn shares_cover_parts_of_several_layouts() {
    let export = golden_export();
    let place = |layout, part| export.share_of(layout, part).map(|(_, place)| place);
    assert_eq!(
        [0, 1, 2, 3].map(|part| place(0, part)),
        [Some(4096), Some((1 << 32) + 4096), Some((2 << 32) + 4096), None]
    );
    assert_eq!([place(1, 0), place(2, 0)], [None, Some(8192)]);
    assert_eq!(place(2, 1), Some(0x1000_0000 + 8192));
    assert_eq!([place(3, 0), place(usize::MAX, 0), place(0, usize::MAX)], [None; 3]);

    let file = |length| ShareKind::File { pid: 1, fd: 2, name: [3; 16], length };
    let error = |shares| golden_export().with_shares(shares).unwrap_err();
    let one = |run, kind, offset| error(vec![Share::new(run, kind, offset)]);
    assert_eq!(one(5..7, file(1 << 40), 0), E::ShareRange { index: 0, count: 6 });
    assert_eq!(one(2..4, file(1 << 40), 0), E::ShareDevice { index: 0, descriptor: 2 });
    assert_eq!(one(4..6, file(1 << 20), 0), E::ShareBounds { index: 0, descriptor: 5 });
    let host = Share::new(3..4, file(1 << 20), 0);
    assert_eq!(error(vec![host.clone(), host.clone()]), E::ShareOrder { index: 1 });
    assert_eq!(error(vec![host; 7]), E::TooManyShares { limit: 6 });
}

#[test]
fn words_and_claims_that_are_nowhere() {
    let good = *golden_export().words();
    assert_eq!(with_words(good).unwrap().words(), &good);
    let file = good.file.unwrap();
    let faulty = [
        WordsLocation { slots: 0, ..good },
        WordsLocation { address: 0, ..good },
        WordsLocation { address: 12, ..good },
        WordsLocation { address: u64::MAX - 7, ..good },
        WordsLocation { slots: 4097, ..good },
        WordsLocation { file: Some(resized(file, 131_071)), ..good },
    ];
    for words in faulty {
        assert!(matches!(with_words(words), Err(E::BadWords { .. })), "{words:?}");
        let mut content = words.address.to_le_bytes().to_vec();
        content.extend(words.slots.to_le_bytes());
        content.push(1);
        let file = words.file.unwrap();
        content.extend([file.pid(), file.fd()].iter().flat_map(|number| number.to_le_bytes()));
        content.extend(file.name());
        content.extend(file.length().to_le_bytes());
        let error = changed(|parts| parts.section(WORDS).content = content);
        assert_eq!(Err(error), with_words(words).map(|_| ()));
    }
    let claims = |length| golden_export().with_claims(resized(file, length)).map(|_| ());
    assert_eq!(claims(32_768), Ok(()));
    assert_eq!(claims(32_767), Err(E::ShortClaims { length: 32_767, needed: 32_768 }));
    let error = changed(|parts| parts.section(CLAIMS).content[24..].fill(0));
    assert_eq!(error, E::ShortClaims { length: 0, needed: 32_768 });
}

#[test]
fn limits_hold_to_the_byte() {
    let export = golden_export();
    let encoded = export.encode().unwrap();
    let compressed = export.agent_metadata().compressed().len();
    let longest = "3f0c9d52-7f5e-4f43-8a0e-8c7d1a0b6f11".len();
    let with = |limits| ExportMetadata::decode_with(&encoded, &limits).is_ok();
    let limits = Limits::default();
    assert!(with(limits.encoded_bytes(encoded.len())));
    assert!(!with(limits.encoded_bytes(encoded.len() - 1)));
    assert!(with(limits.compressed_bytes(compressed)));
    assert!(!with(limits.compressed_bytes(compressed - 1)));
    assert!(with(limits.descriptors(6)) && !with(limits.descriptors(5)));
    assert!(with(limits.name_bytes(longest)) && !with(limits.name_bytes(longest - 1)));
}

#[test]
fn an_export_of_80_layers_is_a_few_kilobytes() {
    let mut layout = golden_export().layouts()[0].clone();
    layout.blocks = 1 << 32;
    layout.layers = 80;
    layout.device = Device::cuda(0);
    layout.parts =
        (1..=80).map(|layer| ExportedPart { address: layer << 40, len: 1 << 40 }).collect();
    let len = with_layouts(vec![layout]).unwrap().encode().unwrap().len();
    assert!(len < 4096, "{len}");
}

#[test]
fn debug_output_keeps_secrets() {
    let shown = format!("{:?}", golden_export());
    let export = golden_export();
    let addresses = export.layouts().iter().flat_map(|layout| &layout.parts).map(|p| p.address);
    // The first three are as round as lengths are.
    for address in addresses.skip(3).chain([export.words().address]) {
        for secret in [address.to_string(), format!("{address:x}")] {
            assert!(!shown.contains(&secret), "{secret}: {shown}");
        }
    }
    // What names the files.
    for secret in ["107, 107", "99, 99", "119, 111", "4243", "165"] {
        assert!(!shown.contains(secret), "{secret}: {shown}");
    }
    assert!(shown.contains("window") && shown.contains("slots: 4096"), "{shown}");
}

#[test]
fn tensors_of_blocks_that_do_not_fit_are_refused() {
    let export = export_with_tensors();
    let good = parts(&export);
    let section = good.sections.last().unwrap();
    assert_eq!((section.id, section.flags), (LAYOUT_TENSORS, 0));
    assert_eq!(decode(&good).as_ref(), Ok(&export));
    assert_eq!(export.tensor(0).unwrap().byte_len(), 3 * 2 * 16 * 8 * 128 * 2);
    assert_eq!(export.tensor(1), None);
    assert!(export.tensor(2).is_some() && export.tensor(3).is_none());

    let field = Field::Section(LAYOUT_TENSORS);
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut parts = good.clone();
        change(&mut parts.section(LAYOUT_TENSORS).content);
        decode(&parts)
    };
    for cut in 0..section.content.len() {
        assert_eq!(with(&|content| content.truncate(cut)), Err(E::Truncated { field }), "{cut}");
    }
    assert_eq!(with(&|content| content.push(0)), Err(E::TrailingBytes { field }));

    let full = export.tensors()[0].1.clone();
    let tensors = |of: &[u16]| {
        let list = of.iter().map(|&layout| (layout, full.clone())).collect();
        golden_export().with_tensors(list).map(|_| ())
    };
    assert_eq!(tensors(&[]), Ok(()));
    assert_eq!(tensors(&[3]), Err(E::TensorLayout { index: 3 }));
    assert_eq!(tensors(&[0, 0]), Err(E::TensorLayout { index: 0 }));
    let (described, block) = (full.byte_len(), 1024);
    assert_eq!(tensors(&[0, 1]), Err(E::BlockTensorBytes { layout: 1, described, block }));
    let mut huge = golden_export().layouts()[0].clone();
    huge.page_size = u64::MAX;
    let refused = with_layouts(vec![huge]).unwrap().with_tensors(vec![(0, full)]);
    let block = u64::MAX;
    assert_eq!(refused, Err(E::BlockTensorBytes { layout: 0, described, block }));
    // A release that does not know it skips it.
    let mut parts = good.clone();
    parts.section(LAYOUT_TENSORS).id = 900;
    assert_eq!(decode(&parts), Ok(golden_export()));
}
