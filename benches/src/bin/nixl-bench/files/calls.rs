//! Calls of the baselines: the same bytes as the executor's, cut alike.

use nixl_descriptor::Descriptor;
use nixl_descriptor::file::FilePairs;

/// Bytes of memory, as the kernel takes them (`iovec`).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub(super) struct Segment {
    pub(super) address: usize,
    pub(super) len: usize,
}

/// One read or write.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Call {
    pub(super) offset: u64,
    pub(super) len: usize,
    pub(super) segments: Vec<Segment>,
}

/// The longest call, as the executor's.
const CALL: usize = 512 * 1024;

/// Cuts pairs into calls.
pub(super) fn calls(pairs: &FilePairs) -> Vec<Call> {
    pairs.runs().iter().flat_map(|run| cut(run.offset(), pairs.memory(run))).collect()
}

fn cut(mut offset: u64, memory: &[Descriptor]) -> Vec<Call> {
    let mut calls: Vec<Call> = Vec::new();
    for descriptor in memory {
        let (mut address, mut left) = (descriptor.address() as usize, descriptor.len());
        while left > 0 {
            let room = calls.last().map_or(0, |call| CALL - call.len);
            if room == 0 {
                calls.push(Call { offset, len: 0, segments: Vec::new() });
                continue;
            }
            let len = left.min(room);
            if let Some(call) = calls.last_mut() {
                call.segments.push(Segment { address, len });
                call.len += len;
            }
            (offset, address, left) = (offset + len as u64, address + len, left - len);
        }
    }
    calls
}

#[cfg(test)]
mod tests {
    use nixl_descriptor::Region;

    use super::*;

    #[test]
    fn calls_cover_the_bytes_in_order() {
        let region = Region::zeroed(3 * CALL).unwrap();
        let parts = [0..CALL / 2, CALL..2 * CALL, 2 * CALL..2 * CALL + 4096];
        let memory = parts.map(|range| region.descriptor(range).unwrap());
        let calls = cut(4096, &memory);
        let total = CALL / 2 + CALL + 4096;
        assert_eq!(calls.iter().map(|call| call.len).sum::<usize>(), total);
        assert_eq!(calls.iter().map(|call| call.segments.len()).collect::<Vec<_>>(), [2, 2]);
        assert_eq!(calls[1].offset, 4096 + CALL as u64);
        assert_eq!(calls[0].segments[1].address, calls[1].segments[0].address - CALL / 2);
    }
}
