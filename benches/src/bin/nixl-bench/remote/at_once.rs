//! Many staged transfers at once, beside one alone: together they should be as fast, and share alike.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nixl_connector::ConnectorError;
use nixl_executor::PathKind;

use super::SUITE;
use super::case::Flow;
use super::engine::Engine;
use super::memory::kind;
use super::messages::Offer;
use super::pair::Pair;
use super::path::{self, Refusal};
use super::session::Session;
use super::transfers::taken;
use crate::clock;
use crate::initiator::Findings;
use crate::messages::Kind;
use crate::pattern::Pattern;
use crate::report::{Gauge, Row};
use crate::samples::Samples;

pub(crate) const CASE: &str = "at-once";
/// Transfers at once.
pub(crate) const COUNT: usize = 16;
/// Bytes of each.
pub(crate) const BYTES: usize = 64 << 20;
/// The transfers of the round in which they shared worst: the slowest's time over the fastest's.
pub(crate) const SHARES: &str = "at_once_slowest_over_fastest";

/// What a round came to.
struct Round {
    /// From the first's begin to the last's completion.
    took: u64,
    /// Of each transfer.
    each: Vec<u64>,
    taken: (String, String),
}

/// Between GPUs always staged; without a GPU the way that is there.
pub(crate) fn at_once(session: &mut Session, flow: Flow, findings: &mut Findings) -> Result<()> {
    let engine = match kind(flow.src).is_host() {
        true => Engine::Auto,
        false => Engine::Forced(PathKind::StagedBothSides),
    };
    let pair = session.prepare(flow.sides(Kind::Read), BYTES * COUNT, false)?;
    let counts = [1, COUNT];
    let mut samples = [Samples::default(), Samples::default()];
    let mut ways = [(String::new(), String::new()), (String::new(), String::new())];
    let mut worst = 1.0_f64;
    // The first round brings the sides together.
    for round in 0..=session.effort.pick(3, 10) {
        for (index, count) in counts.into_iter().enumerate() {
            let Round { took, each, taken } = match run(session, &pair, flow, engine, count)? {
                Ok(round) => round,
                Err(refusal) => {
                    findings.refuse(refusal);
                    return Ok(());
                }
            };
            ways[index] = taken;
            if round > 0 {
                samples[index].push(took);
                worst = worst.max(spread(&each).context("no transfer was measured")?);
            }
        }
    }
    let (here, there) = flow.sides(Kind::Read);
    for ((count, samples), (transport, path)) in counts.into_iter().zip(&samples).zip(&ways) {
        let row = Row::new(CASE, engine.to_string(), samples)?
            .over(transport, path)
            .between(SUITE, here, there)
            .of(BYTES)
            .in_batches_of(count)
            .verified();
        findings.rows.push(row.moving(BYTES * count));
    }
    let worst = (worst * 100.0).round() / 100.0;
    findings.gauges.push(Gauge::new(SHARES, worst, "times"));
    Ok(())
}

/// Begins so many, waits for all, and checks every byte.
fn run(
    session: &mut Session,
    pair: &Pair,
    flow: Flow,
    engine: Engine,
    count: usize,
) -> Result<Result<Round, Refusal>> {
    let seed = session.next_seed();
    let offer =
        Offer { plain: false, kind: Kind::Read, bytes: BYTES, count, warm: 0, seed, check: true };
    pair.buffer.poison(&session.gpus, offer.all())?;
    let offered = session.offer(offer)?;
    let lists = pair.buffer.lists(&offer)?;
    let begun = clock::now();
    let ended = session.runtime.block_on(async {
        let mut operations = Vec::with_capacity(count);
        for (remote, local) in offered.iter().zip(lists) {
            let begin = session.connector.begin_read_with(remote, local, engine.options());
            operations.push(begin.await?);
        }
        let mut completions = Vec::with_capacity(count);
        for operation in &mut operations {
            completions.push(operation.wait_for_completion().await?);
        }
        Ok::<_, ConnectorError>(completions)
    });
    let took = clock::now() - begun;
    let completions = match ended {
        Ok(completions) => completions,
        Err(error) => {
            let (Engine::Forced(kind), Some(rejected)) = (engine, path::rejected(&error)) else {
                return Err(error.into());
            };
            session.withdraw()?;
            return Ok(Err(Refusal::new(flow, kind, rejected, took)));
        }
    };
    session.finish(true)?;
    if !pair.buffer.matches(&session.gpus, offer.all(), Pattern::new(seed))? {
        bail!("wrong bytes in the destination");
    }
    let each = completions.iter().map(|c| nanos(c.elapsed())).collect();
    let taken = taken(completions.last().context("nothing was begun")?)?;
    Ok(Ok(Round { took, each, taken }))
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The longest time over the shortest; `None` without any.
fn spread(each: &[u64]) -> Option<f64> {
    let (longest, shortest) = (each.iter().max()?, each.iter().min()?);
    Some(*longest as f64 / (*shortest).max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_shares_have_no_spread() {
        assert_eq!(spread(&[5, 5, 5]), Some(1.0));
        assert_eq!(spread(&[4, 10, 5]), Some(2.5));
        assert_eq!(spread(&[]), None);
    }
}
