//! Fuzz target of the decoder of descriptions of layouts.
#![no_main]

#[path = "../../crates/nixl-descriptor/tests/all/layouts/targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|input: &[u8]| targets::layout(input));
