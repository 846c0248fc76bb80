//! `cargo xtask style`: counts of code and prose of this workspace's crates, beside published crates by the same rules.
//!
//! | column | rule |
//! |---|---|
//! | files, lines | below `src`, without files and modules of tests |
//! | median, longest | lines of a file |
//! | doc %, comment % | lines that begin with `///` or `//!`, and with `//` otherwise |
//! | unsafe, SAFETY | lines of code with `unsafe {` or `unsafe impl`, and comments with `SAFETY` |
//! | fn | lines of a function's body with its head: median, 95th percentile, longest |
//! | pub | public items in 1,000 lines |
//! | fields | public fields |
//! | panics | `unwrap()`, `expect(`, `panic!` and assertions outside `debug_assert` in 1,000 lines |
//! | wide | lines of more than 140 columns, without tables and strings |
//! | quaint words | [quaint words](words::QUAINT) in 1,000 lines |
//! | loose words | [words of speech and the like](words::loose) in comments, in 1,000 lines |
//! | root names | the crate's own public names at its root, without hidden ones |

mod count;
mod published;
mod source;
pub(crate) mod words;

use std::path::Path;

use anyhow::Result;

use crate::workspace::Workspace;
use count::Counts;

/// The workspace's crates that are counted.
pub(crate) const CRATES: [&str; 6] = [
    "nixl-device",
    "nixl-descriptor",
    "nixl-metadata",
    "nixl-ops",
    "nixl-connector",
    "nixl-executor",
];

pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    println!("{}", Counts::HEADINGS);
    for (name, folder) in published::folders(workspace) {
        match folder {
            Ok((name, folder)) => print(&name, &[&folder])?,
            Err(error) => eprintln!("{name} is left out: {error:#}"),
        }
    }
    let ours = CRATES.map(|name| workspace.root.join("crates").join(name));
    print("**these six crates**", &ours.each_ref().map(|folder| &**folder))?;
    for (name, folder) in CRATES.iter().zip(&ours) {
        print(name, &[folder])?;
    }
    Ok(())
}

fn print(name: &str, folders: &[&Path]) -> Result<()> {
    let mut counts = Counts::default();
    for folder in folders {
        for file in source::files(&folder.join("src"))? {
            counts.add(&file);
        }
        counts.add_root(&folder.join("src"));
    }
    println!("{}", counts.row(name));
    Ok(())
}

#[cfg(test)]
mod atomics;
#[cfg(test)]
mod constructors;
#[cfg(test)]
mod features;
#[cfg(test)]
mod ignored;
#[cfg(test)]
mod layers;
#[cfg(test)]
mod observability;
#[cfg(test)]
mod promises;
#[cfg(test)]
mod tidy;
#[cfg(test)]
mod versions;
