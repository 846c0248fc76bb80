//! Fuzz target of the decoder of control messages.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| nixl_ops::fuzz::control(input));
