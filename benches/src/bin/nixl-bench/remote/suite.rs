//! Runs the cases.

use std::env;
use std::io::{self, IsTerminal as _};

use anyhow::{Context as _, Result};
use nixl_device::cuda;

use super::case::Case;
use super::memory::{self, Memory};
use super::session::Session;
use crate::cases::Effort;
use crate::initiator::{Findings, progress};
use crate::report::Row;
use crate::table::{duration, size};
use crate::transport::Transport;

/// Measures all cases whose name contains `filter`. A case that fails is left out, with its error, and the others go on
/// with a new target.
///
/// Without a GPU it says so, and measures what goes from host memory to host memory.
pub(crate) fn run(effort: Effort, filter: Option<&str>) -> Result<Findings> {
    let mut findings = Findings::default();
    if let Err(reason) = cuda::probe() {
        findings.skipped = [Memory::Pinned]
            .into_iter()
            .chain(memory::of_gpus(0))
            .map(|kind| format!("from and to {kind}: skipped, no GPU ({reason})"))
            .collect();
        eprintln!("remote: no GPU ({reason}): only transfers between host memories are measured");
    }
    let tcp = env::var("UCX_TLS").is_ok_and(|value| Transport::is_tcp(&value));
    let mut session = Session::start(effort).context("the two processes cannot start")?;
    let cases = Case::all(session.gpus.count(), effort, tcp, filter);
    let mut shown = 0;
    let progress = progress(cases.len())?;
    for case in cases {
        progress.set_message(case.to_string());
        if let Err(error) = case.measure(&mut session, &mut findings) {
            let error = session.explain(error);
            findings.left_out.push(format!("{case}: {error:#}"));
            session = Session::start(effort).context("the two processes cannot start again")?;
        }
        // A log has no progress bar, and keeps what was measured if the rest is cut off.
        if !io::stderr().is_terminal() {
            findings.rows.iter().skip(shown).for_each(|row| eprintln!("{}", line(row)));
        }
        shown = findings.rows.len();
        progress.inc(1);
    }
    progress.finish_and_clear();
    session.end()?;
    Ok(findings)
}

fn line(row: &Row) -> String {
    let (case, memories, bytes) = (&row.case, row.memories(), size(row.bytes));
    let gbps = row.gbps.map_or_else(String::new, |gbps| format!(", {gbps:.2} GB/s"));
    let p50 = duration(row.p50_ns);
    format!("{case} {memories} {bytes} by {} ({}): {p50}{gbps}", row.engine, row.path)
}
