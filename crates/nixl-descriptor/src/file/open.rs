//! Opening of files beneath a folder.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nixl_device::FileIdentity;
use rustix::fs::{
    AtFlags, CWD, FallocateFlags, Mode, OFlags, ResolveFlags, Stat, fallocate, fcntl_getfl,
    fcntl_setfl, fstat, fsync, ftruncate, openat, openat2, unlinkat,
};
use rustix::io::retry_on_intr;
use rustix::process::geteuid;

use super::alignment::FileAlignment;
use super::error::FileError;
use super::kind::FileKind;
use super::region::{FileRegion, Opened};
use crate::access::Access;

/// How a file is opened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FileOptions {
    access: Access,
    direct: bool,
    create: Option<u64>,
    any_owner: bool,
}

impl FileOptions {
    /// An existing file of this process's user, for reading, through the page cache.
    #[must_use]
    pub fn read_only() -> Self {
        Self { access: Access::ReadOnly, direct: false, create: None, any_owner: false }
    }

    /// The same, for reading and writing.
    #[must_use]
    pub fn read_write() -> Self {
        Self { access: Access::ReadWrite, ..Self::read_only() }
    }

    /// Bypasses the page cache where addresses, offsets and lengths are aligned as the file system demands. What is not aligned
    /// goes through the page cache.
    #[must_use]
    pub fn direct(self) -> Self {
        Self { direct: true, ..self }
    }

    /// Creates the file, which must not exist, with `len` bytes of reserved room, at least one. Its name and its size are on the
    /// disk when it is open.
    #[must_use]
    pub fn create(self, len: u64) -> Self {
        Self { create: Some(len), access: Access::ReadWrite, ..self }
    }

    /// Accepts a file of another user, whose content is then that user's.
    #[must_use]
    pub fn any_owner(self) -> Self {
        Self { any_owner: true, ..self }
    }

    fn flags(&self) -> OFlags {
        let access = match self.access {
            Access::ReadOnly => OFlags::RDONLY,
            Access::ReadWrite => OFlags::RDWR,
        };
        // A FIFO or a device that takes the file's place in the meantime must not block.
        access | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK
    }
}

const BENEATH: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

impl FileRegion {
    /// Opens a regular file beneath `folder`, by a relative name, over no symbolic link.
    ///
    /// **Blocks** as long as the file system takes: not for async threads. Panics: never.
    ///
    /// # Errors
    /// [`FileError`]: there is no such file or it exists, it is no regular file or another user's, the name leads out of the
    /// folder or over a link, the system denies the access, there is no room, or no direct I/O.
    pub fn open(
        folder: impl AsRef<Path>,
        name: impl AsRef<Path>,
        options: &FileOptions,
    ) -> Result<Self, FileError> {
        let (folder, name) = (folder.as_ref(), name.as_ref());
        let path = folder.join(name);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        // Without the right to list the folder, the file can still be reached.
        let folder_fd = openat(CWD, folder, flags, Mode::empty()).or_else(|_| {
            openat(CWD, folder, flags.difference(OFlags::RDONLY) | OFlags::PATH, Mode::empty())
        });
        let folder_fd = folder_fd.map_err(|errno| FileError::of(errno, "open", folder, 0))?;
        let beneath = Beneath { folder: &folder_fd, name, path: &path, options };
        let file = match options.create {
            Some(len) => beneath.create(len)?,
            None => beneath.open()?,
        };
        let (direct, alignment) = beneath.direct(&file).inspect_err(|_| {
            if options.create.is_some() {
                beneath.discard(&file);
            }
        })?;
        let identity = beneath.identity(&file)?;
        Ok(Self::new(Opened { file, direct, path, identity, alignment, access: options.access }))
    }

    /// Takes a descriptor of a regular file, which is read and written through the page cache. It is closed with the last handle
    /// to the region.
    ///
    /// **Blocks** as long as the file system takes. Panics: never.
    ///
    /// # Errors
    /// [`FileError::NotRegular`]; [`FileError::Descriptor`] if it cannot be read, appends, or bypasses the page cache.
    pub fn from_descriptor(file: OwnedFd) -> Result<Self, FileError> {
        let path = Path::new("a descriptor").to_owned();
        let system = |call| {
            let path = path.clone();
            move |errno| FileError::of(errno, call, &path, 0)
        };
        let stat = fstat(&file).map_err(system("fstat"))?;
        if let Some(kind) = FileKind::of(stat.st_mode) {
            return Err(FileError::NotRegular { path, kind });
        }
        let flags = fcntl_getfl(&file).map_err(system("fcntl"))?;
        let reason = if flags.contains(OFlags::PATH) || flags.contains(OFlags::WRONLY) {
            Some("it cannot be read: open the file for reading, or for both")
        } else if flags.contains(OFlags::APPEND) {
            Some("it appends at any offset: open the file without O_APPEND")
        } else if flags.contains(OFlags::DIRECT) {
            Some("it has O_DIRECT: open the file by FileRegion::open, which reads its alignment")
        } else {
            None
        };
        if let Some(reason) = reason {
            return Err(FileError::Descriptor { path, reason });
        }
        let access = match flags.contains(OFlags::RDWR) {
            true => Access::ReadWrite,
            false => Access::ReadOnly,
        };
        let identity = FileIdentity::new(stat.st_dev, stat.st_ino);
        let alignment = FileAlignment::NONE;
        Ok(Self::new(Opened { file, direct: None, path, identity, alignment, access }))
    }
}

