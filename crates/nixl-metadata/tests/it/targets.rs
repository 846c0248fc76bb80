//! The functions of the fuzzers, one for each decoder. `fuzz_smoke.rs` runs them too, on any toolchain.
//!
//! They use the public interface only: each feeds a decoder and then checks that what it let through is sound.

use bytes::Bytes;
use nixl_metadata::media::{EmbeddingsRequest, MediaItem};
use nixl_metadata::{
    AgentMetadata, ExportMetadata, ExportedInner, ExportedKind, ExportedLayout, Limits,
    MessageVersions, MetadataError, NativeVersion, OperationKind, PeerInfo, RdmaMetadata,
    ShareKind, SlotAddress, Ticket, TicketTerms,
};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The JSON decoder.
pub(crate) fn dynamo(input: &[u8]) {
    check(RdmaMetadata::from_dynamo_json(input), &Limits::default());
    check(RdmaMetadata::from_dynamo_json_with(input, &tight()), &tight());
}

/// The binary decoder, on the input as it is and as the payload of an intact envelope of either version.
pub(crate) fn native(input: &[u8]) {
    let sealed = [3, 4].map(|version| seal(version, input));
    for message in [input, &sealed[0], &sealed[1]] {
        check(RdmaMetadata::from_native_bytes(message), &Limits::default());
        check(RdmaMetadata::from_native_bytes_with(message, &tight()), &tight());
    }
}

