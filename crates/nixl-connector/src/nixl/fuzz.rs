//! The entry points of the fuzzers of NIXL's blobs and UCX's addresses (`cargo +nightly fuzz run blob` and `worker_address`), and the tests
//! on any toolchain.

use super::blob::{Blob, Memory};
use super::worker_address::WorkerAddresses;

/// Reads the input, and a blob as NIXL makes them with the input's [edits](edited). An accepted blob is in bounds and has the same
/// content when it is encoded again.
pub fn blob(input: &[u8]) {
    check_blob(input);
    check_blob(&edited(sample_blob(), input));
}

fn check_blob(bytes: &[u8]) {
    let blob = match Blob::parse(bytes) {
        Ok(blob) => blob,
        Err(error) => {
            assert!((10..500).contains(&error.len()), "{error}");
            return;
        }
    };
    for memory in &blob.memories {
        assert!(memory.kind < 5, "NIXL would look beyond a table");
        assert!(memory.address != 0 && memory.len != 0);
        assert!(memory.address.checked_add(memory.len).is_some());
    }
    let again = blob.encode();
    assert_eq!(Blob::parse(&again).as_ref(), Ok(&blob));
    assert_eq!(blob.clone().of_use_for(None), blob);
    assert!(blob.of_use_for(Some(&[])).memories.is_empty());
}

/// Checks the input as the address of a UCX worker, and one that UCX has made with the input's [edits](edited), and takes each for
/// this process's own. An accepted address ends where its lengths end, and is not this process's.
pub fn worker_address(input: &[u8]) {
    check_address(input);
    check_address(&edited(sample_address(), input));
}

fn check_address(bytes: &[u8]) {
    let beside = beside_another();
    match beside.check(bytes) {
        Ok(()) => {
            assert!(beside.check(&bytes[..bytes.len() - 1]).is_err());
            assert!(beside.check(&[bytes, b"\0"].concat()).is_err());
        }
        Err(error) => assert!((10..500).contains(&error.len()), "{error}"),
    }
    if let Some(own) = WorkerAddresses::beside(bytes) {
        assert!(own.check(bytes).is_err(), "it is this process's own");
        let _ = own.check(&sample_address());
    }
}

/// With each three bytes of `edits` put to use: a place, and what is to be there.
fn edited(mut bytes: Vec<u8>, edits: &[u8]) -> Vec<u8> {
    for [low, high, value] in edits.as_chunks().0 {
        let at = usize::from(u16::from_le_bytes([*low, *high])) % bytes.len();
        bytes[at] = *value;
    }
    bytes
}

/// A key of two parts, of 0 and 3 bytes.
pub(super) const KEY: [u8; 14] = [0b101, 0, 0, 0, 0, 0, 0, 0, 1, 0, 3, b'a', b'b', b'c'];

/// A blob as NIXL makes them.
pub(super) fn sample_blob() -> Vec<u8> {
    let memory = |kind, device, address, len| Memory {
        backend: "UCX",
        kind,
        device,
        address,
        len,
        key: &KEY,
    };
    let blob = Blob {
        name: "peer-1",
        connections: vec![("UCX", b"\x00\x01|details")],
        memories: vec![memory(0, 0, 0x1000, 64), memory(1, 3, 0x2000, 1)],
    };
    blob.encode()
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

    use super::{check_address, check_blob, sample_address, sample_blob};

    /// With a few bytes changed, and some left out.
    fn damaged(sample: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
        let edits = vec(any::<(Index, u8)>(), 0..4);
        (edits, any::<Option<Index>>()).prop_map(move |(edits, cut)| {
            let mut bytes = sample.clone();
            for (at, value) in edits {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            if let Some(cut) = cut {
                let cut = cut.index(bytes.len());
                bytes.drain(cut..bytes.len().min(cut + 9));
            }
            bytes
        })
    }

    proptest! {
        #[test]
        fn blobs_that_are_damaged(bytes in damaged(sample_blob())) {
            check_blob(&bytes);
        }

        #[test]
        fn addresses_that_are_damaged(bytes in damaged(sample_address())) {
            check_address(&bytes);
        }

        #[test]
        fn noise(mut noise in vec(any::<u8>(), 0..300)) {
            super::blob(&noise);
            super::worker_address(&noise);
            for first in [0x20, 0x21] {
                noise.insert(0, first);
                super::worker_address(&noise);
            }
        }
    }
}
