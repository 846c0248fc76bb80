//! Fuzz target of the decoder of messages of mailboxes.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| nixl_ops::fuzz::mailbox(input));
