//! The needs of a program or shared library: loader, libraries, versions of symbols.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::files;

/// What an ELF file needs from others.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Object {
    /// Names of shared libraries.
    pub(super) needed: Vec<String>,
    /// Versions of symbols: `GLIBC_2.34`, `GLIBCXX_3.4.9`.
    versions: Vec<String>,
}

impl Object {
    pub(super) fn read(path: &Path) -> Result<Self> {
        let output = Command::new("objdump")
            .env("LC_ALL", "C")
            .arg("-p")
            .arg(path)
            .output()
            .context("cannot start `objdump`: install binutils, which comes with g++")?;
        if !output.status.success() {
            let reason = String::from_utf8_lossy(&output.stderr);
            bail!("`objdump -p {}` failed: {}", path.display(), reason.trim());
        }
        Ok(Self::parse(&String::from_utf8_lossy(&output.stdout)))
    }

    /// Reads lines `NEEDED  libc.so.6` and, below `Version References:`, `0x069691b4 0x00 02 GLIBC_2.34`.
    fn parse(text: &str) -> Self {
        let mut object = Self::default();
        let mut references = false;
        for line in text.lines() {
            if !line.starts_with(' ') {
                references = line.starts_with("Version References:");
                continue;
            }
            let words: Vec<&str> = line.split_whitespace().collect();
            match *words {
                ["NEEDED", library] => object.needed.push(library.to_owned()),
                [_, _, _, version] if references => object.versions.push(version.to_owned()),
                _ => {}
            }
        }
        object
    }

    /// The newest glibc that it asks for.
    fn glibc(&self) -> Option<(u32, u32)> {
        self.versions
            .iter()
            .filter_map(|version| {
                let mut numbers = version.strip_prefix("GLIBC_")?.split('.');
                Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
            })
            .max()
    }
}

/// Whether a file is a program or a shared library.
pub(super) fn is_elf(path: &Path) -> bool {
    let mut magic = [0; 4];
    std::fs::File::open(path)
        .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut magic))
        .is_ok()
        && magic == *b"\x7fELF"
}

/// An error names the files of the bundle that want a newer glibc than `limit`.
pub(super) fn check_glibc(bundle: &Path, limit: (u32, u32)) -> Result<()> {
    let mut newer = String::new();
    for path in files(bundle)? {
        if !is_elf(&path) {
            continue;
        }
        if let Some((major, minor)) = Object::read(&path)?.glibc().filter(|glibc| *glibc > limit) {
            let name = path.strip_prefix(bundle).unwrap_or(&path).display();
            newer.push_str(&format!("\n  {name} needs glibc {major}.{minor}"));
        }
    }
    if !newer.is_empty() {
        bail!(
            "the bundle must run with glibc {}.{}, but{newer}\n  -> make it on a machine with that glibc, such as \
             a container of Debian 12",
            limit.0,
            limit.1,
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DUMP: &str = "\n/bin/x:     file format elf64-x86-64\n\n\
        Program Header:\n    PHDR off    0x40 vaddr 0x40\n\n\
        Dynamic Section:\n  NEEDED               libstdc++.so.6\n  NEEDED               libc.so.6\n\
        \x20 FLAGS                0x0000000000000008\n\n\
        Version definitions:\n1 0x01 0x0b792650 GLIBC_2.99\n\n\
        Version References:\n  required from libstdc++.so.6:\n    0x08922974 0x00 09 GLIBCXX_3.4\n\
        \x20 required from libc.so.6:\n    0x09691a75 0x00 03 GLIBC_2.2.5\n    0x069691b4 0x00 02 GLIBC_2.34\n\
        \x20   0x0fd0e42 0x00 02 GLIBC_ABI_DT_RELR\n    0x0d696919 0x00 16 GLIBC_2.9\n\n";

    #[test]
    fn reads_what_is_needed() {
        let object = Object::parse(DUMP);
        assert_eq!(object.needed, ["libstdc++.so.6", "libc.so.6"]);
        assert_eq!(object.versions.len(), 5);
        // As numbers: 34 is more than 9.
        assert_eq!(object.glibc(), Some((2, 34)));
        assert_eq!(Object::parse("").glibc(), None);
    }

    #[test]
    fn too_new_a_glibc_is_named() {
        let bundle = tempfile::tempdir().unwrap();
        std::fs::write(bundle.path().join("README"), "text").unwrap();
        std::fs::copy(std::env::current_exe().unwrap(), bundle.path().join("us")).unwrap();
        check_glibc(bundle.path(), (2, u32::MAX)).unwrap();
        let error = check_glibc(bundle.path(), (2, 1)).unwrap_err().to_string();
        assert!(error.contains("glibc 2.1, but\n  us needs glibc 2."), "{error}");
    }
}
