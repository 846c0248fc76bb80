//! Access rights of pages of this process.

use std::fs::File;
use std::io::{BufRead, BufReader};

/// Whether all of these bytes lie on pages that can be written. `false` if the system does not report it.
pub(crate) fn are_writable(address: u64, len: u64) -> bool {
    let Ok(maps) = File::open("/proc/self/maps") else { return false };
    let Some(end) = address.checked_add(len) else { return false };
    let lines = BufReader::with_capacity(1 << 16, maps).split(b'\n');
    covered(lines.map_while(Result::ok), address, end)
}

/// Whether writable mappings cover `from..end`, by lines as in `/proc/PID/maps`, which ascend.
fn covered(lines: impl Iterator<Item = Vec<u8>>, mut from: u64, end: u64) -> bool {
    for line in lines {
        let Some((start, stop, writable)) = mapping(&line) else { return false };
        if stop <= from {
            continue;
        }
        if start > from || !writable {
            return false;
        }
        from = stop;
        if from >= end {
            return true;
        }
    }
    false
}

/// Where a mapping begins and ends, and whether it can be written.
fn mapping(line: &[u8]) -> Option<(u64, u64, bool)> {
    // The path at the end need not be text.
    let mut words = line.splitn(3, |byte| *byte == b' ');
    let range = std::str::from_utf8(words.next()?).ok()?;
    let rights = words.next()?;
    let (start, stop) = range.split_once('-')?;
    let number = |digits| u64::from_str_radix(digits, 16).ok();
    Some((number(start)?, number(stop)?, *rights.get(1)? == b'w'))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const MAPS: &str = "1000-3000 r--p 00000000 08:01 42 /bin/\u{fffd} x
3000-5000 rw-p 00002000 08:01 42
5000-6000 rw-s 00000000 00:01 7 /memfd:nixl (deleted)
8000-9000 rw-p 00000000 00:00 0 [heap]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]";

    fn is_covered(from: u64, end: u64) -> bool {
        covered(MAPS.lines().map(|line| line.as_bytes().to_vec()), from, end)
    }

    #[test]
    fn every_byte_must_lie_on_a_writable_page() {
        assert!(is_covered(0x3000, 0x6000) && is_covered(0x4fff, 0x5001));
        assert!(is_covered(0x8000, 0x8001) && is_covered(0x3000, 0x3001));
        assert!(!is_covered(0x1000, 0x1001) && !is_covered(0x2fff, 0x3001), "read only");
        assert!(!is_covered(0x5fff, 0x6001) && !is_covered(0x7000, 0x8001), "not mapped");
        assert!(!is_covered(0, 1) && !is_covered(0x9000, 0x9001), "not mapped");
        assert!(!is_covered(u64::MAX - 1, u64::MAX), "beyond all");
    }

    #[test]
    fn what_is_no_line_of_the_system_proves_nothing() {
        for line in ["", "1000-3000", "1000 rw-p", "x-3000 rw-p", "1000-3000 r"] {
            assert!(!covered([line.as_bytes().to_vec()].into_iter(), 0x1000, 0x1001), "{line}");
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "asks the system for the pages of its interpreter")]
    fn this_process_has_pages_of_both_kinds() {
        static CONSTANT: [u8; 3] = *b"abc";
        let heap = vec![1_u8; 100_000];
        assert!(are_writable(heap.as_ptr().addr() as u64, heap.len() as u64));
        assert!(!are_writable(CONSTANT.as_ptr().addr() as u64, 3));
        assert!(!are_writable(0, 1) && !are_writable(u64::MAX, 2));
    }
}
