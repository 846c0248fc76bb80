//! Entry points of the fuzz targets: the decoders of what servers and clients send.

use super::backend::Stored;
use super::etcd;
use super::wire::{Answer, Call, Frames, decode, encode};

/// Frames of a stream, messages, stored entries, and the JSON of etcd.
pub fn channel(input: &[u8]) {
    let mut frames = Frames::default();
    for piece in input.chunks(7) {
        frames.push(piece);
        while let Ok(Some(message)) = frames.next(1 << 16) {
            messages(&message);
        }
    }
    messages(input);
    etcd::decodes(input);
}

fn messages(input: &[u8]) {
    if let Ok(call) = decode::<Call>(input, "a call") {
        assert_eq!(encode(&call).ok().as_deref(), Some(input));
    }
    if let Ok(answer) = decode::<Answer>(input, "an answer") {
        assert_eq!(encode(&answer).ok().as_deref(), Some(input));
    }
    if let Ok(entry) = decode::<Stored>(input, "an entry") {
        assert_eq!(encode(&entry).ok().as_deref(), Some(input));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_input_panics(input in proptest::collection::vec(any::<u8>(), 0..200)) {
            super::channel(&input);
            crate::seal::fuzz(&input);
        }
    }
}
