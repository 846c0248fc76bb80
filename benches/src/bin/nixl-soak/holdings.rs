//! The files and mappings of a process by name, for the message of a failure.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

/// How many of each name there are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Holdings(BTreeMap<String, usize>);

impl Holdings {
    /// Those of a process now.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let folder = format!("/proc/{pid}");
        Self::read(Path::new(&folder)).with_context(|| format!("cannot look into {folder}"))
    }

    fn read(process: &Path) -> Result<Self> {
        let mut names = BTreeMap::new();
        for line in fs::read_to_string(process.join("maps"))?.lines() {
            // Address, access, offset, device, inode, name.
            if let Some(at) = line.find(['/', '[']) {
                *names.entry(format!("mapping of {}", without_digits(&line[at..]))).or_default() +=
                    1;
            }
        }
        for file in fs::read_dir(process.join("fd"))?.flatten() {
            let target = fs::read_link(file.path()).unwrap_or_default();
            let target = without_digits(&target.to_string_lossy());
            *names.entry(format!("file {target}")).or_default() += 1;
        }
        Ok(Self(names))
    }

    /// What it has more of than `before`.
    pub(crate) fn beyond(&self, before: &Self) -> String {
        let more = self.0.iter().filter_map(|(name, &now)| {
            let more = now.saturating_sub(before.0.get(name).copied().unwrap_or(0));
            (more > 0).then(|| format!("{more} x {name}"))
        });
        more.collect::<Vec<_>>().join(", ")
    }
}

/// A name as that of a class: `socket:[1234]` is one of many, and so is the random name of a file in memory.
fn without_digits(name: &str) -> String {
    let mut class = String::with_capacity(name.len());
    let mut left = name;
    while let Some(letter) = left.chars().next() {
        let hex = left.len() - left.trim_start_matches(|c: char| c.is_ascii_hexdigit()).len();
        let digits = left.len() - left.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let number = if hex >= 16 { hex } else { digits };
        class.push(if number > 0 { '#' } else { letter });
        left = &left[number.max(letter.len_utf8())..];
    }
    class
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_more_is_named() {
        let before = Holdings::of(std::process::id()).unwrap();
        let file = fs::File::open("/proc/self/cmdline").unwrap();
        let more = Holdings::of(std::process::id()).unwrap().beyond(&before);
        drop(file);
        assert!(more.contains("1 x file /proc/#/cmdline"), "{more}");
        assert_eq!(without_digits("socket:[12] 3a45"), "socket:[#] #a#");
        let file = "/memfd:nixl-0123456789abcdef0123456789abcdef (deleted)";
        assert_eq!(without_digits(file), "/memfd:nixl-# (deleted)");
    }
}
