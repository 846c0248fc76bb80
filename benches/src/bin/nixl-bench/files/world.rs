//! Executors, folders and files of a run.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nixl_descriptor::file::{FileError, FileOptions, FileRegion};
use nixl_executor::files::FileExecutor;
use tempfile::TempDir;
use tokio::runtime::{self, Runtime};

use super::filtered::without_uring;
use super::place::Place;
use super::posix::Posix;

/// What all cases share.
pub(super) struct World {
    pub(super) runtime: Runtime,
    pub(super) executor: FileExecutor,
    /// It may not use io_uring.
    pub(super) threaded: FileExecutor,
    pub(super) posix: Result<Posix>,
    folders: HashMap<Place, TempDir>,
    files: usize,
}

impl World {
    /// Files on disk go into this folder.
    pub(super) fn open(folder: &Path) -> Result<Self> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let mut folders = HashMap::new();
        for place in Place::ALL {
            let within = if place == Place::Tmpfs { Path::new("/dev/shm") } else { folder };
            let made = tempfile::Builder::new().prefix("nixl-bench-").tempdir_in(within);
            let made =
                made.with_context(|| format!("no folder for files in {}", within.display()))?;
            folders.insert(place, made);
        }
        let executor = FileExecutor::new()?;
        let threaded = without_uring(|| Ok(FileExecutor::new()?))?;
        let posix = Posix::start();
        Ok(Self { runtime, executor, threaded, posix, folders, files: 0 })
    }

    /// A new file of so many bytes, for which both executors have chosen.
    pub(super) fn file(&mut self, place: Place, len: u64) -> Result<FileRegion> {
        self.files += 1;
        let name = PathBuf::from(format!("file-{}", self.files));
        let folder = self.folders.get(&place).context("no folder")?.path();
        let options = FileOptions::read_write().create(len);
        let opened = match place {
            Place::Disk => FileRegion::open(folder, &name, &options.direct()),
            _ => FileRegion::open(folder, &name, &options),
        };
        let file = opened.map_err(|error| match error {
            FileError::NoDirectIo { .. } => anyhow::anyhow!("{error}; name another --filepath"),
            error => error.into(),
        })?;
        self.runtime.block_on(self.executor.prepare(&file))?;
        let threaded = &self.threaded;
        without_uring(|| {
            let runtime = runtime::Builder::new_current_thread().build()?;
            Ok(runtime.block_on(threaded.prepare(&file))?)
        })?;
        // Blocks of the disk are taken at once and given back with the last handle.
        std::fs::remove_file(folder.join(name))?;
        Ok(file)
    }
}
