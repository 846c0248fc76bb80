//! The initiator process of the suite `host`: runs the cases.

use std::time::Duration;

use anyhow::{Context as _, Result};
use indicatif::{ProgressBar, ProgressStyle};
use nixl_connector::Connector;
use tokio::runtime::{self, Runtime};

use crate::baseline::{Baseline, Registered};
use crate::cases::{Case, Effort, MEMORY_BYTES};
use crate::memory::{Memory, Side};
use crate::messages::{Reply, Request};
use crate::peer::{Peer, expect_reply};
use crate::remote::Refusal;
use crate::report::{Gauge, Row};

/// Everything that a measurement uses. Field order: what uses the memory and the agents goes before them.
pub(crate) struct Session {
    pub(crate) peer: Peer<Request, Reply>,
    _registered: Registered,
    pub(crate) connector: Connector,
    pub(crate) memory: Memory,
    pub(crate) baseline: Baseline,
    /// The target's name and memory, for the plain engine.
    pub(crate) target_name: String,
    pub(crate) target_address: u64,
    pub(crate) runtime: Runtime,
    pub(crate) effort: Effort,
    pub(crate) progress: ProgressBar,
}

/// What a case found.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) rows: Vec<Row>,
    pub(crate) gauges: Vec<Gauge>,
    /// Paths that were refused.
    pub(crate) refusals: Vec<Refusal>,
    /// What this machine has no memory for.
    pub(crate) skipped: Vec<String>,
    /// What could not be measured, or came out wrong, and why.
    pub(crate) left_out: Vec<String>,
}

impl Findings {
    /// Adds what another suite found.
    pub(crate) fn extend(&mut self, other: Self) {
        let Self { rows, gauges, refusals, skipped, left_out } = other;
        self.rows.extend(rows);
        self.gauges.extend(gauges);
        self.refusals.extend(refusals);
        self.skipped.extend(skipped);
        self.left_out.extend(left_out);
    }

    /// Notes a path that was refused, once for each pair of memories.
    pub(crate) fn refuse(&mut self, refusal: Refusal) {
        let Refusal { from, to, path, .. } = &refusal;
        let known = self.refusals.iter().any(|r| (&r.from, &r.to, &r.path) == (from, to, path));
        if !known {
            self.refusals.push(refusal);
        }
    }
}

/// Measures these cases, one after the other.
pub(crate) fn run(cases: &[Case], effort: Effort) -> Result<Findings> {
    let mut session = Session::start(effort, cases.len())?;
    let mut findings = Findings::default();
    for case in cases {
        session.progress.set_message(case.name());
        if let Err(error) = case.measure(&mut session, &mut findings) {
            let error = session.peer.explain(error);
            return Err(error.context(format!("{} failed", case.name())));
        }
        session.progress.inc(1);
    }
    session.end()?;
    Ok(findings)
}

impl Session {
    fn start(effort: Effort, cases: usize) -> Result<Self> {
        let mut peer = Peer::start("target")?;
        let runtime = runtime::Builder::new_current_thread().build()?;
        let memory = Memory::new(Side::Initiator, MEMORY_BYTES)?;
        let connector = runtime.block_on(Connector::builder().name("bench-initiator").build())?;
        let baseline = Baseline::start(&format!("bench-initiator-plain-{}", std::process::id()))?;
        let registered = baseline.register(memory.region())?;
        let met = peer
            .ask(&Request::Meet { metadata: baseline.metadata()? })
            .context("the two processes cannot meet")?;
        let (metadata, address) =
            expect_reply!(met, Reply::Met { metadata, address } => (metadata, address));
        let target_name = baseline.meet(&metadata)?;
        Ok(Self {
            peer,
            _registered: registered,
            connector,
            memory,
            baseline,
            target_name,
            target_address: address,
            runtime,
            effort,
            progress: progress(cases)?,
        })
    }

    fn end(self) -> Result<()> {
        self.progress.finish_and_clear();
        self.peer.quit()
    }
}

/// Shows only if standard error is a terminal.
pub(crate) fn progress(cases: usize) -> Result<ProgressBar> {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {msg}")?;
    let bar = ProgressBar::new(cases as u64).with_style(style);
    bar.enable_steady_tick(Duration::from_millis(500));
    Ok(bar)
}
