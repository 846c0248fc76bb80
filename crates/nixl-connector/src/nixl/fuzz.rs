//! What the fuzzers of what NIXL's peers say of themselves run (`cargo +nightly fuzz run blob` and `worker_address`), and the tests
//! on any toolchain.

use super::blob::Blob;
use super::worker_address::WorkerAddresses;

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

/// Checks the address of a UCX worker beside one that UCX has made, and takes it for this process's own. What is let through ends
/// where it says, and is not this process's.
pub fn worker_address(input: &[u8]) {
    let beside = beside_another();
    match beside.check(input) {
        Ok(()) => {
            assert!(beside.check(&input[..input.len() - 1]).is_err());
            assert!(beside.check(&[input, b"\0"].concat()).is_err());
        }
        Err(error) => assert!((10..500).contains(&error.len()), "{error}"),
    }
    if let Some(own) = WorkerAddresses::beside(input) {
        assert!(own.check(input).is_err(), "it is this process's own");
        let _ = own.check(&sample_address());
    }
}

/// One of UCX 1.23 with all of its transports on a host without a NIC: self, tcp over a network and itself, sysv, posix, cma, and
/// at the end the release.
const ADDRESS: &str = "207c38f80a8255ecb40000637577cc2b320040975000000000004f03c0884a6e454fdafa588a01060002c0000202cf1917b75138976334\
    4bd7e0373700132300829487010e0102df4236cb1fd276e6f9ffffefcf1917b75138539e3e4bd7e0373701132300829daf0208df4236cb\
    1fd276668d5377cc2b320000705077ccab33004f23c0883a001f00000000000308df4236cb1fd27666a7d377cc2b320000705077ccab33\
    004f23c08810180000050000c00408df4236cb1fd27666478bbd37063600242e5077ccab330092210084101800008780";

pub(super) fn sample_address() -> Vec<u8> {
    let digits: Vec<_> = ADDRESS.chars().filter_map(|c| c.to_digit(16)).collect();
    digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()
}

/// What checks addresses in a process whose own is that of another worker.
pub(super) fn beside_another() -> WorkerAddresses {
    let mut own = sample_address();
    own[1] ^= 1;
    WorkerAddresses::beside(&own).expect("UCX has made it")
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
        fn addresses_that_are_damaged(
            edits in vec(any::<(Index, u8)>(), 0..4),
            cut in any::<Option<Index>>(),
        ) {
            let mut bytes = super::sample_address();
            for (at, value) in edits {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            if let Some(cut) = cut {
                let cut = cut.index(bytes.len());
                bytes.drain(cut..bytes.len().min(cut + 9));
            }
            super::worker_address(&bytes);
        }

        #[test]
        fn addresses_that_are_noise(mut noise in vec(any::<u8>(), 0..300)) {
            super::worker_address(&noise);
            for first in [0x20, 0x21] {
                noise.insert(0, first);
                super::worker_address(&noise);
            }
        }

        #[test]
        fn blobs_that_are_noise(noise in vec(any::<u8>(), 0..300)) {
            super::blob(&noise);
        }
    }
}
