//! The entry points of the fuzzers of other processes' messages (`cargo +nightly fuzz run control` and `mailbox`), and the tests on any
//! toolchain.

mod mailbox;

pub use mailbox::mailbox;

use crate::control::ControlMessage;

/// Reads a message about claims. What is let through is what its content is written as.
pub fn control(input: &[u8]) {
    if let Some(message) = ControlMessage::decode(input) {
        assert!(ControlMessage::is_one(input));
        let again = message.encode();
        assert_eq!(ControlMessage::decode(&again), Some(message));
        assert_eq!(again.len(), input.len());
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn messages_that_are_nearly_right(
            head in prop_oneof![Just(b"\x89NXC\x01".to_vec()), vec(any::<u8>(), 0..6)],
            kind in 0..13u8,
            rest in vec(any::<u8>(), 0..300),
        ) {
            super::control(&[&head[..], &[kind], &rest].concat());
        }
    }
}
