//! Entry points of the fuzz targets: the decoders of what servers and clients send.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::backend::Stored;
use super::error::Fault;
use super::wire::{Answer, Asked, Call, Frames, decode, encode};
use super::{Incarnation, etcd};

/// Frames of a stream, messages, entries and requests as they are stored, and the JSON of etcd.
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
    exact::<Call>(input);
    exact::<Answer>(input);
    exact::<Stored>(input);
    exact::<Asked>(input);
    exact::<Result<Bytes, Fault>>(input);
    exact::<Incarnation>(input);
}

/// What decodes is encoded to the same bytes.
fn exact<T: Serialize + DeserializeOwned>(input: &[u8]) {
    if let Ok(message) = decode::<T>(input, "a message") {
        assert_eq!(encode(&message).ok().as_deref(), Some(input));
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

        #[test]
        fn damaged_claims_never_panic(
            at in any::<prop::sample::Index>(),
            with in any::<u8>(),
            cut in any::<prop::sample::Index>(),
        ) {
            let claims = r#"{"aud":"a","sub":"w","exp":"2999-01-01T00:00:00Z","iat":"2000-01-01T00:00:00Z","use":"request","jti":"1","data":"AAAA"}"#;
            let mut claims = claims.as_bytes().to_vec();
            let at = at.index(claims.len());
            claims[at] = with;
            claims.truncate(cut.index(claims.len()) + 1);
            crate::seal::fuzz(&claims);
        }
    }
}