/// The decoder that takes either.
pub(crate) fn decode(input: &[u8]) {
    let either = RdmaMetadata::decode(input);
    match &either {
        Ok(_) => assert!(
            either == RdmaMetadata::from_dynamo_json(input)
                || either == RdmaMetadata::from_native_bytes(input)
        ),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    check(either, &Limits::default());
}

/// The decoder of tickets, on the input as it is and as an intact ticket.
pub(crate) fn ticket(input: &[u8]) {
    for message in std::iter::once(input).chain(seal_ticket(input).as_deref()) {
        match Ticket::decode(message) {
            Ok(ticket) => check_ticket(&ticket, message),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}

/// The decoder of exports, on the input as it is and as the payload of an intact envelope.
pub(crate) fn export(input: &[u8]) {
    for message in [input, &seal_as(*b"\x89NXE", 1, input)] {
        for limits in [Limits::default(), tight()] {
            match ExportMetadata::decode_with(message, &limits) {
                Ok(export) => check_export(&export),
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        }
    }
}

/// The decoder of media, in lists too.
pub(crate) fn media(input: &[u8]) {
    let item = MediaItem::from_json(input);
    let list = serde_json::from_slice::<Vec<MediaItem>>(&[b"[", input, b"]"].concat());
    match item {
        Ok(item) => {
            let json = serde_json::to_string(&item).expect("it was accepted");
            assert_eq!(MediaItem::from_json(json.as_bytes()), Ok(item.clone()));
            assert_eq!(list.expect("an item is one of a list"), std::slice::from_ref(&item));
            if let MediaItem::Decoded(media) = item {
                let offer = media.to_read().expect("one descriptor");
                assert_eq!(offer.descriptors(), [media.memory()]);
                assert!(media.shape().len() <= 64 && !media.shape().contains(&0));
                check(Ok(offer), &Limits::default());
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    match EmbeddingsRequest::from_json(input) {
        Ok(request) => check(Ok(request.offer().clone()), &Limits::default()),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// Inflating the agent's metadata.
pub(crate) fn inflate(input: &[u8]) {
    const MOST: usize = 64 * 1024;
    let limits = Limits::default().inflated_bytes(MOST);
    let Ok(agent) = AgentMetadata::from_compressed(Bytes::copy_from_slice(input), &limits) else {
        return;
    };
    if let Ok(raw) = agent.inflate(&limits) {
        assert!((1..=MOST).contains(&raw.len()));
        // The limit is exact: what fits, fits; one byte less does not.
        let exact = limits.inflated_bytes(raw.len());
        assert_eq!(agent.inflate(&exact).as_ref(), Ok(&raw));
        let short = limits.inflated_bytes(raw.len() - 1);
        assert!(matches!(agent.inflate(&short), Err(MetadataError::TooLarge { .. })));
        let again = AgentMetadata::compress(&raw).expect("it is not empty");
        assert_eq!(again.inflate(&exact), Ok(raw));
    }
}

fn tight() -> Limits {
    Limits::default().encoded_bytes(2048).compressed_bytes(512).descriptors(2).name_bytes(16)
}

/// Wraps a payload as `native/envelope.rs` documents it.
pub(crate) fn seal(version: u16, payload: &[u8]) -> Vec<u8> {
    seal_as(*b"\x89NXM", version, payload)
}

/// The same for a message with another magic.
pub(crate) fn seal_as(magic: [u8; 4], version: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = magic.to_vec();
    out.extend(version.to_le_bytes());
    out.extend([0, 0]);
    let len = u32::try_from(payload.len()).expect("fuzzed inputs are small");
    out.extend(len.to_le_bytes());
    let mut crc = crc32fast::Hasher::new();
    crc.update(&out);
    crc.update(payload);
    out.extend(crc.finalize().to_le_bytes());
    out.extend(payload);
    out
}

/// Corrects the version, the flags, the count and the digest, as `ticket/codec.rs` documents them, if there is a header.
pub(crate) fn seal_ticket(input: &[u8]) -> Option<Vec<u8>> {
    let mut out = input.to_vec();
    let (header, varints) = out.split_at_mut_checked(64)?;
    let (mut ids, mut id, mut number, mut shift) = (Vec::new(), 0i128, 0i128, 0);
    for &mut byte in varints {
        number |= i128::from(byte & 0x7f) << shift;
        shift = (shift + 7) % 70;
        if byte < 0x80 {
            id += if number % 2 == 0 { number / 2 } else { -(number + 1) / 2 };
            ids.extend((id as u32).to_le_bytes());
            (number, shift) = (0, 0);
        }
    }
    header[0] = 1;
    // Blocks to be written are never filled later.
    header[1] &= if header[1] & 1 == 1 { 1 } else { 2 };
    header[12..16].copy_from_slice(&u32::try_from(ids.len() / 4).ok()?.to_le_bytes());
    let seed = u64::from_le_bytes(header[32..40].try_into().ok()?);
    let digest = xxh3_64_with_seed(&[&header[..56], &ids].concat(), seed);
    header[56..].copy_from_slice(&digest.to_le_bytes());
    Some(out)
}

/// Checks everything that the documentation promises of a ticket that was decoded from a message.
pub(crate) fn check_ticket(ticket: &Ticket, message: &[u8]) {
    assert_eq!(ticket.encode(), message);
    assert_eq!(ticket.encoded_len(), message.len());
    assert!(!ticket.layers().is_empty());
    let distinct: std::collections::HashSet<_> = ticket.blocks().iter().collect();
    assert!(!distinct.is_empty() && distinct.len() == ticket.blocks().len());
    let terms = TicketTerms {
        export: ticket.export(),
        layout: ticket.layout(),
        layers: ticket.layers(),
        rights: ticket.rights(),
        slot: ticket.slot(),
        generation: ticket.generation(),
        token: *ticket.token(),
        expires_unix_millis: ticket.expires_unix_millis(),
    };
    let again = match ticket.is_unfilled() {
        true => Ticket::new_unfilled(terms, ticket.blocks()),
        false => Ticket::new(terms, ticket.blocks()),
    };
    assert_eq!(again.as_ref(), Ok(ticket));
    assert_eq!(seal_ticket(message).as_deref(), Some(message));
}

/// Checks everything that the documentation promises of a decoded export.
pub(crate) fn check_export(export: &ExportMetadata) {
    let layouts = export.layouts();
    assert!((1..=64).contains(&layouts.len()));
    let parts = || layouts.iter().flat_map(|layout| layout.parts.iter().map(move |p| (layout, p)));
    assert!(parts().count() <= 16_384);
    for (index, layout) in layouts.iter().enumerate() {
        let name = &layout.name;
        assert!((1..=64).contains(&name.len()) && !name.contains(char::is_control));
        assert!(layouts[..index].iter().all(|other| other.name != *name));
        check_layout(layout);
    }
    check_peer(export.peer());
    let words = export.words();
    let bytes = 32 * u64::from(words.slots);
    assert!(words.slots > 0 && words.address != 0 && words.address.is_multiple_of(8));
    assert!(words.address.checked_add(bytes).is_some());
    assert!(words.file.is_none_or(|file| file.length() >= bytes));
    assert!(export.claims().is_none_or(|file| file.length() >= bytes / 4));

    let all: Vec<_> = parts().map(|(layout, p)| (layout.device, p.address, p.len)).collect();
    let mut at = 0;
    for (index, layout) in layouts.iter().enumerate() {
        for part in 0..layout.parts.len() {
            let share = export.shares().iter().find(|share| share.descriptors().contains(&at));
            let expected = share.map(|share| {
                let (first, here) = (all[share.descriptors().start], all[at]);
                assert_eq!(first.0, here.0);
                let place = i128::from(share.offset()) + i128::from(here.1) - i128::from(first.1);
                assert!(place >= 0);
                assert!(place + i128::from(here.2) <= i128::from(share.kind().length()));
                (share, place)
            });
            let found = export.share_of(index, part);
            assert_eq!(found.map(|(share, place)| (share, i128::from(place))), expected);
            at += 1;
        }
        assert_eq!(export.share_of(index, layout.parts.len()), None);
    }
    assert_eq!(export.share_of(layouts.len(), 0), None);

    let mut before = None;
    for (layout, tensor) in export.tensors() {
        assert!(before < Some(*layout));
        before = Some(*layout);
        assert_eq!(export.tensor(usize::from(*layout)), Some(tensor));
        let of = &layouts[usize::from(*layout)];
        let token = match of.inner {
            ExportedInner::Heads { heads, head_size } => u128::from(heads) * u128::from(head_size),
            ExportedInner::Elements(elements) => elements.into(),
        };
        let sizes = [u64::from(of.layers), of.outer.into(), of.page_size, of.element_width.into()];
        let block = sizes.into_iter().try_fold(token, |all, size| all.checked_mul(size.into()));
        assert_eq!(block, Some(tensor.byte_len().into()));
    }

    let encoded = export.encode().expect("all devices are known");
    assert_eq!(ExportMetadata::decode(&encoded).as_ref(), Ok(export));
}

fn check_layout(layout: &ExportedLayout) {
    assert!((1..=1 << 32).contains(&layout.blocks) && layout.layers > 0);
    let parts = match layout.kind {
        ExportedKind::FullyContiguous => 1,
        ExportedKind::BlockFirst | ExportedKind::OuterFirst => usize::from(layout.layers),
    };
    assert_eq!(layout.parts.len(), parts);
    for part in &layout.parts {
        assert!(part.address > 0 && part.len > 0);
        assert!(part.address.checked_add(part.len).is_some());
    }
}

/// Checks everything that the documentation promises of a decoded message.
pub(crate) fn check(decoded: Result<RdmaMetadata, MetadataError>, limits: &Limits) {
    let metadata = match decoded {
        Ok(metadata) => metadata,
        Err(error) => {
            assert!((10..1000).contains(&error.to_string().len()), "{error}");
            return;
        }
    };
    assert!(!metadata.descriptors().is_empty());
    let mut total = 0u64;
    for descriptor in metadata.descriptors() {
        assert_ne!(descriptor.ptr(), 0);
        assert_ne!(descriptor.size(), 0);
        assert!(descriptor.ptr().checked_add(descriptor.size()).is_some());
        total = total.checked_add(descriptor.size()).expect("total overflows");
    }
    assert_eq!(total, metadata.total_bytes());
    let key = metadata.notification_key().as_str();
    assert!((1..=200).contains(&key.len()) && !key.contains(char::is_control));
    if let Some(peer) = metadata.peer() {
        check_peer(peer);
    }
    check_shares(&metadata);
    if let Some(terms) = metadata.terms() {
        let readable = metadata.operation_kind() == OperationKind::Read;
        assert!(readable || terms.readers().get() == 1);
    }
    assert!(metadata.operation_kind() == OperationKind::Read || metadata.checksum().is_none());
    if let Some(tensor) = metadata.tensor() {
        assert!(tensor.dimensions().len() <= 64);
        let sizes = tensor.dimensions().iter().map(|&(size, _)| u128::from(size));
        // No product of it is more than the whole, which is checked last.
        assert_eq!(sizes.product::<u128>() * u128::from(tensor.bits()), u128::from(total) * 8);
    }

    // What was accepted can be sent on, and arrives as it is. The encodings may be longer than the input was, but not
    // than what the other limits let through.
    let limits = limits.encoded_bytes(usize::MAX);
    let native = metadata.to_native_bytes().expect("all devices are known");
    let again = RdmaMetadata::from_native_bytes_with(&native, &limits).expect("own encoding");
    assert_eq!(again, metadata);
    assert_eq!(again.to_native_bytes().as_ref(), Ok(&native));

    check_v3(&metadata, &limits);

    let json = metadata.to_dynamo_json();
    let again = RdmaMetadata::from_dynamo_json_with(json.as_bytes(), &limits).expect("own JSON");
    assert_eq!(again.to_dynamo_json(), json);
    let again = match metadata.peer() {
        Some(peer) => again.with_peer(peer.clone()),
        None => again,
    };
    let again = match metadata.slot_address() {
        Some(doorbell) => {
            assert!(doorbell.slot() < SlotAddress::SLOTS && doorbell.token() != 0);
            again.with_slot_address(*doorbell).expect("it was accepted")
        }
        None => again,
    };
    let again = match metadata.terms() {
        Some(terms) => again.with_terms(*terms).expect("it was accepted"),
        None => again,
    };
    let again = match metadata.checksum() {
        Some(checksum) => again.with_checksum(checksum).expect("it was accepted"),
        None => again,
    };
    let again = match metadata.trace_context() {
        Some(context) => again.with_trace_context(context),
        None => again,
    };
    let again = match metadata.tensor() {
        Some(tensor) => again.with_tensor(tensor.clone()).expect("it was accepted"),
        None => again,
    };
    let again = match metadata.word() {
        Some(word) => again.with_word(word).expect("it was accepted"),
        None => again,
    };
    let again = again.with_shares(metadata.shares().to_vec()).expect("same descriptors");
    assert_eq!(again, metadata);
}

/// Version 3 carries the offer but for the doorbell, the versions, the terms, the checksum, the trace context, the tensor and the word,
/// or says that it cannot.
fn check_v3(metadata: &RdmaMetadata, limits: &Limits) {
    let written = metadata.to_native_bytes_as(NativeVersion::V3);
    if let Some(terms) = metadata.terms().filter(|terms| terms.claims().is_binding()) {
        let claims = terms.claims();
        let error = MetadataError::ClaimsNotCarried { version: NativeVersion::V3, claims };
        assert_eq!(written, Err(error));
        return;
    }
    let written = written.expect("it demands nothing");
    let again = RdmaMetadata::from_native_bytes_with(&written, limits).expect("own encoding");
    assert_eq!((again.slot_address(), again.terms(), again.checksum()), (None, None, None));
    assert_eq!((again.trace_context(), again.tensor(), again.word()), (None, None, None));
    let peer = metadata.peer().cloned();
    assert_eq!(again.peer(), peer.map(|p| p.with_versions(MessageVersions::default())).as_ref());
    assert_eq!(again.shares(), metadata.shares());
    assert_eq!(again.to_dynamo_json(), metadata.to_dynamo_json());
}

fn check_peer(peer: &PeerInfo) {
    let host = peer.host();
    let fixed = [peer.agent_name(), host.hostname()];
    let names =
        fixed.into_iter().chain(host.boot_id()).chain(peer.transports().iter().map(String::as_str));
    for name in names {
        assert!((1..=255).contains(&name.len()) && !name.contains(char::is_control));
    }
    assert!(peer.transports().len() <= 32);
    assert!(peer.devices().len() <= 64);
    for (index, device) in peer.devices().iter().enumerate() {
        assert!(peer.devices()[..index].iter().all(|other| other.device() != device.device()));
        assert_ne!(device.uuid(), Some([0; 16]));
    }
}

fn check_shares(metadata: &RdmaMetadata) {
    let descriptors = metadata.descriptors();
    let mut shared = vec![false; descriptors.len()];
    let mut free = 0;
    for share in metadata.shares() {
        let run = share.descriptors();
        assert!(free <= run.start && run.start < run.end && run.end <= descriptors.len());
        free = run.end;
        let first = &descriptors[run.start];
        let (suits, length) = match share.kind() {
            ShareKind::CudaIpc { handle, .. } => (
                first.device().kind().as_str() == "cuda",
                u64::from_le_bytes(handle[64..].try_into().expect("8 bytes")),
            ),
            ShareKind::File { length, .. } => (first.device().is_host(), *length),
            _ => (false, 0),
        };
        assert!(suits);
        for at in run {
            let descriptor = &descriptors[at];
            assert_eq!(descriptor.device(), first.device());
            let begin =
                i128::from(share.offset()) + i128::from(descriptor.ptr()) - i128::from(first.ptr());
            assert!(begin >= 0 && begin + i128::from(descriptor.size()) <= i128::from(length));
            let (found, place) = metadata.share_of(at).expect("it is shared");
            assert!(std::ptr::eq(found, share));
            assert_eq!(i128::from(place), begin);
            shared[at] = true;
        }
    }
    for (at, shared) in shared.into_iter().enumerate() {
        assert_eq!(metadata.share_of(at).is_some(), shared);
    }
    assert_eq!(metadata.share_of(descriptors.len()), None);
    assert_eq!(metadata.share_of(usize::MAX), None);
}
