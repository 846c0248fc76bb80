//! Runs the cases.

use std::path::Path;

use anyhow::Result;

use super::case::Case;
use super::options::FileArgs;
use super::world::World;
use crate::cases::Effort;
use crate::initiator::{Findings, progress};

/// Measures all cases whose name contains `filter`. A case that fails is left out, with its error, and the others go on. Files on
/// disk go into `folder` unless the arguments name another.
pub(crate) fn run(
    effort: Effort,
    filter: Option<&str>,
    (args, folder): (&FileArgs, &Path),
) -> Result<Findings> {
    measure(Case::all(args), effort, filter, args.filepath.as_deref().unwrap_or(folder))
}

/// Measures the pairs with a disk of the suite `local`.
pub(crate) fn run_local(
    effort: Effort,
    filter: Option<&str>,
    (args, folder): (&FileArgs, &Path),
) -> Result<Findings> {
    measure(Case::local(), effort, filter, args.filepath.as_deref().unwrap_or(folder))
}

fn measure(
    mut cases: Vec<Case>,
    effort: Effort,
    filter: Option<&str>,
    folder: &Path,
) -> Result<Findings> {
    let mut findings = Findings::default();
    cases.retain(|case| filter.is_none_or(|filter| case.to_string().contains(filter)));
    if cases.is_empty() {
        return Ok(findings);
    }
    std::fs::create_dir_all(folder)?;
    let mut world = World::open(folder)?;
    let progress = progress(cases.len())?;
    for case in cases {
        progress.set_message(case.to_string());
        if let Err(error) = case.measure(&mut world, effort, &mut findings) {
            findings.left_out.push(format!("{case}: {error:#}"));
        }
        progress.inc(1);
    }
    progress.finish_and_clear();
    Ok(findings)
}
