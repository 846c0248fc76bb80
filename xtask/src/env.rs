//! `cargo xtask env`: what a build outside this workspace needs to know.
//!
//! Inside, `.cargo/config.toml` names the folders that set-up fills; cargo does not read it for crates elsewhere.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

use crate::setup;
use crate::workspace::Workspace;

/// The first line of each file that this command writes; it overwrites no other.
const MARK: &str =
    "# Written by `cargo xtask env --cargo-config` of nixl-rs, which may write it again.";

/// Each variable, and where set-up puts what it names, below its folder.
const VARIABLES: [(&str, Option<&str>); 4] = [
    ("LIBCLANG_PATH", Some("libclang/lib")),
    ("CLANG_PATH", Some("libclang/bin/clang")),
    ("NIXL_PREFIX", None),
    ("NIXL_RUNTIME_DIR", Some("runtime")),
];

/// Sets up what is missing, then prints the variables as a shell takes them, or writes them to `.cargo/config.toml` below
/// the folder `crate_root`.
pub(crate) fn run(workspace: &Workspace, crate_root: Option<&Path>) -> Result<()> {
    setup::run(workspace, false)?;
    let variables = variables(&workspace.store(), |name| env::var_os(name))?;
    let Some(crate_root) = crate_root else {
        print!("{}", shell(&variables));
        return Ok(());
    };
    let path = write(crate_root, &toml(&variables))?;
    eprintln!("wrote {}", path.display());
    Ok(())
}

/// What builds of this workspace use: variables that the caller has set, else what set-up provides. Those that name
/// nothing are left out: NIXL's folder, for instance, where NIXL is installed.
fn variables(
    store: &Path,
    var: impl Fn(&str) -> Option<OsString>,
) -> Result<Vec<(&'static str, String)>> {
    let mut found = Vec::new();
    for (name, folder) in VARIABLES {
        let value = var(name).filter(|value| !value.is_empty());
        let path = value.map(PathBuf::from).or_else(|| Some(store.join(folder?)));
        let Some(path) = path.filter(|path| path.exists()) else { continue };
        let path = path.canonicalize().with_context(|| format!("cannot look at {name}"))?;
        let Some(text) = path.to_str() else {
            bail!("{name} is {}, which is no UTF-8: move it to another folder", path.display());
        };
        found.push((name, text.to_owned()));
    }
    Ok(found)
}

/// Lines for `eval "$(cargo xtask env)"`.
fn shell(variables: &[(&str, String)]) -> String {
    let quoted = |value: &str| value.replace('\'', r"'\''");
    let lines =
        variables.iter().map(|(name, value)| format!("export {name}='{}'\n", quoted(value)));
    lines.collect()
}

/// The whole file. A variable that is set when cargo runs goes before.
fn toml(variables: &[(&str, String)]) -> String {
    let lines = variables.iter().map(|(name, value)| format!("{name} = {}\n", basic_string(value)));
    format!("{MARK}\n[env]\n{}", lines.collect::<String>())
}

/// A string of TOML.
fn basic_string(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// Writes the file, unless there is one that this command has not written.
fn write(crate_root: &Path, text: &str) -> Result<PathBuf> {
    ensure!(
        crate_root.is_dir(),
        "{} is not a folder: give the folder of the crate that gets `.cargo/config.toml`",
        crate_root.display()
    );
    let folder = crate_root.join(".cargo");
    let path = folder.join("config.toml");
    match fs::read_to_string(&path) {
        Ok(there) if there.lines().next() == Some(MARK) => {}
        Ok(_) => bail!(
            "{} is there and was not written by this command: put what `cargo xtask env` prints into its table `[env]`",
            path.display()
        ),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    // Complete or absent, also for a cargo that reads it meanwhile.
    let partial = folder.join(format!("config.toml.{}.partial", std::process::id()));
    let written = fs::write(&partial, text).and_then(|()| fs::rename(&partial, &path));
    if written.is_err() {
        let _ = fs::remove_file(&partial);
    }
    written.with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::process;

    const HOSTILE: &str = "/a b/it's \"quoted\"/$HOME/`id`/back\\slash/ü";

    #[test]
    fn what_the_caller_has_set_goes_before_what_set_up_provides() {
        let store = tempfile::tempdir().unwrap();
        let root = store.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("libclang/lib")).unwrap();
        fs::create_dir(root.join("own")).unwrap();
        let found = variables(&root, |_| None).unwrap();
        let expected = root.join("libclang/lib").to_str().unwrap().to_owned();
        assert_eq!(found, [("LIBCLANG_PATH", expected.clone())], "the others name nothing");
        let own = |name: &str| match name {
            "NIXL_RUNTIME_DIR" => Some(root.join("own").into_os_string()),
            _ => Some(OsString::new()),
        };
        let found = variables(&root, own).unwrap();
        let own = root.join("own").to_str().unwrap().to_owned();
        assert_eq!(found, [("LIBCLANG_PATH", expected), ("NIXL_RUNTIME_DIR", own)]);
    }

    #[test]
    fn a_shell_reads_what_is_printed() {
        let lines = shell(&[("LIBCLANG_PATH", HOSTILE.to_owned())]);
        let script = format!("{lines}printf %s \"$LIBCLANG_PATH\"");
        let read = process::output(Command::new("/bin/sh").args(["-c", &script]));
        assert_eq!(read.as_deref(), Some(HOSTILE));
    }

    #[test]
    fn strings_of_toml_escape_what_they_must() {
        assert_eq!(basic_string("/plain/ü"), "\"/plain/ü\"");
        assert_eq!(basic_string("a\"b\\c\nd\u{7f}"), "\"a\\\"b\\\\c\\u000Ad\\u007F\"");
    }

    #[test]
    fn its_own_file_is_written_again_and_no_other() {
        let root = tempfile::tempdir().unwrap();
        let first = toml(&[("CLANG_PATH", "/one".to_owned())]);
        let path = write(root.path(), &first).unwrap();
        let second = toml(&[("CLANG_PATH", "/two".to_owned())]);
        write(root.path(), &second).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), second);
        assert_eq!(fs::read_dir(root.path().join(".cargo")).unwrap().count(), 1);

        let own = "[env]\nLIBCLANG_PATH = \"/mine\"\n";
        fs::write(&path, own).unwrap();
        let error = write(root.path(), &first).unwrap_err();
        assert!(error.to_string().contains("was not written by this command"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), own);
    }

    #[test]
    fn a_folder_that_is_not_there_is_not_made() {
        let root = tempfile::tempdir().unwrap();
        let absent = root.path().join("absent");
        assert!(write(&absent, "").is_err());
        assert!(!absent.exists());
    }
}
