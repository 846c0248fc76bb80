//! `cargo xtask mutants`: the model of grants fails for each wrong way to check a read.
//!
//! Each mutant is a change of the sources, in a copy of them. Those of the check pass all that a single thread can see.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};

use crate::process;
use crate::programs;
use crate::workspace::Workspace;

/// A wrong way, and how to get it.
struct Mutant {
    name: &'static str,
    edits: &'static [Edit],
}

/// A text that is once in a file, and what takes its place.
struct Edit {
    file: &'static str,
    from: &'static str,
    to: &'static str,
}

const READS: &str = "crates/nixl-connector/src/grants/remote/reads.rs";
const CHECK: &str = "crates/nixl-ops/src/grants/check.rs";
const CHANGES: &str = "crates/nixl-ops/src/grants/table/changes.rs";
const STATE: &str = "crates/nixl-ops/src/grants/table/state.rs";

/// The words are not looked at after the bytes.
const NOT_AFTER: Edit = Edit {
    file: READS,
    from: "                check.check_mapped(words).map_err(refused)?;
                if done.path().is_none_or(|path| path.kind() != PathKind::SharedMemory) {
                    words.check_owner()?;
                }
            }
            (_, Some(words)) => {
                words.check(&check, &peer, operation.spending(done.elapsed())).await?;
            }
",
    to: "            }
            (_, Some(_)) => _ = (&peer, operation),
",
};

const MUTANTS: [Mutant; 6] = [
    Mutant {
        name: "no check",
        edits: &[Edit {
            file: CHECK,
            from: "        if word != self.generation {
            return Err(StaleRead::Stale);
        }
        if digest != self.digest {
",
            to: "        if word != self.generation {
            return Ok(());
        }
        if digest != self.digest {
",
        }],
    },
    Mutant {
        name: "check before the bytes",
        edits: &[
            Edit {
                file: READS,
                from: "        let (done, peer, operation) =\n",
                to: "        if let (Some(words), Some(peer)) = (&under_way, &self.0.peer) {
            words.check(&check, peer, operation).await?;
        }
        let (done, peer, operation) =\n",
            },
            NOT_AFTER,
        ],
    },
    Mutant {
        name: "word in the same request",
        edits: &[
            Edit {
                file: READS,
                from: "        let (done, peer, operation) =
            self.read_bytes((ticket, local, blocks), &part, of, under).await?;
",
                to: "        let beside = async {
            match (&under_way, &self.0.peer) {
                (Some(words), Some(peer)) => words.check(&check, peer, operation).await.map(drop),
                _ => Ok(()),
            }
        };
        let bytes = self.read_bytes((ticket, local, blocks), &part, of, under);
        let (bytes, beside) = tokio::join!(bytes, beside);
        beside?;
        let (done, peer, operation) = bytes?;
",
            },
            NOT_AFTER,
        ],
    },
    Mutant {
        name: "raise after reuse",
        edits: &[Edit {
            file: CHANGES,
            from: "        table.words.raise(slot, value);\n",
            to: "        type Late = Option<(std::sync::Arc<super::super::words::GrantWords>, u32, u64)>;
        static LATE: std::sync::Mutex<Late> = std::sync::Mutex::new(None);
        let next = (std::sync::Arc::clone(&table.words), slot, value);
        if let Some((words, slot, value)) = LATE.lock().unwrap().replace(next) {
            words.raise(slot, value);
        }
",
        }],
    },
    Mutant {
        name: "word cached 1 ms",
        edits: &[Edit {
            file: CHECK,
            from: "    pub fn check_mapped(&self, words: &ReadOnlyWords) -> Result<(), StaleRead> {
        self.check(words)
",
            to: "    pub fn check_mapped(&self, words: &ReadOnlyWords) -> Result<(), StaleRead> {
        use std::time::{Duration, Instant};
        static STOOD: std::sync::Mutex<Vec<(WordCheck, Instant)>> = std::sync::Mutex::new(Vec::new());
        let mut stood = STOOD.lock().unwrap();
        stood.retain(|(_, at)| at.elapsed() < Duration::from_millis(1));
        if stood.iter().all(|(check, _)| check != self) {
            self.check(words)?;
            stood.push((*self, Instant::now()));
        }
        Ok(())
",
        }],
    },
    Mutant {
        name: "value used twice",
        edits: &[Edit {
            file: STATE,
            from: "        self.value = self.value.wrapping_add(1);\n",
            to: "        self.value = (self.value & !1) | (self.value.wrapping_add(1) & 1);\n",
        }],
    },
];

