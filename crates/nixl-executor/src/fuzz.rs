//! The entry point of the fuzzer of staging messages (`cargo +nightly fuzz run staging`), and the tests on any toolchain.

use crate::messages::Message;

/// Reads a message. What is let through is what its content is written as, and sections that this release does not know.
pub fn staging(input: &[u8]) {
    match Message::decode(input) {
        Ok((session, message)) => {
            assert!(!message.name().is_empty());
            let again = message.encode(session);
            assert!(input.starts_with(&again), "{message:?}");
            assert_eq!(Message::decode(&again), Ok((session, message)));
            // Only requests of version 2 have sections.
            assert!(again.len() == input.len() || input.starts_with(b"nxs\x02"));
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
        fn messages_that_are_nearly_right(
            version in 0..4u8,
            session: [u8; 16],
            tag in 0..19u8,
            rest in vec(any::<u8>(), 0..300),
        ) {
            super::staging(&[&b"nxs"[..], &[version], &session, &[tag], &rest].concat());
            super::staging(&rest);
        }
    }
}
