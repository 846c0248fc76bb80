//! Tests of shared memory.
#![allow(clippy::unwrap_used, reason = "tests")]

mod processes;

use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsRawFd;

use nixl_device::ProcessWatch;
use rustix::fs::MemfdFlags;
use rustix::process::{Resource, getrlimit};

use super::*;
use crate::Region;
use crate::memfd::file_name;

#[test]
#[cfg_attr(miri, ignore = "opens files in memory")]
fn bytes_are_seen_on_the_other_side_and_outlive_the_owner() {
    let ours = Region::try_from(SharedMemory::new(10_000).unwrap()).unwrap();
    let name = ours.shared_name().unwrap();
    assert_eq!(name.pid, std::process::id());
    let theirs = Region::try_from(SharedMemory::open(&name).unwrap()).unwrap();
    assert_ne!(ours.address(), theirs.address());
    ours.copy_from_slice(9_990, &[1; 10]).unwrap();
    theirs.copy_from_slice(0, &[2; 10]).unwrap();
    assert_eq!(ours.to_vec().unwrap(), theirs.to_vec().unwrap());
    assert!(name.is_there() && name.is_own());
    let owner: SharedMemory = ours.try_into_inner().unwrap();
    drop(owner);
    assert!(!name.is_there() && !name.is_own());
    assert_eq!(theirs.to_vec().unwrap()[9_989..9_992], [0, 1, 1]);
    // Another test may have the number by now.
    let gone = SharedMemory::open(&name).unwrap_err();
    assert!(matches!(gone, SharedMemoryError::Gone | SharedMemoryError::Refused { .. }));
}

#[test]
#[cfg_attr(miri, ignore = "opens files in memory")]
fn a_buffer_lies_where_its_offset_says() {
    let ours = [(); 2].map(|()| Region::shared(10_000).unwrap());
    assert!(ours.iter().any(|region| region.shared_offset() != 0));
    for region in ours {
        region.copy_from_slice(1, &[3; 9_999]).unwrap();
        let all = SharedMemory::open(&region.shared_name().unwrap()).unwrap();
        let mut bytes = vec![1; 10_000];
        let at = usize::try_from(region.shared_offset()).unwrap();
        Region::try_from(all).unwrap().copy_to_slice(at, &mut bytes).unwrap();
        assert!(bytes[0] == 0 && bytes[1..].iter().all(|&byte| byte == 3));
    }
}

#[test]
#[cfg_attr(miri, ignore = "opens files in memory")]
fn what_was_withdrawn_stays_mapped_without_its_bytes() {
    let ours = SharedMemory::new(10_000).unwrap();
    let name = ours.name();
    let theirs = SharedMemory::open(&name).unwrap();
    theirs.word(0).unwrap().store(7, std::sync::atomic::Ordering::Relaxed);
    ours.withdraw();
    ours.withdraw();
    assert!(!name.is_there() && !name.is_own());
    let word = |memory: &SharedMemory| {
        memory.word(0).unwrap().fetch_add(1, std::sync::atomic::Ordering::Relaxed)
    };
    assert_eq!((word(&ours), word(&theirs)), (0, 1));
}

#[test]
#[cfg_attr(miri, ignore = "opens files in memory")]
fn words_are_the_same_on_both_sides() {
    use std::sync::atomic::Ordering::SeqCst;
    let ours = SharedMemory::new(20).unwrap();
    let theirs = SharedMemory::open(&ours.name()).unwrap();
    ours.word(1).unwrap().store(7, SeqCst);
    assert_eq!(theirs.word(1).unwrap().fetch_add(1, SeqCst), 7);
    assert_eq!(ours.word(1).unwrap().load(SeqCst), 8);
    assert_eq!(ours.word(0).unwrap().load(SeqCst), 0);
    assert!(ours.word(2).is_none(), "half of it is beyond the end");
    assert!(ours.word(usize::MAX).is_none() && ours.word(usize::MAX / 8).is_none());
    theirs.half_word(4).unwrap().store(9, SeqCst);
    assert_eq!(ours.half_word(4).unwrap().load(SeqCst), 9);
    assert!(ours.half_word(5).is_none() && ours.half_word(usize::MAX / 4).is_none());
}

