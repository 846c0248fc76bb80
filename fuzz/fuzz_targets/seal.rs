//! Fuzz target of the decoder of sealed payloads.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| nixl_metadata::seal::fuzz(input));
