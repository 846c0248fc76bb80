//! Detection of a lack of address space: UCX and NIXL end the process where they are refused memory.

use std::fs;

use nixl_device::ProcessLimit;
use rustix::param::page_size;

use super::library::NixlUnavailable;

/// What an agent takes, with some for the process beside it.
struct Needed {
    /// Address space.
    space: u64,
    /// The part of it that the limit on data counts: writable memory of this process alone.
    data: u64,
}

/// The first agent, with the libraries: 311 MiB and 44 MiB were measured, besides the C library's reserve for each thread.
const FIRST: Needed = Needed { space: 400 << 20, data: 64 << 20 };
const LATER: Needed = Needed { space: 100 << 20, data: 32 << 20 };

/// Refuses an agent if a limit of the process leaves too little. The libraries may be loaded already.
pub(super) fn check(are_loaded: bool) -> Result<(), NixlUnavailable> {
    let needed = if are_loaded { LATER } else { FIRST };
    check_with(&needed, ProcessLimit::soft, used)
}

fn check_with(
    needed: &Needed,
    limit: impl Fn(ProcessLimit) -> Option<u64>,
    used: impl Fn() -> Option<Used>,
) -> Result<(), NixlUnavailable> {
    let (space, data) = (limit(ProcessLimit::AddressSpace), limit(ProcessLimit::Data));
    if space.is_none() && data.is_none() {
        return Ok(());
    }
    // Without `/proc` it is not known.
    let Some(used) = used() else { return Ok(()) };
    for (name, limit, used, needed) in [
        ("ulimit -v", space, used.space, needed.space),
        ("ulimit -d", data, used.data, needed.data),
    ] {
        if let Some(limit) = limit.filter(|limit| limit.saturating_sub(used) < needed) {
            return Err(NixlUnavailable::Memory { name, limit, used, needed });
        }
    }
    Ok(())
}

/// What the process has, in bytes.
struct Used {
    space: u64,
    data: u64,
}

fn used() -> Option<Used> {
    parse(&fs::read_to_string("/proc/self/statm").ok()?, page_size() as u64)
}

/// Of `/proc/self/statm`: pages of the address space first, of data and stack sixth.
fn parse(statm: &str, page: u64) -> Option<Used> {
    let pages = |at| statm.split_whitespace().nth(at)?.parse::<u64>().ok();
    Some(Used { space: pages(0)? * page, data: pages(5)? * page })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_leaves_too_little_is_named() {
        let check = |space: Option<u64>, data: Option<u64>| {
            let limit = |of| if of == ProcessLimit::AddressSpace { space } else { data };
            check_with(&FIRST, limit, || parse("100 9 9 9 9 10 0", 4096))
        };
        assert_eq!(check(None, None), Ok(()));
        let (space, data) = (FIRST.space + 409_600, FIRST.data + 40_960);
        assert_eq!(check(Some(space), Some(data)), Ok(()));
        let named = |result| match result {
            Err(NixlUnavailable::Memory { name, .. }) => name,
            other => panic!("{other:?}"),
        };
        assert_eq!(named(check(Some(space - 1), None)), "ulimit -v");
        assert_eq!(named(check(Some(space), Some(data - 1))), "ulimit -d");
        assert_eq!(named(check(None, Some(0))), "ulimit -d");
        assert_eq!(check_with(&FIRST, |_| Some(0), || None), Ok(()), "it is not known");
    }

    #[test]
    fn the_systems_numbers_are_read() {
        let Used { space, data } = used().unwrap();
        assert!(space > data && data > 0);
    }
}
