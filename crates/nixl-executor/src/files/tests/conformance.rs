//! The suite that every engine passes.

use std::fs::File;

use nixl_descriptor::file::{FileError, FileOptions, FileRegion};
use nixl_descriptor::layout::ChunkPairError;
use nixl_descriptor::{Access, Region};
use nixl_device::Device;
use nixl_ops::PathKind;

use super::super::{FileClass, FileIoError, FileIoOptions, FileLayout, FileTransferError};
use super::world::{KINDS, Spill, content, engines, geometry, memory, on};
use nixl_descriptor::layout::Layout;

fn options() -> FileIoOptions {
    FileIoOptions::new()
}

#[test]
fn blocks_of_every_layout_go_to_a_file_and_back() {
    // Aligned chunks, chunks that direct I/O refuses, and blocks of many calls.
    for inner in [4096, 1000, 300_000] {
        for (name, engine) in engines() {
            for direct in [false, true] {
                for kind in KINDS {
                    let geometry = geometry(6, inner);
                    let (executor, spill) = (on(&engine), Spill::new(geometry, direct));
                    let (from, to) = (memory(geometry, kind), memory(geometry, KINDS[1]));
                    for block in 0..6 {
                        from.copy_block_from_slice(block, &content(&geometry, block)).unwrap();
                    }
                    let mut write = executor
                        .write_blocks(&from, &[4, 0, 1], &spill.layout, &[1, 2, 5], &options())
                        .unwrap();
                    let completion = write.wait_blocking().unwrap();
                    assert_eq!(completion.bytes(), 3 * geometry.block_len() as u64);
                    for (block, written) in [(1, 4), (2, 0), (5, 1)] {
                        let what = format!("{name} {kind:?} {direct} {inner}");
                        assert!(spill.block(block) == content(&geometry, written), "{what}");
                    }
                    assert!(spill.block(3).iter().all(|&byte| byte == 0));
                    executor
                        .sync(spill.layout.file(), &options())
                        .unwrap()
                        .wait_blocking()
                        .unwrap();
                    // One block of the file may go to several of the memory.
                    let mut read = executor
                        .read_blocks(&spill.layout, &[2, 1, 2], &to, &[5, 3, 0], &options())
                        .unwrap();
                    let completion = read.wait_blocking().unwrap();
                    assert_eq!(completion.path().unwrap().kind(), PathKind::Local("file"));
                    assert_eq!(completion.path().unwrap().transport(), engine.kind().name());
                    for (block, read) in [(5, 0), (3, 4), (0, 0)] {
                        assert!(to.block_to_vec(block).unwrap() == content(&geometry, read));
                    }
                    assert!(to.block_to_vec(1).unwrap().iter().all(|&byte| byte == 0));
                }
            }
        }
    }
}

#[test]
fn some_layers_are_moved_alone() {
    let geometry = geometry(3, 512);
    for (_, engine) in engines() {
        let (executor, spill) = (on(&engine), Spill::new(geometry, true));
        let (from, to) = (memory(geometry, KINDS[0]), memory(geometry, KINDS[2]));
        from.copy_block_from_slice(1, &content(&geometry, 1)).unwrap();
        let layers = options().layers(1..3);
        executor
            .write_blocks(&from, &[1], &spill.layout, &[0], &layers)
            .unwrap()
            .wait_blocking()
            .unwrap();
        let layer = geometry.layer_len();
        let expected = [vec![0; layer], content(&geometry, 1)[layer..].to_vec()].concat();
        assert!(spill.block(0) == expected);
        let layers = options().layers(2..3);
        executor
            .read_blocks(&spill.layout, &[0], &to, &[2], &layers)
            .unwrap()
            .wait_blocking()
            .unwrap();
        let expected = [vec![0; 2 * layer], content(&geometry, 1)[2 * layer..].to_vec()].concat();
        assert!(to.block_to_vec(2).unwrap() == expected);
    }
}

