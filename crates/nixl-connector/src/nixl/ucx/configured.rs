//! The settings in UCX's configuration files, read as UCX reads them.
//!
//! UCX reads the files of several folders, and a later file overrides an earlier one. The environment overrides them all. Sections are for
//! some machines; here their settings count on every machine.
//!
//! `cargo xtask doctor` compiles this file too.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use super::super::settings_files;

/// The name of the file, in each of some folders.
const NAME: &str = "ucx.conf";

/// UCX reads lines into so many bytes, and the rest of a longer one as the next.
const LINE: usize = 199;

/// Settings by their names without `UCX_`, each with its file.
pub(super) type Configured = BTreeMap<String, (String, PathBuf)>;

/// Reads the files of these folders, the last of which overrides the others. A file that cannot be read is none for UCX, too.
pub(super) fn read(folders: &[PathBuf]) -> Configured {
    let mut configured = Configured::new();
    for path in paths(folders) {
        let content = settings_files::check(&path).and_then(|()| fs::read(&path));
        for (name, value) in content.map_or_else(|_| Vec::new(), |content| parse(&content)) {
            if let Some(name) = name.strip_prefix("UCX_") {
                configured.insert(name.to_owned(), (value, path.clone()));
            }
        }
    }
    configured
}

fn paths(folders: &[PathBuf]) -> impl Iterator<Item = PathBuf> {
    folders.iter().map(|folder| folder.join(NAME))
}

/// The first file at whose reading UCX would wait, or be busy for long, and why. UCX opens a folder in vain.
pub(super) fn hindrance(folders: &[PathBuf]) -> Option<String> {
    paths(folders).find_map(|path| {
        let found = fs::metadata(&path).ok().filter(|found| !found.is_dir());
        let error = found.and_then(|_| settings_files::check(&path).err())?;
        Some(format!("UCX reads its settings from {}: {error}", path.display()))
    })
}

/// Names and values, in order.
fn parse(content: &[u8]) -> Vec<(String, String)> {
    let content = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content);
    let (mut settings, mut last) = (Vec::new(), String::new());
    for line in content.split(|byte| *byte == b'\n').flat_map(|line| line.chunks(LINE)) {
        let line = String::from_utf8_lossy(line);
        let text = line.trim();
        if text.is_empty() || text.starts_with([';', '#']) {
            continue;
        }
        if text.starts_with('[') {
            last.clear();
        } else if !last.is_empty() && line.starts_with([' ', '\t']) {
            // It goes on with the setting before, and takes the place of its value.
            settings.push((last.clone(), without_comment(text)));
        } else if let Some((name, value)) = text.split_once(['=', ':']) {
            name.trim().clone_into(&mut last);
            settings.push((last.clone(), without_comment(value)));
        }
    }
    settings
}

fn without_comment(value: &str) -> String {
    let mut before = ' ';
    let comment = value.find(|c| std::mem::replace(&mut before, c).is_whitespace() && c == ';');
    value[..comment.unwrap_or(value.len())].trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(content: &str) -> Vec<(String, String)> {
        parse(content.as_bytes())
    }

    fn is(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn lines_are_read_as_ucx_reads_them() {
        let content = "\u{feff}A=1\n  # no\n; no\nB : 2 ; why\n[for some]\n C=a;b \nD=\n   4\nno setting\n\nE=x=y";
        let expected =
            [is("A", "1"), is("B", "2"), is("C", "a;b"), is("D", ""), is("D", "4"), is("E", "x=y")];
        assert_eq!(parsed(content), expected);
        let long = format!("A={}B=2", "x".repeat(LINE - 2));
        assert_eq!(parsed(&long)[1], is("B", "2"));
    }

    #[test]
    fn the_last_file_counts() {
        let folders = [(); 3].map(|()| tempfile::tempdir().unwrap());
        let write = |at: usize, text| fs::write(folders[at].path().join(NAME), text).unwrap();
        write(0, "UCX_A=1\nUCX_B=2\nOTHER=3");
        write(2, "UCX_A=4");
        let path = |at: usize| folders[at].path().join(NAME);
        let configured = read(&folders.each_ref().map(|folder| folder.path().to_owned()));
        let expected = [("A", "4", path(2)), ("B", "2", path(0))];
        let expected =
            expected.map(|(name, value, path)| (name.to_owned(), (value.to_owned(), path)));
        assert_eq!(configured, Configured::from(expected));
    }
}
