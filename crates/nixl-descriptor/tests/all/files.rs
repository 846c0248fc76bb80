//! Regions of files: what opens, what is refused and why, leases, and layouts of blocks.

#![allow(clippy::single_range_in_vec_init, reason = "a lease is of ranges")]

use std::fs::{self, File};
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use nixl_descriptor::file::{
    FileError, FileKind, FileLayout, FileLayoutError, FileOptions, FileRegion, pair_file_blocks,
};
use nixl_descriptor::layout::{
    ChunkPairError, Dimensions, Inner, LayerOrder, Layout, LayoutGeometry, LayoutKind,
};
use nixl_descriptor::{Access, LeaseMode, Region};
use proptest::prelude::*;
use rustix::fs::{CWD, Mode, mkfifoat};
use tempfile::TempDir;

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn with_file(len: u64) -> (TempDir, FileRegion) {
    let folder = folder();
    let options = FileOptions::read_write().create(len);
    let file = FileRegion::open(folder.path(), "file", &options).unwrap();
    (folder, file)
}

fn refusal(folder: &Path, name: &str) -> FileError {
    FileRegion::open(folder, name, &FileOptions::read_only()).unwrap_err()
}

fn kind(folder: &Path, name: &str) -> FileKind {
    match refusal(folder, name) {
        FileError::NotRegular { kind, .. } => kind,
        other => panic!("{other}"),
    }
}

#[test]
fn a_created_file_has_its_room_and_its_rights() {
    let (folder, file) = with_file(10_000);
    assert_eq!((file.len().unwrap(), file.access()), (10_000, Access::ReadWrite));
    let found = fs::metadata(folder.path().join("file")).unwrap();
    assert_eq!(found.permissions().mode() & 0o777, 0o600);
    assert!(found.blocks() * 512 >= 10_000, "room is reserved");
    assert_eq!((file.identity().device(), file.identity().inode()), (found.dev(), found.ino()));
    let again = FileOptions::read_write().create(10_000);
    let exists = FileRegion::open(folder.path(), "file", &again).unwrap_err();
    assert!(matches!(exists, FileError::Exists { .. }), "{exists}");
}

#[test]
fn descriptors_close_at_exec() {
    let (_folder, file) = with_file(4096);
    let flags = rustix::io::fcntl_getfd(file.descriptor()).unwrap();
    assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    let flags = rustix::fs::fcntl_getfl(file.descriptor()).unwrap();
    assert!(!flags.contains(rustix::fs::OFlags::NONBLOCK));
}

#[test]
fn only_regular_files_open_and_nothing_else_blocks() {
    let folder = folder();
    let path = folder.path();
    fs::create_dir(path.join("folder")).unwrap();
    mkfifoat(CWD, path.join("fifo"), Mode::RUSR | Mode::WUSR).unwrap();
    let _socket = UnixListener::bind(path.join("socket")).unwrap();
    assert_eq!(kind(path, "folder"), FileKind::Directory);
    // With no writer, an open of a FIFO for reading waits for ever.
    assert_eq!(kind(path, "fifo"), FileKind::Fifo);
    assert_eq!(kind(path, "socket"), FileKind::Socket);
    assert_eq!(kind(Path::new("/dev"), "null"), FileKind::CharacterDevice);
    assert!(matches!(refusal(path, "absent"), FileError::NotFound { .. }));
    assert!(matches!(refusal(&path.join("absent"), "file"), FileError::NotFound { .. }));
}

#[test]
fn names_lead_over_no_link_and_not_out_of_the_folder() {
    let folder = folder();
    let path = folder.path();
    fs::create_dir(path.join("inner")).unwrap();
    fs::write(path.join("file"), b"bytes").unwrap();
    symlink("file", path.join("link")).unwrap();
    symlink(path, path.join("inner/around")).unwrap();
    assert!(matches!(refusal(path, "link"), FileError::Symlink { .. }));
    assert!(matches!(refusal(path, "inner/around/file"), FileError::Symlink { .. }));
    let inner = path.join("inner");
    assert!(matches!(refusal(&inner, "../file"), FileError::Outside { .. }));
    let absolute = path.join("file");
    assert!(matches!(refusal(&inner, absolute.to_str().unwrap()), FileError::Outside { .. }));
    assert!(FileRegion::open(path, "inner/../file", &FileOptions::read_only()).is_ok());
}

#[test]
fn a_file_of_another_user_needs_consent() {
    let folder = folder();
    let path = folder.path().join("file");
    fs::write(&path, b"bytes").unwrap();
    if chown(&path, Some(4242), None).is_err() {
        return; // Only the superuser gives files away.
    }
    let found = refusal(folder.path(), "file");
    assert!(matches!(found, FileError::ForeignOwner { owner: 4242, .. }), "{found}");
    let options = FileOptions::read_only().any_owner();
    assert!(FileRegion::open(folder.path(), "file", &options).is_ok());
}

