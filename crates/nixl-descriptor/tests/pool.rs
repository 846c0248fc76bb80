//! The process's resources for its buffers: mappings, files and pages. All of them are the process's, so this test has one of
//! its own.
#![allow(clippy::unwrap_used, reason = "a failed test says where")]

use std::collections::VecDeque;
use std::fs;
use std::time::{Duration, Instant};

use nixl_descriptor::{BufferPool, Region};

const MIB: usize = 1 << 20;

fn mappings() -> usize {
    fs::read_to_string("/proc/self/maps").unwrap().lines().count()
}

fn is_mapped(address: u64) -> bool {
    fs::read_to_string("/proc/self/maps").unwrap().lines().any(|line| {
        let (start, end) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
        let number = |digits| u64::from_str_radix(digits, 16).unwrap();
        (number(start)..number(end)).contains(&address)
    })
}

fn files() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Bytes of shared memory that this process has pages of.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssShmem:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
}

#[test]
fn a_process_keeps_little_for_its_buffers() {
    let pool = BufferPool::global();
    let mut held: VecDeque<Region> = VecDeque::new();
    let lens = [1, 4096, 5000, 70_000, MIB, MIB + 1, 3 * MIB];
    let mut warm = None;
    for count in 0..100_000 {
        let region = pool.buffer(lens[count % lens.len()]).unwrap();
        region.copy_from_slice(region.len() - 1, &[1]).unwrap();
        held.push_back(region);
        if held.len() > 30 {
            held.pop_front();
        }
        // By then every block was in use.
        if count == 50_000 {
            warm = Some((mappings(), files(), resident()));
        }
    }
    assert_eq!(warm, Some((mappings(), files(), resident())));
    let stats = pool.stats();
    assert!(resident() <= stats.used() + stats.warm(), "{stats:?}");
    assert!(stats.warm() <= 64 << 20, "{stats:?}");
    held.clear();

    // 320 MiB with all their pages.
    let before = (mappings(), files());
    let buffers: Vec<_> = (0..40).map(|_| pool.buffer(8 * MIB).unwrap()).collect();
    buffers.iter().for_each(|region| region.copy_from_slice(0, &vec![1; 8 * MIB]).unwrap());
    assert!(resident() >= 320 << 20);
    let addresses: Vec<_> = buffers.iter().map(Region::address).collect();
    drop(buffers);
    let soon = Instant::now() + Duration::from_secs(3);
    pool.trim(soon);
    let stats = pool.stats();
    assert!(stats.retired() >= 32, "{stats:?}");
    assert!(resident() <= 64 << 20, "{} bytes, {stats:?}", resident());
    assert!(files() <= before.1 + 8);

    // Late writes to all of them hurt nothing, and cost pages until the mappings go.
    for &address in &addresses {
        assert!(is_mapped(address));
        // SAFETY: the byte is mapped, and no region has it.
        #[allow(unsafe_code)]
        unsafe {
            (address as *mut u8).write_volatile(1);
        }
    }
    pool.trim(soon + Duration::from_secs(650));
    assert!(addresses.iter().all(|&address| is_mapped(address)));
    // What was sent to a process that was stopped until now is read first.
    pool.trim(soon + Duration::from_secs(660));
    assert!(addresses.iter().all(|&address| is_mapped(address)));
    pool.trim(soon + Duration::from_secs(665));
    let stats = pool.stats();
    assert_eq!((stats.retired(), stats.retired_bytes(), stats.unmapped_early()), (0, 0, 0));
    let left = addresses.iter().filter(|&&address| is_mapped(address)).count();
    assert!(left <= 8, "{left} of the newest are kept");
    assert!(mappings() <= before.0 + 8);
    assert!(resident() <= 64 << 20);
}