/// A name beneath an open folder.
struct Beneath<'a> {
    folder: &'a OwnedFd,
    name: &'a Path,
    path: &'a Path,
    options: &'a FileOptions,
}

impl Beneath<'_> {
    /// Opens an existing file, after a look at it that has no effect on what it is.
    fn open(&self) -> Result<OwnedFd, FileError> {
        self.check(self.openat(OFlags::PATH | OFlags::CLOEXEC)?)?;
        let file = self.check(self.openat(self.options.flags())?)?;
        self.block(&file)?;
        Ok(file)
    }

    /// Creates a file with room for `len` bytes, or leaves none.
    fn create(&self, len: u64) -> Result<OwnedFd, FileError> {
        if len == 0 {
            return Err(FileError::Empty { path: self.path.to_owned() });
        }
        let flags = self.options.flags() | OFlags::CREATE | OFlags::EXCL;
        let file = self.openat(flags)?;
        let reserved = self.reserve(&file, len).and_then(|()| self.block(&file));
        if let Err(error) = reserved {
            self.discard(&file);
            return Err(error);
        }
        Ok(file)
    }

    /// Removes a file that was created, and the room that it has: a file system without enough gives some of it nevertheless.
    fn discard(&self, file: &OwnedFd) {
        let _ = ftruncate(file, 0);
        let _ = unlinkat(self.folder, self.name, AtFlags::empty());
    }

    fn reserve(&self, file: &OwnedFd, len: u64) -> Result<(), FileError> {
        use rustix::io::Errno;
        match retry_on_intr(|| fallocate(file, FallocateFlags::empty(), 0, len)) {
            Ok(()) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                return Err(FileError::NoPreallocation { path: self.path.to_owned() });
            }
            Err(errno) => return Err(self.error(errno, "fallocate", len)),
        }
        fsync(file).map_err(|errno| self.error(errno, "fsync", len))?;
        match fsync(self.folder) {
            // A folder that this process may not list, or of a file system without that call.
            Ok(()) | Err(Errno::BADF | Errno::INVAL) => Ok(()),
            Err(errno) => Err(self.error(errno, "fsync", len)),
        }
    }

    /// The same file past the page cache and its alignment, if wanted.
    fn direct(&self, file: &OwnedFd) -> Result<(Option<OwnedFd>, FileAlignment), FileError> {
        if !self.options.direct {
            return Ok((None, FileAlignment::NONE));
        }
        let direct = self.open_direct(file)?;
        let alignment = FileAlignment::of_direct(&direct)
            .ok_or_else(|| FileError::NoDirectIo { path: self.path.to_owned() })?;
        Ok((Some(direct), alignment))
    }

    /// The same file past the page cache.
    fn open_direct(&self, file: &OwnedFd) -> Result<OwnedFd, FileError> {
        let no_direct = || FileError::NoDirectIo { path: self.path.to_owned() };
        let flags = self.options.flags() | OFlags::DIRECT;
        let direct = match retry_on_intr(|| self.openat2(flags)) {
            Ok(direct) => self.check(direct)?,
            Err(rustix::io::Errno::INVAL) => return Err(no_direct()),
            Err(errno) => return Err(self.error(errno, "openat2", 0)),
        };
        if self.identity(&direct)? != self.identity(file)? {
            return Err(FileError::Replaced { path: self.path.to_owned() });
        }
        self.block(&direct)?;
        Ok(direct)
    }

    fn openat(&self, flags: OFlags) -> Result<OwnedFd, FileError> {
        retry_on_intr(|| self.openat2(flags)).map_err(|errno| self.error(errno, "openat2", 0))
    }

    fn openat2(&self, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let mode = match flags.contains(OFlags::CREATE) {
            true => Mode::RUSR | Mode::WUSR,
            false => Mode::empty(),
        };
        openat2(self.folder, self.name, flags, mode, BENEATH)
    }

    /// That it is a regular file, of a user that is trusted.
    fn check(&self, file: OwnedFd) -> Result<OwnedFd, FileError> {
        let stat = self.stat(&file)?;
        let path = || self.path.to_owned();
        if let Some(kind) = FileKind::of(stat.st_mode) {
            return Err(FileError::NotRegular { path: path(), kind });
        }
        let (owner, user) = (stat.st_uid, geteuid().as_raw());
        if owner != user && !self.options.any_owner {
            return Err(FileError::ForeignOwner { path: path(), owner, user });
        }
        Ok(file)
    }

    /// Reads that would wait do so again, as io_uring expects of a file.
    fn block(&self, file: &OwnedFd) -> Result<(), FileError> {
        let flags = fcntl_getfl(file).map_err(|errno| self.error(errno, "fcntl", 0))?;
        fcntl_setfl(file, flags.difference(OFlags::NONBLOCK))
            .map_err(|errno| self.error(errno, "fcntl", 0))
    }

    fn identity(&self, file: impl AsFd) -> Result<FileIdentity, FileError> {
        let stat = self.stat(file)?;
        Ok(FileIdentity::new(stat.st_dev, stat.st_ino))
    }

    fn stat(&self, file: impl AsFd) -> Result<Stat, FileError> {
        fstat(file).map_err(|errno| self.error(errno, "fstat", 0))
    }

    fn error(&self, errno: rustix::io::Errno, call: &'static str, len: u64) -> FileError {
        FileError::of(errno, call, self.path, len)
    }
}
