//! Fuzz target of the decoder of messages of channels.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| nixl_metadata::channel::fuzz::channel(input));
