//! Fuzz target of the decoder of UCX's worker addresses.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| nixl_connector::nixl::fuzz::worker_address(input));
