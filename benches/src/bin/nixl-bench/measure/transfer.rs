//! Transfers: one at a time, many in flight, and how late the target learns of them.

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nixl_connector::{Completion, ReadOperation, WriteOperation};
use nixl_descriptor::DescriptorList;
use nixl_device::Device;
use nixl_metadata::RdmaMetadata;

use nixl_benches::{Layout, Piece};

use crate::baseline::Pair;
use crate::cases::Effort;
use crate::clock;
use crate::initiator::{Findings, Session};
use crate::messages::{Engine, Kind, Offer, Reply, Request};
use crate::pattern::Pattern;
use crate::peer::expect_reply;
use crate::report::{Gauge, Row};
use crate::samples::Samples;
use crate::target::notification;

/// What is repeated.
#[derive(Clone, Copy)]
struct Exchange {
    kind: Kind,
    layout: Layout,
    /// Every piece is an operation of its own, all of them in flight together.
    split: bool,
    /// The plain engine's target watches for the notification.
    watch: bool,
    /// How long the target has waited when the transfer begins.
    waited: Duration,
}

/// What one engine's iterations came to.
#[derive(Default)]
struct Outcome {
    /// From begin to completion at the initiator.
    took: Samples,
    /// From completion at the initiator to the target's waiter.
    late: Samples,
    verified: bool,
    transport: String,
    path: String,
}

/// One operation at a time.
pub(crate) fn transfer(
    session: &mut Session,
    kind: Kind,
    layout: Layout,
    findings: &mut Findings,
) -> Result<()> {
    let bytes = layout.piece_bytes() * layout.batch();
    let iterations = session.effort.iterations(bytes);
    let exchange = Exchange { kind, layout, split: false, watch: false, waited: Duration::ZERO };
    for (engine, outcome) in exchange.repeat(session, iterations)? {
        let row = outcome.row(kind.name(), engine, &outcome.took, layout)?;
        findings.rows.push(row.moving(bytes));
    }
    Ok(())
}

/// Many operations in flight: a sample is a whole round of them.
pub(crate) fn in_flight(
    session: &mut Session,
    (layout, watch): (Layout, bool),
    findings: &mut Findings,
) -> Result<()> {
    let iterations = session.effort.pick(60, 400);
    let exchange =
        Exchange { kind: Kind::Read, layout, split: true, watch, waited: Duration::ZERO };
    let (case, gauge) = match watch {
        true => ("read-in-flight-watched", "peak_operations_watched"),
        false => ("read-in-flight", "peak_operations"),
    };
    for (engine, outcome) in exchange.repeat(session, iterations)? {
        let row = outcome.row(case, engine, &outcome.took, layout)?;
        let best = outcome.took.iter().min().copied().unwrap_or(0).max(1);
        let rate = layout.batch() as f64 * 1e9 / best as f64;
        findings.rows.push(row.moving(layout.piece_bytes() * layout.batch()));
        findings.gauges.push(Gauge::new(
            format!("{gauge}.{}", engine.name()),
            rate.round(),
            "operations/s",
        ));
    }
    Ok(())
}

/// How late the target learns that a read of 4 KiB is over.
pub(crate) fn passive(
    session: &mut Session,
    name: &str,
    waited: Duration,
    findings: &mut Findings,
) -> Result<()> {
    let layout = Layout::Contiguous { bytes: 4096 };
    let iterations = match waited.is_zero() {
        true => session.effort.pick(400, 2000),
        false => session.effort.pick(60, 400),
    };
    let exchange = Exchange { kind: Kind::Read, layout, split: false, watch: true, waited };
    for (engine, outcome) in exchange.repeat(session, iterations)? {
        findings.rows.push(outcome.row(name, engine, &outcome.late, layout)?);
    }
    Ok(())
}

impl Exchange {
    /// Runs the engines in turn, so that a drift of the machine meets both alike.
    fn repeat(&self, session: &mut Session, iterations: usize) -> Result<Vec<(Engine, Outcome)>> {
        let warm_up = Effort::warm_up(iterations);
        let fresh = || Outcome { verified: true, ..Outcome::default() };
        let mut outcomes = [fresh(), fresh()];
        for iteration in 0..warm_up + iterations {
            for turn in 0..Engine::BOTH.len() {
                let index = (iteration + turn) % Engine::BOTH.len();
                let seed = (2 * iteration + index) as u64;
                let outcome = &mut outcomes[index];
                let (took, late) = self.once(session, Engine::BOTH[index], seed, outcome)?;
                if iteration >= warm_up {
                    outcome.took.push(took);
                    outcome.late.push(late);
                }
            }
        }
        Ok(Engine::BOTH.into_iter().zip(outcomes).collect())
    }

