//! The reader of the small text files of `/sys` and `/proc` below a root, where anything may be missing or broken.

use std::cell::RefCell;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use serde::Serialize;

/// Something that could not be read or understood during discovery.
///
/// Discovery goes on without it: the value it stood for is `None` or absent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Note {
    path: String,
    message: String,
}

impl Note {
    /// The file or folder, as an absolute path inside the root that was searched.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What is wrong with it.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}

/// A file system below a root, with the notes taken while reading it. Paths are relative to the root.
pub(crate) struct Tree {
    root: PathBuf,
    notes: RefCell<Vec<Note>>,
}

impl Tree {
    pub(crate) fn new(root: &Path) -> Self {
        let tree = Self { root: root.to_owned(), notes: RefCell::default() };
        // Links resolve to canonical paths, so the root must be one to be found as their prefix.
        match fs::canonicalize(root) {
            Ok(root) => Self { root, ..tree },
            Err(error) => {
                tree.note("", format!("cannot be searched: {error}"));
                tree
            }
        }
    }

    pub(crate) fn into_notes(self) -> Vec<Note> {
        self.notes.into_inner()
    }

    pub(crate) fn note(&self, path: &str, message: impl Into<String>) {
        self.notes.borrow_mut().push(Note { path: format!("/{path}"), message: message.into() });
    }

    pub(crate) fn exists(&self, path: &str) -> bool {
        self.root.join(path).exists()
    }

    /// The absolute path outside the tree.
    pub(crate) fn real_path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// The text of a file as it is; `None` without a note if there is no such file.
    pub(crate) fn raw_text(&self, path: &str) -> Option<String> {
        match read_bounded(&self.root.join(path)) {
            Ok(text) if text.is_empty() => {
                self.note(path, "is empty");
                None
            }
            Ok(text) => Some(text),
            Err(error) if is_absent(&error) => None,
            Err(error) => {
                self.note(path, format!("cannot be read: {error}"));
                None
            }
        }
    }

    /// The trimmed text of a file; `None` without a note if there is no such file.
    pub(crate) fn text(&self, path: &str) -> Option<String> {
        let text = self.raw_text(path)?;
        let text = text.trim();
        if text.is_empty() {
            self.note(path, "is blank");
            return None;
        }
        Some(text.to_owned())
    }

    /// The trimmed text of a file that is often unreadable by design, so never worth a note.
    pub(crate) fn optional_text(&self, path: &str) -> Option<String> {
        let text = read_bounded(&self.root.join(path)).ok()?;
        let text = text.trim();
        (!text.is_empty()).then(|| text.to_owned())
    }

    /// The parsed text of a file; a text that does not parse becomes a note with the `expected` form.
    pub(crate) fn value<T>(
        &self,
        path: &str,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        self.parsed(path, &self.text(path)?, expected, parse)
    }

    /// The parsed text of a link that names something other than a file, as those of `/proc` do; `None` without a note
    /// if there is no such link, else as [`value`](Self::value).
    pub(crate) fn link_value<T>(
        &self,
        path: &str,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        match fs::read_link(self.root.join(path)) {
            Ok(target) => self.parsed(path, &target.to_string_lossy(), expected, parse),
            Err(error) if is_absent(&error) => None,
            Err(error) => {
                self.note(path, format!("cannot be read as a link: {error}"));
                None
            }
        }
    }

    fn parsed<T>(
        &self,
        path: &str,
        text: &str,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let value = parse(text);
        if value.is_none() {
            let start: String = text.chars().take(40).collect();
            self.note(path, format!("expected {expected}, found {start:?}"));
        }
        value
    }

    /// The names in a folder in natural order (`mlx5_2` before `mlx5_10`); none if there is no such folder.
    pub(crate) fn names(&self, path: &str) -> Vec<String> {
        let mut names = Vec::new();
        match fs::read_dir(self.root.join(path)) {
            Ok(entries) => {
                for entry in entries {
                    match entry {
                        Ok(entry) => names.push(entry.file_name().to_string_lossy().into_owned()),
                        Err(error) => self.note(path, format!("cannot be listed fully: {error}")),
                    }
                }
            }
            Err(error) if is_absent(&error) => {}
            Err(error) => self.note(path, format!("cannot be listed: {error}")),
        }
        names.sort_by_cached_key(|name| natural_key(name));
        names
    }

    /// Where a link leads, as the path components below the root; `None` without a note if there is no such link.
    pub(crate) fn resolve(&self, path: &str) -> Option<Vec<String>> {
        let link = self.root.join(path);
        let target = match fs::canonicalize(&link) {
            Ok(target) => target,
            Err(error) => {
                if fs::symlink_metadata(&link).is_ok() {
                    self.note(path, format!("leads nowhere: {error}"));
                }
                return None;
            }
        };
        let Ok(below) = target.strip_prefix(&self.root) else {
            self.note(path, "leads out of the root");
            return None;
        };
        Some(
            below
                .components()
                .filter_map(|component| match component {
                    Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
                    _ => None,
                })
                .collect(),
        )
    }
}

/// A missing file, or one below something that is a file where a folder should be.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn read_bounded(path: &Path) -> io::Result<String> {
    // The longest file read here is a node's meminfo, with less than 4 KiB.
    const MAX_BYTES: u64 = 64 * 1024;
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(io::Error::other("is longer than 64 KiB"));
    }
    String::from_utf8(bytes).map_err(|_| io::Error::other("is not UTF-8"))
}

/// Splits off a trailing number, so that it sorts by value.
fn natural_key(name: &str) -> (String, Option<u64>, String) {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let number = name[stem.len()..].parse().ok();
    (stem.to_owned(), number, name.to_owned())
}

/// Parses `0x15b3`, or the same without prefix.
pub(crate) fn parse_hex(text: &str) -> Option<u32> {
    u32::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok()
}

/// Parses a decimal number with at most three places after the point into thousandths, exactly.
pub(crate) fn parse_thousandths(text: &str) -> Option<u32> {
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if !digits(whole) || !digits(fraction) || fraction.len() > 3 {
        return None;
    }
    let thousandths: u32 = format!("{fraction:0<3}").parse().ok()?;
    whole.parse::<u32>().ok()?.checked_mul(1000)?.checked_add(thousandths)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn thousandths_are_exact(value in any::<u32>()) {
            let text = format!("{}.{:03}", value / 1000, value % 1000);
            prop_assert_eq!(parse_thousandths(&text), Some(value));
            prop_assert_eq!(parse_thousandths(text.trim_end_matches('0')), Some(value));
        }

        #[test]
        fn any_text_is_a_number_or_not(text in any::<String>()) {
            let _ = (parse_thousandths(&text), parse_hex(&text), natural_key(&text));
        }
    }

    #[test]
    fn numbered_names_sort_by_number() {
        let mut names = ["mlx5_10", "mlx5_2", "mlx4_0", "mlx5_bond_0", "eth"].map(String::from);
        names.sort_by_cached_key(|name| natural_key(name));
        assert_eq!(names, ["eth", "mlx4_0", "mlx5_2", "mlx5_10", "mlx5_bond_0"]);
    }

    #[test]
    fn thousandths_reject_what_is_not_a_plain_number() {
        for text in ["", ".5", "-1", "+1", "1.2345", "1e3", "1.-1", "99999999"] {
            assert_eq!(parse_thousandths(text), None, "{text:?}");
        }
    }
}
