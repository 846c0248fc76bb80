//! The resources of a process, as the system counts them from outside.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Serialize;

/// What must not grow.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Metric {
    /// Resident memory, in bytes.
    Rss,
    /// Open file descriptors, sockets included.
    Files,
    Threads,
    /// Of files, devices and memory that processes share.
    Mappings,
    /// Mappings that are the process's own: the allocator's and stacks.
    Anonymous,
    /// Open file descriptors that are sockets.
    Sockets,
    /// Pieces of peers' memory that are open here, by the executor's count.
    Imports,
    /// Peers that the connector knows, by its own count.
    Peers,
}

impl Metric {
    pub(crate) const ALL: [Self; 8] = [
        Self::Rss,
        Self::Files,
        Self::Threads,
        Self::Mappings,
        Self::Anonymous,
        Self::Sockets,
        Self::Imports,
        Self::Peers,
    ];

    /// In how much of it figures are shown.
    pub(crate) const fn unit(self) -> u64 {
        match self {
            Self::Rss => 1024,
            _ => 1,
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Rss => "KiB of RSS",
            Self::Files => "files",
            Self::Threads => "threads",
            Self::Mappings => "mappings",
            Self::Anonymous => "anonymous",
            Self::Sockets => "sockets",
            Self::Imports => "imports",
            Self::Peers => "peers",
        }
    }
}

/// A number for each metric.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub(crate) struct Sample {
    rss: u64,
    /// The part of it that other processes may share, in bytes.
    shared: u64,
    files: u64,
    threads: u64,
    mappings: u64,
    anonymous: u64,
    sockets: u64,
    imports: u64,
    peers: u64,
}

impl Sample {
    /// What the process holds now, which knows so many peers.
    pub(crate) fn of(pid: u32, peers: u64) -> Result<Self> {
        let folder = format!("/proc/{pid}");
        Self::read(Path::new(&folder), peers).with_context(|| format!("cannot look into {folder}"))
    }

    fn read(process: &Path, peers: u64) -> Result<Self> {
        let status = fs::read_to_string(process.join("status"))?;
        let field = |name: &str| {
            let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let number = value.and_then(|value| value.split_whitespace().next()?.parse().ok());
            number.with_context(|| format!("no field {name}"))
        };
        let mut sample = Self { peers, threads: field("Threads")?, ..Self::default() };
        sample.rss = field("VmRSS")? * 1024;
        sample.shared = field("RssShmem")? * 1024;
        for line in fs::read_to_string(process.join("maps"))?.lines() {
            // Address, access, offset, device, inode.
            match line.split_whitespace().nth(4) {
                Some("0") => sample.anonymous += 1,
                _ => sample.mappings += 1,
            }
        }
        for file in fs::read_dir(process.join("fd"))?.flatten() {
            sample.files += 1;
            let target = fs::read_link(file.path()).unwrap_or_default();
            sample.sockets += u64::from(target.to_string_lossy().starts_with("socket:"));
        }
        Ok(sample)
    }

    pub(crate) const fn get(&self, metric: Metric) -> u64 {
        match metric {
            Metric::Rss => self.rss,
            Metric::Files => self.files,
            Metric::Threads => self.threads,
            Metric::Mappings => self.mappings,
            Metric::Anonymous => self.anonymous,
            Metric::Sockets => self.sockets,
            Metric::Imports => self.imports,
            Metric::Peers => self.peers,
        }
    }

    /// With the buffer pool's slabs as so many bytes, whether or not each page has been used, and without its mappings and the files
    /// of its slabs. The first use of a page is no growth then, and one slab more is.
    pub(crate) fn with_pool(mut self, slabs: u64, mappings: u64, bytes: u64) -> Self {
        self.files = self.files.saturating_sub(slabs);
        self.mappings = self.mappings.saturating_sub(mappings);
        self.rss += bytes.saturating_sub(self.shared);
        self
    }

    /// With imports counted by themselves, not as mappings.
    pub(crate) fn with_imports(mut self, imports: u64) -> Self {
        self.mappings = self.mappings.saturating_sub(imports);
        self.imports = imports;
        self
    }

    /// The larger of each.
    pub(crate) fn max(self, other: Self) -> Self {
        Self {
            rss: self.rss.max(other.rss),
            shared: self.shared.max(other.shared),
            files: self.files.max(other.files),
            threads: self.threads.max(other.threads),
            mappings: self.mappings.max(other.mappings),
            anonymous: self.anonymous.max(other.anonymous),
            sockets: self.sockets.max(other.sockets),
            imports: self.imports.max(other.imports),
            peers: self.peers.max(other.peers),
        }
    }

    #[cfg(test)]
    pub(crate) fn with_files(files: u64) -> Self {
        Self { files, ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn another_process_is_counted_as_it_is() {
        let (mut here, there) = UnixStream::pair().unwrap();
        let mut child = Command::new("cat")
            .stdin(Stdio::from(OwnedFd::from(there)))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // It runs once it has copied something.
        here.write_all(b"x").unwrap();
        child.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
        let sample = Sample::of(child.id(), 5).unwrap();
        drop(here);
        child.wait().unwrap();
        assert_eq!(sample.get(Metric::Sockets), 1, "{sample:?}");
        assert_eq!(sample.get(Metric::Threads), 1, "{sample:?}");
        assert_eq!(sample.get(Metric::Peers), 5);
        assert!(sample.get(Metric::Files) >= 3, "{sample:?}");
        assert!(sample.get(Metric::Mappings) > 3 && sample.get(Metric::Rss) > 4096, "{sample:?}");
        // Its heap and its stack at least.
        assert!(sample.get(Metric::Anonymous) >= 2, "{sample:?}");
        assert!(Sample::of(child.id(), 0).is_err());
        let with_pool = sample.with_pool(1, 3, sample.shared + 7);
        assert_eq!((with_pool.mappings, with_pool.rss), (sample.mappings - 3, sample.rss + 7));
        assert_eq!(with_pool.files, sample.files - 1);
    }
}