    /// One iteration: prepare both sides, move, check.
    fn once(
        &self,
        session: &mut Session,
        engine: Engine,
        seed: u64,
        outcome: &mut Outcome,
    ) -> Result<(u64, u64)> {
        let pieces = self.layout.pieces();
        let pattern = Pattern::new(seed);
        let initial = match self.kind {
            Kind::Read => pattern.poison(),
            Kind::Write => pattern,
        };
        session.memory.fill(&pieces, initial)?;
        let Self { kind, layout, split, watch, .. } = *self;
        let offer = Offer { engine, kind, layout, split, seed, watch };
        let reply = session.peer.ask(&Request::Offer(offer))?;
        let metadata = expect_reply!(reply, Reply::Offered { metadata } => metadata);
        let parts: Vec<&[Piece]> = match split {
            true => pieces.chunks(1).collect(),
            false => vec![&pieces],
        };
        if !self.waited.is_zero() {
            thread::sleep(self.waited);
        }
        let (begun, ended) = match engine {
            Engine::Connector => {
                let (begun, ended, completion) = self.by_connector(session, &parts, &metadata)?;
                if let Some(path) = completion.path() {
                    outcome.transport = path.transport().to_string();
                    outcome.path = path.kind().to_string();
                }
                (begun, ended)
            }
            Engine::NixlSys => {
                outcome.transport = "nixl/UCX".to_owned();
                outcome.path = "direct".to_owned();
                self.by_nixl_sys(session, &parts, seed)?
            }
        };
        let reply = session.peer.ask(&Request::Finish)?;
        let (at, there) = expect_reply!(reply, Reply::Finished { at, correct } => (at, correct));
        let here = kind == Kind::Write || session.memory.matches(&pieces, pattern)?;
        outcome.verified &= here && there;
        // The target may be told before the initiator looks.
        Ok((ended - begun, at.saturating_sub(ended)))
    }

    fn by_connector(
        &self,
        session: &Session,
        parts: &[&[Piece]],
        metadata: &[String],
    ) -> Result<(u64, u64, Completion)> {
        let mut work: Vec<(RdmaMetadata, DescriptorList)> = Vec::new();
        for (part, json) in parts.iter().zip(metadata) {
            let remote = RdmaMetadata::decode(json.as_bytes())?;
            work.push((remote, session.memory.descriptors(part)?));
        }
        let connector = &session.connector;
        let mut last = None;
        let (begun, ended) = session.runtime.block_on(async {
            let begun = clock::now();
            match self.kind {
                Kind::Read => {
                    let mut operations: Vec<ReadOperation> = Vec::with_capacity(work.len());
                    for (remote, local) in work {
                        operations.push(connector.begin_read(&remote, local).await?);
                    }
                    for operation in &mut operations {
                        last = Some(operation.wait_for_completion().await?);
                    }
                }
                Kind::Write => {
                    let mut operations: Vec<WriteOperation> = Vec::with_capacity(work.len());
                    for (remote, local) in work {
                        operations.push(connector.begin_write(local, &remote).await?);
                    }
                    for operation in &mut operations {
                        last = Some(operation.wait_for_completion().await?);
                    }
                }
            }
            anyhow::Ok((begun, clock::now()))
        })?;
        Ok((begun, ended, last.context("the target offered nothing")?))
    }

    fn by_nixl_sys(&self, session: &Session, parts: &[&[Piece]], seed: u64) -> Result<(u64, u64)> {
        let (baseline, peer) = (&session.baseline, session.target_name.as_str());
        let (here, there) = (session.memory.region().address(), session.target_address);
        let pair = |p: &Piece| (here + p.local as u64, there + p.remote as u64, p.len);
        let work: Vec<(Vec<Pair>, Vec<u8>)> = parts
            .iter()
            .enumerate()
            .map(|(index, part)| (part.iter().map(pair).collect(), notification(seed, index)))
            .collect();
        let mut requests = Vec::with_capacity(work.len());
        let begun = clock::now();
        for (pairs, notification) in &work {
            let devices = (Device::HOST, Device::HOST);
            let (request, pending) =
                baseline.post(self.kind, devices, pairs, peer, notification)?;
            requests.push((request, pending));
        }
        for (request, pending) in &requests {
            if *pending {
                baseline.wait(request)?;
            }
        }
        let ended = clock::now();
        Ok((begun, ended))
    }
}

impl Outcome {
    fn row(&self, case: &str, engine: Engine, samples: &Samples, layout: Layout) -> Result<Row> {
        if !self.verified {
            // A figure for bytes that did not arrive is worth nothing.
            bail!("{} left wrong bytes in the destination", engine.name());
        }
        let row = Row::new(case, engine, samples)?;
        Ok(row.shaped(layout).over(&self.transport, &self.path).verified())
    }
}