#[test]
fn descriptors_that_cannot_be_used_at_offsets_are_refused() {
    let folder = folder();
    let path = folder.path().join("file");
    fs::write(&path, b"bytes").unwrap();
    let open = |options: &mut fs::OpenOptions| {
        FileRegion::from_descriptor(OwnedFd::from(options.open(&path).unwrap()))
    };
    let mut options = File::options();
    assert_eq!(open(options.read(true)).unwrap().access(), Access::ReadOnly);
    assert_eq!(open(options.write(true)).unwrap().access(), Access::ReadWrite);
    for refused in [open(options.append(true)), open(File::options().write(true))] {
        assert!(matches!(refused, Err(FileError::Descriptor { .. })), "{refused:?}");
    }
    let (reader, _writer) = std::io::pipe().unwrap();
    let refused = FileRegion::from_descriptor(reader.into()).unwrap_err();
    assert!(matches!(refused, FileError::NotRegular { kind: FileKind::Fifo, .. }), "{refused}");
}

#[test]
fn ranges_are_checked_against_the_size_of_the_moment() {
    let (folder, file) = with_file(8192);
    assert!(file.lease(&[4096..8192], LeaseMode::Read).is_ok());
    let outside = file.lease(&[8191..8193], LeaseMode::Write).unwrap_err();
    assert!(matches!(outside, FileError::OutOfBounds { size: 8192, .. }), "{outside}");
    File::options().write(true).open(folder.path().join("file")).unwrap().set_len(5000).unwrap();
    let outside = file.lease(&[4096..8192], LeaseMode::Read).unwrap_err();
    assert!(matches!(outside, FileError::OutOfBounds { size: 5000, .. }), "{outside}");
    for nothing in [&[][..], &[7..7]] {
        let refused = file.lease(nothing, LeaseMode::Read);
        assert!(matches!(refused, Err(FileError::Empty { .. })), "{refused:?}");
    }
}

#[test]
fn leases_are_of_the_file_through_whichever_region() {
    let (folder, file) = with_file(8192);
    let again = FileRegion::open(folder.path(), "file", &FileOptions::read_only()).unwrap();
    assert_ne!(file.id(), again.id());
    let lease = file.lease(&[0..100, 200..300], LeaseMode::Write).unwrap();
    assert!(again.lease(&[100..200], LeaseMode::Read).is_ok());
    let refused = again.lease(&[299..400], LeaseMode::Read).unwrap_err();
    assert!(matches!(refused, FileError::InUse { held: LeaseMode::Write, .. }), "{refused}");
    drop(lease);
    let reading = again.lease(&[0..300, 100..200], LeaseMode::Read).unwrap();
    assert!(file.lease(&[0..10], LeaseMode::Read).is_ok());
    let refused = file.lease(&[0..10], LeaseMode::Write).unwrap_err();
    assert!(matches!(refused, FileError::InUse { held: LeaseMode::Read, .. }), "{refused}");
    let refused = again.lease(&[400..500], LeaseMode::Write).unwrap_err();
    assert!(matches!(refused, FileError::ReadOnly { .. }), "{refused}");
    drop(reading);
    let refused = file.lease(&[0..10, 9..20], LeaseMode::Write).unwrap_err();
    assert!(matches!(refused, FileError::Overlap { .. }), "{refused}");
}

#[test]
#[allow(unsafe_code, reason = "a test of code that closes descriptors of others")]
fn a_number_that_is_another_files_by_now_is_noticed() {
    let (folder, file) = with_file(4096);
    let other = File::create(folder.path().join("other")).unwrap();
    // SAFETY: the descriptor is open; the region goes on owning it, since this handle is never dropped.
    let taken = unsafe { OwnedFd::from_raw_fd(file.descriptor().as_raw_fd()) };
    rustix::io::dup2(&other, &mut ManuallyDrop::new(taken)).unwrap();
    let refused = file.lease(&[0..10], LeaseMode::Read).unwrap_err();
    assert!(matches!(refused, FileError::Replaced { .. }), "{refused}");
}

#[test]
fn direct_files_know_their_alignment() {
    let folder = folder();
    let options = FileOptions::read_write().direct().create(1 << 16);
    match FileRegion::open(folder.path(), "file", &options) {
        Ok(file) => {
            assert!(file.direct_descriptor().is_some());
            let alignment = file.alignment();
            assert!(alignment.offset().is_power_of_two() && alignment.offset() >= 512);
            assert!(alignment.memory().is_power_of_two() || alignment.memory() == 1);
        }
        Err(FileError::NoDirectIo { .. }) => {}
        Err(other) => panic!("{other}"),
    }
    let (_folder, cached) = with_file(4096);
    assert!(cached.direct_descriptor().is_none());
    assert_eq!((cached.alignment().memory(), cached.alignment().offset()), (1, 1));
}

#[test]
fn a_file_without_room_is_not_left_behind() {
    let folder = folder();
    // More than any file system gives.
    let options = FileOptions::read_write().create(1 << 62);
    let refused = FileRegion::open(folder.path(), "file", &options).unwrap_err();
    assert!(matches!(refused, FileError::NoSpace { len, .. } if len == 1 << 62), "{refused}");
    assert!(!folder.path().join("file").exists());
}

