//! What the fuzzer of NIXL's blob runs (`cargo +nightly fuzz run blob`), and the tests on any toolchain.

use super::blob::Blob;

/// Reads a blob. What is let through is in bounds and says the same when it is written again.
pub fn blob(input: &[u8]) {
    let blob = match Blob::parse(input) {
        Ok(blob) => blob,
        Err(error) => {
            assert!((10..500).contains(&error.len()), "{error}");
            return;
        }
    };
    for memory in &blob.memories {
        assert!(memory.address != 0 && memory.len != 0);
        assert!(memory.address.checked_add(memory.len).is_some());
    }
    let again = blob.encode();
    assert_eq!(Blob::parse(&again).as_ref(), Ok(&blob));
    assert_eq!(blob.clone().of_use_for(None), blob);
    assert!(blob.of_use_for(Some(&[])).memories.is_empty());
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::super::blob::tests::sample;

    proptest! {
        #[test]
        fn blobs_that_are_damaged(edits in vec(any::<(Index, u8)>(), 0..4), cut in any::<Option<Index>>()) {
            let mut bytes = sample();
            for (at, value) in edits {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            if let Some(cut) = cut {
                let cut = cut.index(bytes.len());
                bytes.drain(cut..bytes.len().min(cut + 9));
            }
            super::blob(&bytes);
        }

        #[test]
        fn blobs_that_are_noise(noise in vec(any::<u8>(), 0..300)) {
            super::blob(&noise);
        }
    }
}
