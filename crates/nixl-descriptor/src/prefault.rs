//! Pages that are mapped ahead of their first use.
#![allow(unsafe_code, reason = "queries and advises the system on mapped memory")]

use std::io;
use std::ops::Range;
use std::ptr;

use rustix::mm::{Advice, madvise};

use crate::access::Access;
use crate::region::Region;

/// Pages of one query of the system.
const PAGES: usize = 4096;

/// *Blocking.* Has the system map the pages of `range`, in bytes of the region, that are in memory, so that copies from it meet no
/// page fault there. For memory of another process that this one has [opened](crate::SharedMemory::open). Returns the number of
/// bytes that are mapped: pages that their owner has never touched are left out, since looking at one would allocate it.
///
/// # Errors
///
/// The system's error: it is older than Linux 5.14, or the region is no mapping.
pub fn prefault(region: &Region, range: Range<usize>) -> io::Result<usize> {
    let page = rustix::param::page_size();
    let base = region.address() as usize;
    // Whole pages, of which the region may have a part.
    let end = base + range.end.min(region.len());
    let mut at = base + range.start.min(region.len());
    let mut bytes = 0;
    let mut resident = vec![0u8; PAGES];
    while at < end {
        let first = at - at % page;
        let until = end.min(first.saturating_add(PAGES * page));
        let count = (until - first).div_ceil(page);
        // SAFETY: the pages are those of the region's mapping, and there is a byte for each.
        let asked = unsafe {
            libc::mincore(ptr::without_provenance_mut(first), until - first, resident.as_mut_ptr())
        };
        if asked != 0 {
            return Err(io::Error::last_os_error());
        }
        let mut index = 0;
        while let Some(skipped) = resident[index..count].iter().position(|page| page & 1 == 1) {
            index += skipped;
            let run = resident[index..count].iter().take_while(|page| **page & 1 == 1).count();
            let start = first + index * page;
            // SAFETY: as above. The pages are read, and none is changed.
            let mapped = unsafe {
                let start = ptr::without_provenance_mut(start);
                madvise(start, run * page, Advice::LinuxPopulateRead)
            };
            mapped?;
            bytes += end.min(start + run * page) - at.max(start);
            index += run;
        }
        at = until;
    }
    Ok(bytes)
}

/// *Blocking.* Has the system allocate and map the pages of `range`, in bytes of the region, whose bytes stay as they are: what
/// comes next, the registration with an engine that pins pages among it, meets no page fault there. Several threads are faster than
/// one, each on a part of its own. Does nothing for memory of GPUs.
///
/// # Errors
///
/// The system's error: it is older than Linux 5.14, or has no memory.
pub fn populate(region: &Region, range: Range<usize>) -> io::Result<()> {
    let base = region.address() as usize;
    let (start, end) = (base + range.start.min(region.len()), base + range.end.min(region.len()));
    if !region.device().is_host() || start >= end {
        return Ok(());
    }
    let first = start - start % rustix::param::page_size();
    let advice = match region.access() {
        Access::ReadWrite => Advice::LinuxPopulateWrite,
        Access::ReadOnly => Advice::LinuxPopulateRead,
    };
    // SAFETY: the region keeps bytes of each of the pages allocated, and the system changes no byte of them: not of their neighbours
    // either, which may be others'.
    unsafe { madvise(ptr::without_provenance_mut(first), end - first, advice)? };
    Ok(())
}

#[cfg(all(test, not(miri)))]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::SharedMemory;

    const PAGE: usize = 4096;

    /// Bytes of the mapping at an address that are in its page tables.
    fn resident(address: u64) -> usize {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let begin = maps.find(&format!("{address:x}-")).unwrap();
        let line = maps[begin..].lines().find(|line| line.starts_with("Rss:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
    }

    #[test]
    fn pages_that_are_there_are_mapped_and_others_not_allocated() {
        if rustix::param::page_size() != PAGE {
            return;
        }
        const LEN: usize = (PAGES + 64) * PAGE;
        let theirs = SharedMemory::new(LEN).unwrap();
        let name = theirs.name();
        let owner = Region::try_from(theirs).unwrap();
        for page in [3, 4, 40, PAGES + 40] {
            owner.copy_from_slice(page * PAGE, &[1]).unwrap();
        }
        let here = Region::try_from(SharedMemory::open(&name).unwrap()).unwrap();
        assert_eq!(resident(here.address()), 0);
        let some = prefault(&here, 4 * PAGE + 1..64 * PAGE).unwrap();
        assert_eq!(some, 2 * PAGE - 1);
        // The system may map neighbours, of those that are there.
        assert!((2 * PAGE..=3 * PAGE).contains(&resident(here.address())));
        assert_eq!(prefault(&here, 0..usize::MAX).unwrap(), 4 * PAGE);
        assert_eq!(resident(here.address()), 4 * PAGE);
        assert_eq!(prefault(&here, 41 * PAGE..64 * PAGE).unwrap(), 0);
        assert_eq!(prefault(&here, LEN..LEN).unwrap(), 0);
        assert_eq!(prefault(&here, usize::MAX - 1..usize::MAX).unwrap(), 0);
    }

    #[test]
    fn pages_are_allocated_and_their_bytes_stay() {
        if rustix::param::page_size() != PAGE {
            return;
        }
        let region = Region::zeroed(64 * PAGE).unwrap();
        region.copy_from_slice(5 * PAGE + 7, &[9]).unwrap();
        populate(&region, 4 * PAGE + 1..16 * PAGE - 1).unwrap();
        // The system may allocate more at once.
        assert!(resident(region.address()) >= 12 * PAGE);
        let mut expected = vec![0; 64 * PAGE];
        expected[5 * PAGE + 7] = 9;
        assert_eq!(region.to_vec().unwrap(), expected);
        populate(&region, 0..usize::MAX).unwrap();
        populate(&region, usize::MAX - 1..usize::MAX).unwrap();
        assert_eq!(resident(region.address()), 64 * PAGE);
        // Of the heap and of constants, on pages with others' bytes.
        populate(&Region::try_from(vec![1u8; 3 * PAGE]).unwrap(), 5..2 * PAGE).unwrap();
        let constant = bytes::Bytes::from_static(b"a constant of the program");
        populate(&Region::try_from(constant).unwrap(), 0..4).unwrap();
    }
}
