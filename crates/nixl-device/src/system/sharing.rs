//! The kernel's ways between processes of this machine, tried by this process alone: filters of system calls and mounts refuse some.
#![allow(unsafe_code)] // Calls of the kernel's, on memory of this file's own.

use std::fs::{self, OpenOptions};
use std::io::{IoSlice, IoSliceMut};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::ptr;

use nix::libc;
use nix::sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev};
use nix::unistd::Pid;

use super::random::fill_random;

/// Whether a process may both read and write another one's memory by system calls, as far as filters of calls decide that.
#[must_use]
pub fn permits_cross_memory_attach() -> bool {
    let me = Pid::this();
    let (source, mut target) = ([1_u8], [0_u8]);
    let there = [RemoteIoVec { base: source.as_ptr().expose_provenance(), len: 1 }];
    let read = process_vm_readv(me, &mut [IoSliceMut::new(&mut target)], &there);
    let mut target = [0_u8];
    let there = [RemoteIoVec { base: target.as_mut_ptr().expose_provenance(), len: 1 }];
    let written = process_vm_writev(me, &[IoSlice::new(&source)], &there);
    read == Ok(1) && written == Ok(1)
}

/// Whether a file can be made in a folder for shared memory, such as `/dev/shm`. It is removed at once.
#[must_use]
pub fn takes_shared_files(folder: &Path) -> bool {
    let mut number = [0; 16];
    if fill_random(&mut number).is_err() {
        return false;
    }
    let path = folder.join(format!("nixl-try-{:032x}", u128::from_ne_bytes(number)));
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    made.is_ok() && fs::remove_file(path).is_ok()
}

/// Whether System V's shared memory can be made and mapped. It is removed at once.
#[must_use]
pub fn has_system_v_memory() -> bool {
    const LEN: usize = 1;
    // SAFETY: it makes a segment that no name leads to.
    let id = unsafe { libc::shmget(libc::IPC_PRIVATE, LEN, libc::IPC_CREAT | 0o600) };
    if id < 0 {
        return false;
    }
    // SAFETY: the segment is this function's own, and is mapped where the kernel chooses.
    let mapped = unsafe { libc::shmat(id, ptr::null(), 0) };
    // SAFETY: as above; mapped memory stays until it is unmapped.
    let removed = unsafe { libc::shmctl(id, libc::IPC_RMID, ptr::null_mut()) };
    // The error of `shmat` is the highest address.
    if mapped.addr() == usize::MAX {
        return false;
    }
    // SAFETY: it was mapped above, and no pointer into it is kept.
    let unmapped = unsafe { libc::shmdt(mapped) };
    removed == 0 && unmapped == 0
}

#[cfg(all(test, not(miri)))]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_folder_without_a_place_for_files_takes_none() {
        let folder = tempfile::tempdir().unwrap();
        assert!(takes_shared_files(folder.path()));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(!takes_shared_files(&file) && !takes_shared_files(&folder.path().join("gone")));
    }
}
