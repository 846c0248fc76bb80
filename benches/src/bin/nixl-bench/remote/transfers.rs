//! One transfer at a time: the executor's choice, each path and plain nixl-sys in turns.

use anyhow::{Context as _, Error, Result, bail};
use nixl_connector::{Completion, Connector, ConnectorError};
use nixl_descriptor::DescriptorList;
use nixl_executor::PathReport;
use nixl_metadata::RdmaMetadata;

use super::SUITE;
use super::best::Best;
use super::case::Flow;
use super::engine::Engine;
use super::iterations::Iterations;
use super::messages::Offer;
use super::pair::Pair;
use super::path::{self, Refusal};
use super::session::Session;
use crate::clock;
use crate::initiator::Findings;
use crate::messages::Kind;
use crate::pattern::Pattern;
use crate::report::Row;
use crate::samples::Samples;
use crate::table::size;

/// Before each operation that is timed go some of the same engine's that do not count, of as many bytes up to these: both
/// sides have waited for each other, processors and links have gone to sleep, the code is out of the caches, and a GPU of
/// both processes is the other's. That would be measured, 20 to 200 us of it, and not what a stream of transfers sees.
const WARM: usize = 1 << 20;

/// One engine at one size.
struct Subject {
    engine: Engine,
    iterations: Iterations,
    samples: Samples,
    /// What carried the bytes, and which way, the last time.
    taken: (String, String),
}

/// What one attempt came to.
enum Attempt {
    /// Nanoseconds, what carried the bytes, and which way.
    Moved(u64, (String, String)),
    Refused(Refusal),
}

/// An engine that fails takes no further part.
struct Failure {
    engine: Engine,
    error: Error,
}

/// All sizes, on the same memory.
pub(crate) fn transfers(
    session: &mut Session,
    flow: Flow,
    kind: Kind,
    sizes: &[usize],
    findings: &mut Findings,
) -> Result<()> {
    let longest = sizes.iter().copied().max().context("there is no size to measure")?;
    let longest = longest + Offer::WARM_UPS * WARM;
    let mut engines = Engine::compared();
    let best = Best::new(&session.gpus, flow, longest)?;
    engines.retain(|engine| best.is_some() || *engine != Engine::Driver);
    let mut pair = session.prepare(flow.sides(kind), longest, true)?;
    if let Some(Err(error)) = &pair.plain {
        let engine = Engine::Plain;
        findings.left_out.push(format!("{} {flow} by {engine}: {error:#}", kind.name()));
        engines.retain(|e| *e != engine);
    }
    for bytes in sizes {
        while !engines.is_empty() {
            let transfer = Transfer { flow, kind, bytes: *bytes };
            match transfer.measure(session, (&pair, best.as_ref()), &mut engines, findings) {
                Ok(()) => break,
                Err(Failure { engine, error }) => {
                    let error = session.explain(error);
                    let case = format!("{}/{} {flow}", kind.name(), size(*bytes));
                    findings.left_out.push(format!("{case} by {engine}: {error:#}"));
                    engines.retain(|e| *e != engine);
                    // What has failed may still use the memory.
                    let with_plain = engines.contains(&Engine::Plain);
                    pair = session.prepare(flow.sides(kind), longest, with_plain)?;
                }
            }
        }
    }
    Ok(())
}

#[derive(Clone, Copy)]
struct Transfer {
    flow: Flow,
    kind: Kind,
    bytes: usize,
}

impl Transfer {
    /// Runs the engines in turns, so that a drift of the machine meets all alike. Leaves those in the list that can.
    fn measure(
        self,
        session: &mut Session,
        (pair, best): (&Pair, Option<&Best>),
        engines: &mut Vec<Engine>,
        findings: &mut Findings,
    ) -> Result<(), Failure> {
        let subject = |engine: &Engine| Subject {
            engine: *engine,
            iterations: Iterations::new(session.effort, self.bytes),
            samples: Samples::default(),
            taken: Default::default(),
        };
        let mut subjects: Vec<_> = engines.iter().map(subject).collect();
        let mut round = 0;
        while subjects.iter().any(|subject| !subject.iterations.is_over()) {
            for turn in 0..subjects.len() {
                let index = (round + turn) % subjects.len();
                let Some(subject) = subjects.get_mut(index) else { continue };
                if subject.iterations.is_over() {
                    continue;
                }
                let engine = subject.engine;
                let begun = clock::now();
                let attempt = match (engine, best) {
                    (Engine::Driver, Some(best)) => self.by_driver(session, best),
                    _ => self.once(session, pair, subject),
                };
                match attempt.map_err(|error| Failure { engine, error })? {
                    Attempt::Moved(took, taken) => {
                        if subject.iterations.is_timed() {
                            subject.samples.push(took);
                        }
                        subject.taken = taken;
                        subject.iterations.count(clock::now() - begun);
                    }
                    // The round goes on without its turn.
                    Attempt::Refused(refusal) => {
                        findings.refuse(refusal);
                        engines.retain(|e| *e != engine);
                        subjects.remove(index);
                        if subjects.is_empty() {
                            return Ok(());
                        }
                    }
                }
            }
            round += 1;
        }
        for subject in subjects {
            let engine = subject.engine;
            let row = self.row(subject).map_err(|error| Failure { engine, error })?;
            findings.rows.push(row);
        }
        Ok(())
    }

