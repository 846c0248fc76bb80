//! What the fuzzer of messages between executors runs (`cargo +nightly fuzz run staging`), and the tests on any toolchain.

use crate::staged::Message;

/// Reads a message. What is let through is exactly what its content is written as.
pub fn staging(input: &[u8]) {
    match Message::decode(input) {
        Ok((session, message)) => {
            assert!(!message.name().is_empty());
            assert_eq!(&message.encode(session)[..], input);
        }
        Err(error) => assert!((10..500).contains(&error.to_string().len()), "{error}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn messages_that_are_nearly_right(session: [u8; 16], tag in 0..15u8, rest in vec(any::<u8>(), 0..300)) {
            super::staging(&[b"nxs\x01", &session[..], &[tag], &rest].concat());
            super::staging(&rest);
        }
    }
}
