//! Runs the cases.

use std::env;

use anyhow::{Context as _, Result};
use nixl_device::cuda;

use super::case::Case;
use super::session::Session;
use crate::cases::Effort;
use crate::initiator::{Findings, progress};
use crate::transport::Transport;

/// Measures all cases whose name contains `filter`. A case that fails is left out, with its error, and the others go on
/// with a new target.
///
/// Without a GPU it says so, and measures what goes from host memory to host memory.
pub(crate) fn run(effort: Effort, filter: Option<&str>) -> Result<Findings> {
    if let Err(reason) = cuda::probe() {
        eprintln!("remote: no GPU ({reason}): only transfers between host memories are measured");
    }
    let tcp = env::var("UCX_TLS").is_ok_and(|value| Transport::is_tcp(&value));
    let mut session = Session::start(effort).context("the two processes cannot start")?;
    let cases = Case::all(session.gpus.count(), effort, tcp, filter);
    let mut findings = Findings::default();
    let progress = progress(cases.len())?;
    for case in cases {
        progress.set_message(case.to_string());
        if let Err(error) = case.measure(&mut session, &mut findings) {
            let error = session.explain(error);
            findings.left_out.push(format!("{case}: {error:#}"));
            session = Session::start(effort).context("the two processes cannot start again")?;
        }
        progress.inc(1);
    }
    progress.finish_and_clear();
    session.end()?;
    Ok(findings)
}
