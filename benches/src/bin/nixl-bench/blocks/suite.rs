//! Runs the cases.

use anyhow::{Context as _, Result};

use super::case::Case;
use super::session::Session;
use crate::cases::Effort;
use crate::initiator::{Findings, progress};
use crate::report::Gauge;

/// Measures all cases whose name contains `filter`. A case that fails is left out, with its error, and the others go on with a
/// new owner.
pub(crate) fn run(effort: Effort, filter: Option<&str>) -> Result<Findings> {
    let cases = Case::all(effort, filter);
    let mut findings = Findings::default();
    let Some(blocks) = cases.iter().map(|case| case.blocks()).max() else { return Ok(findings) };
    let start = || Session::start(effort, blocks).context("the two processes cannot start");
    let mut session = start()?;
    let metadata = session.metadata[0].encode()?.len();
    let name = format!("metadata of an export of 81 parts and {blocks} blocks");
    findings.gauges.push(Gauge::new(name, metadata as f64, "B"));
    let progress = progress(cases.len())?;
    for case in cases {
        progress.set_message(case.to_string());
        if let Err(error) = case.measure(&mut session, &mut findings) {
            let error = session.peer.explain(error);
            findings.left_out.push(format!("{case}: {error:#}"));
            session = start()?;
        }
        progress.inc(1);
    }
    progress.finish_and_clear();
    session.end()?;
    Ok(findings)
}
