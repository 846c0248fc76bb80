//! Fuzz target of the decoder of files of safetensors.
#![no_main]

#[path = "../../crates/nixl-descriptor/tests/all/tensors/targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|input: &[u8]| targets::safetensors(input));