fn geometry(blocks: usize) -> LayoutGeometry {
    LayoutGeometry::try_from(Dimensions {
        blocks,
        layers: 3,
        outer: 2,
        page_size: 16,
        inner: Inner::Elements(25),
        element_width: 2,
    })
    .unwrap()
}

fn memory(kind: LayoutKind, blocks: usize) -> Layout {
    let geometry = geometry(blocks);
    let parts = match kind {
        LayoutKind::FullyContiguous => vec![Region::zeroed(geometry.bytes()).unwrap().into()],
        _ => {
            (0..3).map(|_| Region::zeroed(geometry.layer_len() * blocks).unwrap().into()).collect()
        }
    };
    match kind {
        LayoutKind::PerLayer(order) => Layout::per_layer(geometry, order, parts).unwrap(),
        _ => Layout::fully_contiguous(geometry, parts.into_iter().next().unwrap()).unwrap(),
    }
}

#[test]
fn blocks_lie_at_aligned_distances() {
    let (_folder, file) = with_file(1 << 20);
    let layout = FileLayout::new(geometry(8), file.clone(), 4096).unwrap();
    assert_eq!((layout.geometry().block_len(), layout.stride()), (4800, 8192));
    assert_eq!(FileLayout::stride_of(layout.geometry()), Some(8192));
    assert_eq!(layout.range(), 4096..4096 + 8 * 8192);
    let refused = FileLayout::new(geometry(8), file, 100).unwrap_err();
    assert_eq!(refused, FileLayoutError::Misaligned { start: 100, alignment: 4096 });
}

fn kinds() -> impl Strategy<Value = LayoutKind> {
    prop_oneof![
        Just(LayoutKind::FullyContiguous),
        Just(LayoutKind::PerLayer(LayerOrder::BlockFirst)),
        Just(LayoutKind::PerLayer(LayerOrder::OuterFirst)),
    ]
}

proptest! {
    /// Every byte of the file's blocks pairs with the byte of the same block, layer and place of the memory's.
    #[test]
    fn pairs_are_byte_for_byte_those_of_the_blocks(
        kind in kinds(),
        theirs in Just((0..8usize).collect::<Vec<_>>()).prop_shuffle(),
        ours in Just((0..6usize).collect::<Vec<_>>()).prop_shuffle(),
        count in 1..6usize,
        layers in (0..3usize, 1..4usize),
    ) {
        let (_folder, file) = with_file(4096);
        let (there, here) = (FileLayout::new(geometry(8), file, 8192).unwrap(), memory(kind, 6));
        let layers = layers.0..(layers.0 + layers.1).min(3);
        let (theirs, ours) = (&theirs[..count], &ours[..count]);
        let pairs = pair_file_blocks(&there, theirs, &here, ours, layers.clone()).unwrap();
        let mut expected = Vec::new();
        let chunk = here.geometry().chunk_len() as u64;
        for (&block, &our) in theirs.iter().zip(ours) {
            for layer in layers.clone() {
                for outer in 0..2 {
                    let at = 8192 + block as u64 * 8192 + (layer * 2 + outer) as u64 * chunk;
                    let span = here.chunk(our, layer, outer).unwrap();
                    let address = here.parts()[span.part].address() + span.offset as u64;
                    expected.extend((0..chunk).map(|byte| (at + byte, address + byte)));
                }
            }
        }
        let mut found = Vec::new();
        for run in pairs.runs() {
            let mut at = run.offset();
            for descriptor in pairs.memory(run) {
                let bytes = 0..descriptor.len() as u64;
                found.extend(bytes.clone().map(|byte| (at + byte, descriptor.address() + byte)));
                at += bytes.end;
            }
            prop_assert_eq!(at, run.offset() + run.len());
        }
        prop_assert_eq!(pairs.bytes(), expected.len() as u64);
        prop_assert!(pairs.ranges().is_sorted_by_key(|range| range.start));
        // A whole block is one run, however many parts of memory it comes from.
        if layers.len() == 3 {
            prop_assert!(pairs.runs().len() <= count);
        }
        expected.sort_unstable();
        found.sort_unstable();
        prop_assert_eq!(found, expected);
    }
}

#[test]
fn blocks_that_do_not_exist_are_refused() {
    let (_folder, file) = with_file(4096);
    let there = FileLayout::new(geometry(8), file, 0).unwrap();
    let here = memory(LayoutKind::FullyContiguous, 6);
    let pair = |theirs: &[usize], ours: &[usize]| {
        pair_file_blocks(&there, theirs, &here, ours, 0..3).map(drop)
    };
    assert!(matches!(pair(&[8], &[0]), Err(ChunkPairError::Source(_))));
    assert!(matches!(pair(&[0], &[6]), Err(ChunkPairError::Destination(_))));
    assert!(matches!(pair(&[0, 1], &[2, 2]), Err(ChunkPairError::Duplicate { block: 2 })));
    assert!(matches!(pair(&[0, 1], &[2]), Err(ChunkPairError::Count { src: 2, dst: 1 })));
}