#[test]
fn other_memory_has_no_name() {
    assert_eq!(Region::zeroed(10).unwrap().shared_name(), None);
    assert_eq!(Region::shared(0).unwrap_err(), RegionError::Empty);
    assert_eq!(SharedMemory::new(0).unwrap_err(), RegionError::Empty);
    let message = format!("{:?}", SharedMemory::new(10).unwrap().name());
    assert_eq!(message, "SharedName { len: 10, .. }");
}

#[test]
#[cfg_attr(miri, ignore = "opens files in memory")]
fn what_is_not_that_memory_is_refused() {
    let ours = SharedMemory::new(100).unwrap();
    let name = ours.name();
    let open = |name| SharedMemory::open(&name).unwrap_err();
    assert_eq!(open(SharedName { name: [0; 16], ..name }), SharedMemoryError::Gone);
    assert_eq!(open(SharedName { len: 101, ..name }), SharedMemoryError::MayShrink);
    assert_eq!(open(SharedName { len: u64::MAX, ..name }), SharedMemoryError::MayShrink);
    assert_eq!(open(SharedName { len: 0, ..name }), SharedMemoryError::MayShrink);
    let refused = |error| matches!(error, SharedMemoryError::Refused { .. });
    assert!(refused(open(SharedName { fd: u32::MAX, ..name })));
    assert!(refused(open(SharedName { pid: u32::MAX, ..name })));
    // Part of it may be mapped.
    assert_eq!(SharedMemory::open(&SharedName { len: 50, ..name }).unwrap().map.len(), 50);
}

#[test]
#[cfg_attr(miri, ignore = "opens files in memory")]
fn memory_that_may_shrink_is_refused() {
    let file = rustix::fs::memfd_create(file_name(&[7; 16]), MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&file, 100).unwrap();
    let fd = file.as_raw_fd().unsigned_abs();
    let name = SharedName { pid: std::process::id(), fd, name: [7; 16], len: 100 };
    assert_eq!(SharedMemory::open(&name).unwrap_err(), SharedMemoryError::MayShrink);
    rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK).unwrap();
    SharedMemory::open(&name).unwrap();
    rustix::fs::fcntl_add_seals(&file, SealFlags::FUTURE_WRITE).unwrap();
    let refused = SharedMemory::open(&name).unwrap_err();
    assert!(matches!(refused, SharedMemoryError::Refused { call: "map", .. }), "{refused}");
}

#[test]
#[cfg_attr(miri, ignore = "opens files in memory")]
fn a_pipe_of_the_owner_is_not_opened() {
    let (reader, _writer) = std::io::pipe().unwrap();
    let fd = reader.as_raw_fd();
    let name = SharedName { pid: std::process::id(), fd: fd.unsigned_abs(), name: [1; 16], len: 1 };
    assert_eq!(SharedMemory::open(&name).unwrap_err(), SharedMemoryError::Gone);
}

#[test]
#[cfg_attr(miri, ignore = "asks the system for huge pages")]
fn huge_pages_are_asked_for_or_the_setting_that_forbids_them_is_named() {
    const LEN: usize = 5 << 20;
    let memory = match SharedMemory::with_huge_pages(LEN) {
        Ok(memory) => memory,
        Err(error) => {
            assert_eq!(Err(error), huge_pages::check());
            return;
        }
    };
    let name = memory.name();
    let region = Region::try_from(memory).unwrap();
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mapping = &maps[maps.find(&format!("{:x}-", region.address())).unwrap()..];
    let flags = mapping.lines().find(|line| line.starts_with("VmFlags:")).unwrap();
    assert!(flags.split_whitespace().any(|flag| flag == "hg"), "{flags}");
    crate::populate(&region, 0..LEN).unwrap();
    region.copy_from_slice(LEN - 3, &[1, 2, 3]).unwrap();
    let there = Region::try_from(SharedMemory::open(&name).unwrap()).unwrap();
    let mut last = [0; 4];
    there.copy_to_slice(LEN - 4, &mut last).unwrap();
    assert_eq!(last, [0, 1, 2, 3]);
}
