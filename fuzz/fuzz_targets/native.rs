//! Fuzz target of the decoder of RDMA metadata in the native profile.
#![no_main]

#[path = "../../crates/nixl-metadata/tests/it/targets.rs"]
#[expect(dead_code, reason = "each fuzzer runs one of the targets")]
mod targets;

libfuzzer_sys::fuzz_target!(|input: &[u8]| targets::native(input));
