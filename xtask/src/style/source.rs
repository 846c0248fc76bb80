//! Source files of a crate, without their tests.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// One file's lines, up to its module of tests.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) lines: Vec<String>,
}

/// All source files below a folder, in order of their paths. Files of tests are left out.
pub(super) fn files(folder: &Path) -> Result<Vec<Source>> {
    let paths = paths(folder)?.into_iter().filter(|path| !is_test(path, folder));
    paths.map(|path| file(&path)).collect()
}

/// One source file.
pub(super) fn file(path: &Path) -> Result<Source> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Source::without_tests(&text))
}

/// The paths of all source files below a folder, in order.
pub(super) fn paths(folder: &Path) -> Result<Vec<PathBuf>> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        let entries =
            fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Whether a file below `folder` is of tests by its name or the name of a folder.
pub(super) fn is_test(path: &Path, folder: &Path) -> bool {
    let inside = path.strip_prefix(folder).unwrap_or(path);
    let mut names = inside
        .with_extension("")
        .components()
        .map(|c| c.as_os_str().to_owned())
        .collect::<Vec<_>>()
        .into_iter();
    names.any(|name| matches!(name.to_str(), Some("tests" | "test" | "loom_model")))
}

impl Source {
    /// Modules of tests come last in a file.
    pub(super) fn without_tests(text: &str) -> Self {
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let begins = |at: &usize| {
            let attribute = lines
                .get(*at)
                .is_some_and(|line| line.starts_with("#[cfg(") && line.contains("test"));
            let module =
                lines.get(at + 1..).into_iter().flatten().find(|line| !line.starts_with("#["));
            attribute && module.is_some_and(|line| line.contains("mod ") && line.ends_with('{'))
        };
        let end = (0..lines.len()).find(begins).unwrap_or(lines.len());
        Self { lines: lines.into_iter().take(end).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_of_tests_are_cut_off() {
        let source = Source::without_tests(
            "fn a() {}\n\n#[cfg(test)]\n#[allow(x)]\nmod tests {\n    y\n}\n",
        );
        assert_eq!(source.lines, ["fn a() {}", ""]);
        let source = Source::without_tests("#[cfg(test)]\nmod tests;\n\nfn a() {}\n");
        assert_eq!(source.lines.len(), 4);
    }

    #[test]
    fn files_of_tests_are_known_by_their_names() {
        let folder = Path::new("/tests/src");
        assert!(is_test(Path::new("/tests/src/a/tests.rs"), folder));
        assert!(is_test(Path::new("/tests/src/tests/a.rs"), folder));
        assert!(!is_test(Path::new("/tests/src/a.rs"), folder));
    }
}
