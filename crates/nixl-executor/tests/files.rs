//! Transfers between files and memory through the public interface: the choice of an engine, and what it is without io_uring.

#![cfg(feature = "files")]
#![allow(clippy::unwrap_used, reason = "a failed test says where")]

use std::fs;
use std::io;
use std::path::Path;

use nixl_executor::Region;
use nixl_executor::files::{
    EngineChoice, EngineKind, FileError, FileExecutor, FileIoOptions, FileLayout, FileOptions,
    FileRegion,
};
use nixl_executor::layout::Layout;

const BLOCK: usize = 64 * 1024;

fn memory(blocks: usize) -> Layout {
    Layout::of_blocks(Region::zeroed(blocks * BLOCK).unwrap(), BLOCK).unwrap()
}

/// A file of 16 blocks; direct where the file system can.
fn spill(folder: &Path, direct: bool) -> FileRegion {
    let options = FileOptions::read_write().create((16 * BLOCK) as u64);
    if direct {
        match FileRegion::open(folder, "spill", &options.direct()) {
            Err(FileError::NoDirectIo { .. }) => fs::remove_file(folder.join("spill")).unwrap(),
            opened => return opened.unwrap(),
        }
    }
    FileRegion::open(folder, "spill", &options).unwrap()
}

/// Probes a file, and moves blocks by the engine that was chosen.
async fn used(folder: &Path, direct: bool) -> EngineChoice {
    let executor = FileExecutor::new().unwrap();
    let file = spill(folder, direct);
    assert_eq!(executor.choice(&file).kind(), EngineKind::Threads, "before the probe");
    let choice = executor.prepare(&file).await.unwrap();
    assert_eq!(executor.choice(&file), choice);
    assert_eq!(executor.prepare(&file).await.unwrap(), choice);
    let (memory, options) = (memory(16), FileIoOptions::new());
    let layout = FileLayout::new(*memory.geometry(), file.clone(), 0).unwrap();
    let blocks: Vec<usize> = (0..8).collect();
    for &block in &blocks {
        memory.copy_block_from_slice(block, &[block as u8 + 1; BLOCK]).unwrap();
    }
    let mut write = executor.write_blocks(&memory, &blocks, &layout, &blocks, &options).unwrap();
    write.wait_for_completion().await.unwrap();
    executor.sync(&file, &options).unwrap().wait_for_completion().await.unwrap();
    // One alone is small enough to be looked for in the page cache.
    for block in 0..8 {
        let mut read =
            executor.read_blocks(&layout, &[block], &memory, &[8 + block], &options).unwrap();
        let completion = read.wait_for_completion().await.unwrap();
        assert_eq!(completion.path().unwrap().transport(), choice.kind().name());
        assert_eq!(memory.block_to_vec(8 + block).unwrap(), [block as u8 + 1; BLOCK]);
    }
    choice
}

#[tokio::test]
async fn the_engine_is_probed_and_the_reason_given() {
    let folder = tempfile::tempdir().unwrap();
    let choice = used(folder.path(), true).await;
    // Which one it is depends on the machine, and that its bytes were compared does not.
    assert!(choice.is_verified(), "{choice}");
    assert!(!choice.reason().is_empty());
    let left: Vec<_> =
        fs::read_dir(folder.path()).unwrap().map(|f| f.unwrap().file_name()).collect();
    assert_eq!(left, ["spill"], "the scratch file is removed");
}

#[tokio::test]
async fn files_in_the_page_cache_and_in_memory_have_threads() {
    let folder = tempfile::tempdir().unwrap();
    let choice = used(folder.path(), false).await;
    assert_eq!(choice.kind(), EngineKind::Threads, "{choice}");
    assert!(choice.is_verified());
    if let Ok(folder) = tempfile::tempdir_in("/dev/shm") {
        let choice = used(folder.path(), true).await;
        assert_eq!(choice.kind(), EngineKind::Threads, "{choice}");
    }
}

#[tokio::test]
async fn a_file_for_reading_is_probed_by_its_content() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("spill"), vec![7; 16 * BLOCK]).unwrap();
    let file = FileRegion::open(folder.path(), "spill", &FileOptions::read_only()).unwrap();
    let choice = FileExecutor::new().unwrap().prepare(&file).await.unwrap();
    assert!(choice.is_verified(), "{choice}");
}

/// Forbids this thread, and those that it starts, to set up a ring, as Docker's default profile does.
#[allow(unsafe_code, reason = "a filter of system calls")]
fn forbid_io_uring() -> io::Result<()> {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, k, jt, jf| libc::sock_filter { code, jt, jf, k };
    let mut steps = [
        step(LOAD, 0, 0, 0), // The number of the call is the first field.
        step(IF_EQUAL, libc::SYS_io_uring_setup as u32, 0, 1),
        step(RETURN, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32, 0, 0),
        step(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let program = libc::sock_fprog { len: steps.len() as u16, filter: steps.as_mut_ptr() };
    // SAFETY: no memory is involved.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mode = libc::SECCOMP_SET_MODE_FILTER;
    // SAFETY: the program and its steps live until the call returns, and the kernel copies them.
    match unsafe { libc::syscall(libc::SYS_seccomp, mode, 0, &raw const program) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[test]
fn without_io_uring_threads_serve_the_file_and_say_why() {
    let filtered = std::thread::spawn(|| {
        forbid_io_uring().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let choice = runtime.block_on(used(folder.path(), true));
        let file = FileRegion::open(folder.path(), "spill", &FileOptions::read_only().direct());
        (choice, file.is_ok())
    });
    let (choice, has_direct) = filtered.join().unwrap();
    assert_eq!(choice.kind(), EngineKind::Threads);
    assert!(choice.is_verified(), "{choice}");
    if has_direct
        && !choice.reason().contains("do not wait")
        && !choice.reason().contains("memory,")
    {
        assert!(choice.reason().contains("io_uring cannot be used"), "{choice}");
        assert!(choice.reason().contains("seccomp"), "{choice}");
    }
}