#[test]
fn many_small_operations_are_in_flight_at_once() {
    let geometry = geometry(600, 171);
    for (name, engine) in engines() {
        let (executor, spill) = (on(&engine), Spill::new(geometry, true));
        let memory = memory(geometry, KINDS[0]);
        for block in 0..600 {
            spill.fill(block, &content(&geometry, block));
        }
        let reads: Vec<_> = (0..600)
            .map(|block| {
                executor
                    .read_blocks(&spill.layout, &[block], &memory, &[block], &options())
                    .unwrap()
            })
            .collect();
        for mut read in reads {
            read.wait_blocking().unwrap();
        }
        for block in 0..600 {
            assert!(memory.block_to_vec(block).unwrap() == content(&geometry, block), "{name}");
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_before_a_call() {
    let geometry = geometry(4, 512);
    for (_, engine) in engines() {
        let (executor, spill) = (on(&engine), Spill::new(geometry, false));
        let memory = memory(geometry, KINDS[0]);
        let read = |theirs: &[usize], ours: &[usize]| {
            executor
                .read_blocks(&spill.layout, theirs, &memory, ours, &options())
                .map(drop)
                .unwrap_err()
        };
        assert!(matches!(read(&[4], &[0]), FileTransferError::Pairing(ChunkPairError::Source(_))));
        assert!(matches!(
            read(&[0], &[4]),
            FileTransferError::Pairing(ChunkPairError::Destination(_))
        ));
        let written = executor
            .write_blocks(&memory, &[4], &spill.layout, &[0], &options())
            .map(drop)
            .unwrap_err();
        assert!(matches!(written, FileTransferError::Pairing(ChunkPairError::Source(_))));
        let twice = executor
            .write_blocks(&memory, &[0, 1], &spill.layout, &[2, 2], &options())
            .map(drop)
            .unwrap_err();
        assert!(matches!(twice, FileTransferError::File(FileError::Overlap { .. })), "{twice}");

        // The file was opened for reading.
        let file =
            FileRegion::open(spill.folder.path(), "spill", &FileOptions::read_only()).unwrap();
        assert_eq!(file.access(), Access::ReadOnly);
        let read_only = FileLayout::new(geometry, file, 0).unwrap();
        let refused = executor
            .write_blocks(&memory, &[0], &read_only, &[0], &options())
            .map(drop)
            .unwrap_err();
        assert!(
            matches!(refused, FileTransferError::File(FileError::ReadOnly { .. })),
            "{refused}"
        );

        // The file is shorter than its layout by now.
        File::options()
            .write(true)
            .open(spill.layout.file().path())
            .unwrap()
            .set_len(5000)
            .unwrap();
        let short = read(&[1], &[0]);
        assert!(matches!(short, FileTransferError::File(FileError::OutOfBounds { .. })), "{short}");
        executor
            .read_blocks(&spill.layout, &[0], &memory, &[0], &options())
            .unwrap()
            .wait_blocking()
            .unwrap();
    }
}

#[test]
fn memory_of_a_device_is_refused() {
    #[allow(unsafe_code, reason = "memory with another label")]
    fn labelled() -> Region {
        let mut bytes = vec![0u8; 4096].into_boxed_slice();
        let first = std::ptr::NonNull::new(bytes.as_mut_ptr()).unwrap();
        let kept = bytes.into_vec();
        // SAFETY: the vector keeps the bytes where they are, and nothing else reads or writes them.
        unsafe { Region::from_raw_parts(first, 4096, Device::cuda(0), Access::ReadWrite, kept) }
            .unwrap()
    }
    let memory = Layout::of_blocks(labelled(), 4096).unwrap();
    for (_, engine) in engines() {
        let spill = Spill::new(*memory.geometry(), false);
        let refused = on(&engine).read_blocks(&spill.layout, &[0], &memory, &[0], &options());
        assert!(matches!(refused, Err(FileTransferError::NotHost { .. })));
    }
}

#[test]
fn a_read_that_ends_early_is_an_error_and_others_are_unharmed() {
    let geometry = geometry(8, 100_000);
    for (name, engine) in engines() {
        for direct in [false, true] {
            let (executor, spill) = (on(&engine), Spill::new(geometry, direct));
            let memory = memory(geometry, KINDS[1]);
            spill.fill(0, &content(&geometry, 0));
            // Truncated between the check and the calls: as if the range had been inside.
            let operation = super::cancelling::read_operation(&engine, &spill, &memory, 7, 7);
            let len = 7 * spill.layout.stride() + 1808;
            File::options()
                .write(true)
                .open(spill.layout.file().path())
                .unwrap()
                .set_len(len)
                .unwrap();
            let error = super::cancelling::finish(&operation).unwrap_err();
            assert!(
                matches!(error, FileIoError::Truncated { size, .. } if size == len),
                "{name} {direct}: {error}"
            );
            let class = options().class(FileClass::Prefetch);
            executor
                .read_blocks(&spill.layout, &[0], &memory, &[1], &class)
                .unwrap()
                .wait_blocking()
                .unwrap();
            assert!(memory.block_to_vec(1).unwrap() == content(&geometry, 0));
        }
    }
}
