//! The folder that set-up fills: one sub-folder per component, each complete or absent.
//!
//! A component is filled under a temporary name and renamed when it is complete, so an
//! interrupted set-up leaves nothing that is taken for done; the next one sweeps up and repeats it.
//! A lock keeps concurrent set-ups apart.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// Says, inside a component, what it was made from.
const STAMP: &str = ".stamp";
const PARTIAL: &str = "partial";
const OLD: &str = "old";

/// The folder, locked until this value drops.
#[derive(Debug)]
pub(super) struct Store {
    dir: PathBuf,
    _lock: File,
}

/// What a component is to be.
#[derive(Debug)]
pub(super) struct Component<'a> {
    pub(super) name: &'a str,
    /// All that its contents depend on; a change makes it be filled again.
    pub(super) stamp: &'a str,
    /// Files that must be there, relative to the component.
    pub(super) files: &'a [&'a str],
}

impl Store {
    pub(super) fn open(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let path = dir.join(".lock");
        let lock =
            File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                eprintln!("waiting for another set-up of this checkout to end");
                lock.lock().with_context(|| format!("cannot lock {}", path.display()))?;
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
        let store = Self { dir: dir.to_owned(), _lock: lock };
        store.sweep()?;
        Ok(store)
    }

    /// Where the component is, or will be.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Makes sure that the component is there; `fill` puts its contents into the folder it is
    /// given and runs only when needed.
    pub(super) fn provide(
        &self,
        component: &Component<'_>,
        fill: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let dir = self.path(component.name);
        if component.is_complete(&dir) {
            return Ok(dir);
        }
        // The process number keeps out a pip that has outlived an interrupted set-up.
        let partial = dir.with_extension(format!("{}.{PARTIAL}", std::process::id()));
        fs::create_dir(&partial).with_context(|| format!("cannot create {}", partial.display()))?;
        let filled = fill(&partial).and_then(|()| {
            fs::write(partial.join(STAMP), component.stamp)?;
            anyhow::ensure!(
                component.is_complete(&partial),
                "{} lacks one of {:?}; the package has changed: see xtask/src/setup",
                partial.display(),
                component.files
            );
            replace(&partial, &dir)
        });
        if filled.is_err() {
            remove(&partial)?;
        }
        filled.map(|()| dir)
    }

    /// Removes what interrupted set-ups left.
    fn sweep(&self) -> Result<()> {
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == PARTIAL || extension == OLD) {
                remove(&path)?;
            }
        }
        Ok(())
    }
}

impl Component<'_> {
    fn is_complete(&self, dir: &Path) -> bool {
        fs::read_to_string(dir.join(STAMP)).is_ok_and(|stamp| stamp == self.stamp)
            && self.files.iter().all(|file| dir.join(file).exists())
    }
}

/// Puts `new` in the place of `dir`, which may be there.
fn replace(new: &Path, dir: &Path) -> Result<()> {
    let old = dir.with_extension(OLD);
    match fs::rename(dir, &old) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        renamed => renamed.with_context(|| format!("cannot move {} away", dir.display()))?,
    }
    fs::rename(new, dir).with_context(|| format!("cannot create {}", dir.display()))?;
    remove(&old)
}

fn remove(path: &Path) -> Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.with_context(|| format!("cannot remove {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMPONENT: Component<'_> =
        Component { name: "tool", stamp: "tool 1", files: &["lib/tool.so"] };

    fn fill(dir: &Path) -> Result<()> {
        fs::create_dir(dir.join("lib"))?;
        fs::write(dir.join("lib/tool.so"), "1")?;
        Ok(())
    }

    fn entries(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn fills_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let path = store.provide(&COMPONENT, fill).unwrap();
        assert!(path.join("lib/tool.so").exists());
        store.provide(&COMPONENT, |_| panic!("filled twice")).unwrap();
        assert_eq!(entries(dir.path()), [".lock", "tool"]);
    }

    #[test]
    fn another_stamp_or_a_lost_file_fills_again() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let path = store.provide(&COMPONENT, fill).unwrap();
        fs::write(path.join("leftover"), "").unwrap();
        let newer = Component { stamp: "tool 2", ..COMPONENT };
        store.provide(&newer, fill).unwrap();
        assert!(!path.join("leftover").exists());
        fs::remove_file(path.join("lib/tool.so")).unwrap();
        store.provide(&newer, fill).unwrap();
        assert!(path.join("lib/tool.so").exists());
    }

    #[test]
    fn a_failed_fill_keeps_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.provide(&COMPONENT, fill).unwrap();
        let newer = Component { stamp: "tool 2", ..COMPONENT };
        let error = store.provide(&newer, |_| anyhow::bail!("no network")).unwrap_err();
        assert_eq!(error.to_string(), "no network");
        let error = store.provide(&newer, |_| Ok(())).unwrap_err();
        assert!(error.to_string().contains("lib/tool.so"), "{error}");
        assert_eq!(entries(dir.path()), [".lock", "tool"]);
        store.provide(&COMPONENT, |_| panic!("was lost")).unwrap();
    }

    #[test]
    fn leftovers_of_an_interrupted_set_up_are_swept_and_never_taken_for_done() {
        let dir = tempfile::tempdir().unwrap();
        for leftover in ["tool.77.partial", "tool.old"] {
            fs::create_dir(dir.path().join(leftover)).unwrap();
            fs::write(dir.path().join(leftover).join(STAMP), COMPONENT.stamp).unwrap();
        }
        // Interrupted while a component was being removed: no stamp, some files.
        fs::create_dir_all(dir.path().join("tool/lib")).unwrap();
        fs::write(dir.path().join("tool/lib/tool.so"), "0").unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(entries(dir.path()), [".lock", "tool"]);
        let path = store.provide(&COMPONENT, fill).unwrap();
        assert_eq!(fs::read_to_string(path.join("lib/tool.so")).unwrap(), "1");
    }

    #[test]
    fn set_ups_exclude_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let lock = File::open(dir.path().join(".lock")).unwrap();
        assert!(matches!(lock.try_lock(), Err(TryLockError::WouldBlock)));
        drop(store);
        lock.try_lock().unwrap();
    }
}