/// The model, until it fails or has made a million steps.
const MODEL: [&str; 2] = ["--exact", "grants::model::a_million_steps_of_reads_are_right_or_stale"];

pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let folder = workspace.root.join("target/mutants");
    let copy = folder.join("source");
    copy_sources(&workspace.root, &copy)?;
    println!("== unchanged");
    let tests = build(&copy, &folder)?;
    ensure!(passes(&tests, &copy)?, "the model fails without a mutant: correct the code first");
    for mutant in &MUTANTS {
        println!("== {}", mutant.name);
        let originals = apply(mutant, &copy)?;
        let tests = build(&copy, &folder)?;
        let start = Instant::now();
        let has_passed = passes(&tests, &copy)?;
        for (file, text) in originals {
            fs::write(copy.join(file), text)?;
        }
        if has_passed {
            bail!("the model does not detect the mutant \"{}\": extend the model", mutant.name);
        }
        println!("   found after {:.1} s", start.elapsed().as_secs_f64());
    }
    Ok(())
}

/// Copies what git knows or would add. Files that have not changed keep their time, so that cargo builds little.
fn copy_sources(root: &Path, copy: &Path) -> Result<()> {
    let mut list = Command::new("git");
    list.args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"]).current_dir(root);
    let files = process::output(&mut list).context("`git ls-files` lists no sources")?;
    for file in files.split('\0').filter(|file| root.join(file).is_file()) {
        let (from, to) = (fs::read(root.join(file))?, copy.join(file));
        if fs::read(&to).is_ok_and(|there| there == from) {
            continue;
        }
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(to, from)?;
    }
    Ok(())
}

/// Applies a mutant. Returns the files that it has changed, as they were.
fn apply(mutant: &Mutant, root: &Path) -> Result<Vec<(&'static str, String)>> {
    let mut originals: Vec<(&str, String)> = Vec::new();
    for edit in mutant.edits {
        let text = fs::read_to_string(root.join(edit.file))?;
        let changed = edited(edit, &text)?;
        if originals.iter().all(|(file, _)| *file != edit.file) {
            originals.push((edit.file, text));
        }
        fs::write(root.join(edit.file), changed)?;
    }
    Ok(originals)
}

fn edited(edit: &Edit, text: &str) -> Result<String> {
    let times = text.matches(edit.from).count();
    let Edit { file, from, to } = edit;
    ensure!(times == 1, "{file} has this {times} times, and a mutant needs it once:\n{from}");
    Ok(text.replace(from, to))
}

/// Builds the unit tests of the connector. Returns their program.
fn build(copy: &Path, folder: &Path) -> Result<PathBuf> {
    let mut build = Workspace { root: copy.to_owned() }.cargo();
    build
        .args(["test", "--package", "nixl-connector", "--no-default-features", "--lib", "--no-run"])
        .arg("--target-dir")
        .arg(folder.join("build"))
        .env_remove("CARGO_MANIFEST_DIR");
    let programs = programs::built(&mut build).context("a mutant may be no valid Rust any more")?;
    let tests = programs.into_iter().find(|program| program.is_test);
    Ok(tests.context("cargo names no program of tests")?.path)
}

/// Whether the model passes. What it says goes to a file.
fn passes(tests: &Path, copy: &Path) -> Result<bool> {
    let mut model = Command::new(tests);
    model.args(["--ignored", "--nocapture"]).args(MODEL).current_dir(copy);
    let said = model.output().with_context(|| format!("`{}`", process::display(&model)))?;
    let text = String::from_utf8_lossy(&said.stdout);
    ensure!(text.contains("running 1 test"), "the model is not there: {text}");
    let said_why = String::from_utf8_lossy(&said.stderr);
    let why = said_why.lines().skip_while(|line| !line.contains("panicked at")).nth(1);
    why.into_iter().for_each(|why| println!("   {why}"));
    Ok(said.status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mutant_still_applies() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        for mutant in &MUTANTS {
            for edit in mutant.edits {
                let text = fs::read_to_string(root.join(edit.file)).unwrap();
                let changed =
                    edited(edit, &text).unwrap_or_else(|e| panic!("{}: {e}", mutant.name));
                assert_ne!(changed, text);
            }
        }
    }

    #[test]
    fn a_text_that_is_not_there_once_is_refused() {
        let edit = Edit { file: "f", from: "a", to: "b" };
        assert_eq!(edited(&edit, "cad").unwrap(), "cbd");
        for text in ["", "aa"] {
            edited(&edit, text).unwrap_err();
        }
    }
}
