//! Lines on stdout, and nothing else there.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;

use nixl_descriptor::Region;
use rustix::stdio::{dup2_stdout, stderr};

use super::Result;
use super::memory::one_line;

/// This program's stdout, kept to itself: UCX prints its warnings on stdout too, and from here on they go to
/// stderr, so that other software can read what is left.
pub(crate) struct Output(File);

impl Output {
    pub(crate) fn new() -> io::Result<Self> {
        let stdout = io::stdout().as_fd().try_clone_to_owned()?;
        dup2_stdout(stderr())?;
        Ok(Self(stdout.into()))
    }

    /// Prints one line, at once.
    pub(crate) fn line(&mut self, line: impl Display) -> Result {
        let written = self.0.write_all(format!("{line}\n").as_bytes());
        written.map_err(|error| format!("cannot write to stdout: {error}").into())
    }

    /// Says that an operation is done, and what is in its memory now.
    pub(crate) fn complete(&mut self, memory: &Region) -> Result {
        let bytes = nixl_memories::read(memory, 0..memory.len()).map_err(one_line)?;
        let crc32 = crc32fast::hash(&bytes);
        self.line(format_args!("complete crc32={crc32:08x}"))
    }
}
