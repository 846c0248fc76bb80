//! A short run of the fuzz targets without a fuzzer: seeds, and damage to them drawn from a fixed sequence.

use std::panic;

use crate::golden::V3_FULL;
use crate::support::{
    BLOB, DYNAMO_READ, DYNAMO_WRITE, DYNAMO_WRITE_HEX, export_with_tensors, golden_export,
    golden_ticket, golden_v4, minimal, minimal_export, minimal_ticket, with_checksum, with_tensor,
    with_trace, with_word,
};
use crate::targets;
use nixl_metadata::AgentMetadata;

const INPUTS_PER_TARGET: u64 = 4000;

/// Text that means something to a decoder.
const DICTIONARY: &[&[u8]] = &[
    b"\x89NXM\x03\x00\x00\x00",
    b"\x89NXM\x04\x00\x00\x00",
    b"\x89NXE\x01\x00\x00\x00",
    b"\x07\x00\x01\x00\x15\x00\x00\x00",
    b"\xff\xff\xff\xff\x1f",
    b"\x80\x80\x80\x80\x10",
    b"\x05\x00\x01\x00\x15\x00\x00\x00",
    b"\x07\x00\x00\x00\x00\x00\x00\x00",
    b"\"descriptors\":[",
    b"{\"device\":\"cuda:0\",\"ptr\":1,\"size\":1},",
    b"\"nixl_metadata\":\"b64:",
    b"\"notification_key\":\"",
    b"\"operation_kind\":2",
    b"18446744073709551615",
    b"-1",
    b"1e9",
    b"\\u0000",
    b"[[[[[[[[",
    b"}",
    b"\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\x00\x00\x00\x00\x00\x01\x00\x00",
    b"\x78\x9c",
];

/// `SplitMix64`: small, and the same everywhere.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`, which is not zero.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

fn mutate(corpus: &[Vec<u8>], seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    let mut input = corpus[random.below(corpus.len())].clone();
    for _ in 0..=random.below(4) {
        let at = random.below(input.len() + 1);
        match random.below(7) {
            0 => input.truncate(at),
            1 if at < input.len() => input[at] ^= 1 << random.below(8),
            2 if at < input.len() => input[at] = random.next().to_le_bytes()[0],
            3 => {
                let end = at + random.below(input.len() - at + 1);
                input.drain(at..end);
            }
            4 => {
                let word = DICTIONARY[random.below(DICTIONARY.len())];
                input.splice(at..at, word.iter().copied());
            }
            5 => {
                let end = at + random.below(input.len() - at + 1).min(64);
                let copy = input[at..end].to_vec();
                input.splice(at..at, copy);
            }
            _ => {
                // The start of one message and the end of another.
                let other = &corpus[random.below(corpus.len())];
                let from = random.below(other.len() + 1);
                input.truncate(at);
                input.extend(&other[from..]);
            }
        }
    }
    input
}

fn run(target: fn(&[u8]), corpus: &[Vec<u8>]) {
    for seed in 0..INPUTS_PER_TARGET {
        let input = match corpus.get(seed as usize) {
            Some(seed_input) => seed_input.clone(),
            None => mutate(corpus, seed),
        };
        if panic::catch_unwind(|| target(&input)).is_err() {
            panic!("seed {seed} fails with the input {}", input.escape_ascii());
        }
    }
}

fn json_corpus() -> Vec<Vec<u8>> {
    [DYNAMO_READ, DYNAMO_WRITE, DYNAMO_WRITE_HEX, "", "{}", "[]"]
        .map(|text| text.as_bytes().to_vec())
        .to_vec()
}

fn native_corpus() -> Vec<Vec<u8>> {
    let offers =
        [golden_v4(), minimal(), with_checksum(), with_trace(), with_tensor(), with_word()];
    let current = offers.map(|metadata| metadata.to_native_bytes().unwrap());
    let messages = [vec![V3_FULL.to_vec()], current.to_vec()].concat();
    let payloads = messages.iter().map(|message| message[16..].to_vec());
    messages.iter().cloned().chain(payloads).collect()
}

#[test]
fn dynamo() {
    run(targets::dynamo, &json_corpus());
}

#[test]
fn native() {
    run(targets::native, &native_corpus());
}

#[test]
fn decode() {
    run(targets::decode, &[json_corpus(), native_corpus()].concat());
}

#[test]
fn media() {
    let image = r#"{"Decoded":{"nixl_metadata":"b64:eJxLzFNITE/NKwEADNIC/w==","nixl_descriptor":{"addr":4096,"size":6,"mem_type":"Dram","device_id":0},"shape":[1,2,3],"dtype":"UINT8","metadata":{"Image":{"format":"Png","color_type":"Rgb8","layout":"HWC"}},"content_hash":"7a9bbcb11a898630"}}"#;
    let video = r#"{"Decoded":{"nixl_metadata":"b64:eJxLzFNITE/NKwEADNIC/w==","nixl_descriptor":{"addr":1,"size":6,"mem_type":"Vram","device_id":1},"shape":[2,3],"dtype":"UINT8","metadata":{"Video":{"source_fps":24.0,"source_duration":10.0,"sampled_timestamps":[0.0,1.5]}}}}"#;
    let embeddings = format!(
        r#"{{"embeddings_shape":[2,3],"embedding_dtype_str":"bfloat16","serialized_request":{DYNAMO_READ}}}"#
    );
    let corpus = [
        image,
        video,
        &embeddings,
        r#"{"Url":"data:image/png;base64,"}"#,
        r#"{"UuidOnly":"1"}"#,
        "",
    ];
    run(targets::media, &corpus.map(|text| text.as_bytes().to_vec()));
}

#[test]
fn ticket() {
    run(targets::ticket, &[golden_ticket(), minimal_ticket()].map(|ticket| ticket.encode()));
}

#[test]
fn export() {
    let exports = [golden_export(), minimal_export(), export_with_tensors()];
    let messages = exports.map(|export| export.encode().unwrap());
    let payloads = messages.clone().map(|message| message[16..].to_vec());
    run(targets::export, &[messages, payloads].concat());
}

#[test]
fn inflate() {
    let raws: [&[u8]; 4] = [b"x", BLOB, &[0; 70_000], &[7; 3000]];
    let corpus: Vec<_> = raws
        .iter()
        .map(|raw| AgentMetadata::compress(raw).unwrap().compressed().to_vec())
        .collect();
    run(targets::inflate, &corpus);
}
