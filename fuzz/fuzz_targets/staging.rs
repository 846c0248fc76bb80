//! Fuzz target of the decoder of messages between executors.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| nixl_executor::fuzz::staging(input));
