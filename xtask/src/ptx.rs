//! `cargo xtask ptx`: compiles the kernels of nixl-executor. Their PTX is committed, so that
//! building the workspace needs no compiler for them; `--check` sees whether it is up to date.

mod nvrtc;

use std::fs;

use anyhow::{Context as _, Result, bail};

use crate::setup;
use crate::workspace::Workspace;

const FOLDER: &str = "crates/nixl-executor/kernels";
const SOURCE: &str = "copy.cu";
const PTX: &str = "copy.ptx";
/// PTX for the oldest architecture runs on every newer one.
const OPTIONS: [&str; 2] = ["--gpu-architecture=compute_75", "--std=c++17"];

pub(crate) fn run(workspace: &Workspace, check: bool) -> Result<()> {
    let folder = workspace.root.join(FOLDER);
    let source = folder.join(SOURCE);
    let source =
        fs::read_to_string(&source).with_context(|| format!("cannot read {}", source.display()))?;
    let library = setup::provide_nvrtc(workspace)?;
    // The name and not the path: nothing of this machine gets into the PTX.
    let compiled = nvrtc::compile(&library, SOURCE, &source, &OPTIONS)?;

    let path = folder.join(PTX);
    let committed = fs::read_to_string(&path).unwrap_or_default();
    if committed == compiled {
        println!("{FOLDER}/{PTX} is what {SOURCE} compiles to");
    } else if check {
        bail!(
            "{FOLDER}/{PTX} is not what {SOURCE} compiles to (line {} differs): run \
             `cargo xtask ptx` and commit the result",
            first_difference(&committed, &compiled)
        );
    } else {
        fs::write(&path, compiled).with_context(|| format!("cannot write {}", path.display()))?;
        println!("wrote {FOLDER}/{PTX}");
    }
    Ok(())
}

/// The number of the first line that is not the same.
fn first_difference(left: &str, right: &str) -> usize {
    1 + left
        .split_inclusive('\n')
        .zip(right.split_inclusive('\n'))
        .take_while(|(left, right)| left == right)
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_found_to_the_byte() {
        for (left, right, line) in [
            ("", "a\n", 1),
            ("a\nb\n", "a\nc\n", 2),
            ("a\nb\n", "a\nb", 2),
            ("a\n", "a\r\n", 1),
            ("a\nb\n", "a\n", 2),
        ] {
            assert_eq!(first_difference(left, right), line, "{left:?} {right:?}");
        }
    }
}