    /// One iteration: prepare both sides, move, check.
    fn once(self, session: &mut Session, pair: &Pair, subject: &Subject) -> Result<Attempt> {
        let Self { kind, bytes, .. } = self;
        let (seed, check) = (session.next_seed(), subject.iterations.is_checked());
        let (buffer, pattern) = (&pair.buffer, Pattern::new(seed));
        let plain = subject.engine == Engine::Plain;
        let offer = Offer { plain, kind, bytes, count: 1, warm: bytes.min(WARM), seed, check };
        let all = offer.all();
        match kind {
            Kind::Read => buffer.poison(&session.gpus, all)?,
            Kind::Write if check => buffer.fill(&session.gpus, all, pattern)?,
            Kind::Write => {}
        }
        let metadata = session.offer(offer)?;
        let attempt = match subject.engine {
            Engine::Plain => {
                let Some(Ok(plain)) = &pair.plain else { bail!("it could not be started") };
                let mut took = 0;
                for (part, notification) in
                    offer.operations().into_iter().zip(offer.notifications())
                {
                    took = plain.transfer(kind, pair.there, part, &notification)?;
                }
                Attempt::Moved(took, ("nixl/UCX".to_owned(), "unknown".to_owned()))
            }
            engine => {
                let mut last = None;
                for (remote, local) in metadata.iter().zip(buffer.lists(&offer)?) {
                    last = Some(self.by_connector(session, engine, remote, local)?);
                }
                last.context("the target offered nothing")?
            }
        };
        // A figure for bytes that did not arrive is worth nothing.
        session.finish(check)?;
        if check && kind == Kind::Read && !buffer.matches(&session.gpus, all, pattern)? {
            bail!("wrong bytes in the destination");
        }
        Ok(attempt)
    }

    fn by_driver(self, session: &Session, best: &Best) -> Result<Attempt> {
        let took = best.copy(&session.gpus, self.bytes, self.bytes.min(WARM))?;
        Ok(Attempt::Moved(took, ("cuda".to_owned(), "copy".to_owned())))
    }

    /// A path that is refused leaves the offer as it was: then the executor may choose.
    fn by_connector(
        self,
        session: &Session,
        engine: Engine,
        remote: &RdmaMetadata,
        list: DescriptorList,
    ) -> Result<Attempt> {
        let (connector, kind) = (&session.connector, self.kind);
        let moved = |engine| {
            session.runtime.block_on(async {
                let begun = clock::now();
                let ended = operate(connector, kind, remote, list.clone(), engine).await;
                (clock::now() - begun, ended)
            })
        };
        let (took, ended) = moved(engine);
        let error = match ended {
            Ok(completion) => return Ok(Attempt::Moved(took, taken(&completion)?)),
            Err(error) => error,
        };
        let (Engine::Forced(kind), Some(rejected)) = (engine, path::rejected(&error)) else {
            return Err(error.into());
        };
        let mut refusal = Refusal::new(self.flow, kind, rejected, took);
        let (_, completion) = moved(Engine::Auto);
        refusal.instead = Some(taken(&completion?)?.1);
        Ok(Attempt::Refused(refusal))
    }

    fn row(self, subject: Subject) -> Result<Row> {
        let (here, there) = self.flow.sides(self.kind);
        let (transport, path) = subject.taken;
        let row = Row::new(self.kind.name(), subject.engine.to_string(), &subject.samples)?
            .over(&transport, &path)
            .between(SUITE, here, there)
            .of(self.bytes)
            .moving(self.bytes);
        Ok(if subject.engine == Engine::Driver { row } else { row.verified() })
    }
}

/// One operation from begin to completion.
async fn operate(
    connector: &Connector,
    kind: Kind,
    remote: &RdmaMetadata,
    local: DescriptorList,
    engine: Engine,
) -> Result<Completion, ConnectorError> {
    let options = engine.options();
    Ok(match kind {
        Kind::Read => {
            let mut operation = connector.begin_read_with(remote, local, options).await?;
            operation.wait_for_completion().await?
        }
        Kind::Write => {
            let mut operation = connector.begin_write_with(local, remote, options).await?;
            operation.wait_for_completion().await?
        }
    })
}

/// What carried the bytes, and which way.
pub(crate) fn taken(completion: &Completion) -> Result<(String, String)> {
    let path: &PathReport =
        completion.path().context("the executor does not say which way it took")?;
    Ok((path.transport().to_string(), path::name(path)))
}
