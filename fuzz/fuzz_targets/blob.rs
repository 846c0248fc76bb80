//! Fuzz target of the decoder of NIXL's metadata blobs.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| nixl_connector::nixl::fuzz::blob(input));
