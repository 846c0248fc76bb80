//! Cost of choosing a path: small reads of host memory by the executor that chooses and by the one that has nothing to
//! choose.

use std::sync::Arc;

use anyhow::{Result, bail};
use nixl_connector::Connector;
use nixl_executor::DirectExecutor;

use super::SUITE;
use super::engine::Engine;
use super::executor::executor;
use super::memory::Memory;
use super::messages::Offer;
use super::session::Session;
use super::transfers::taken;
use crate::clock;
use crate::initiator::Findings;
use crate::messages::Kind;
use crate::pattern::Pattern;
use crate::report::Row;
use crate::samples::Samples;

pub(crate) const CASE: &str = "planning";
/// The part until the read has begun, which is where the path is chosen.
const BEGIN: &str = "planning-begin";
/// Bytes of a read.
const BYTES: usize = 4096;
/// Reads for which both sides prepare at once.
const READS: usize = 64;

pub(crate) fn planning(session: &mut Session, findings: &mut Findings) -> Result<()> {
    // Both are new, so that neither carries what went before.
    let builder = Connector::builder().name("bench-choosing").executor(executor()?);
    let choosing = session.runtime.block_on(builder.build())?;
    let builder =
        Connector::builder().name("bench-direct").executor(Arc::new(DirectExecutor::new()));
    let direct = session.runtime.block_on(builder.build())?;
    let host = (Memory::Host, Memory::Host);
    let pair = session.prepare(host, BYTES * READS, false)?;
    let (mut wholes, mut begins) = (<[Samples; 2]>::default(), <[Samples; 2]>::default());
    let mut ways = [(String::new(), String::new()), (String::new(), String::new())];
    let engines = [Engine::Auto, Engine::Direct];
    // In the first round the sides meet.
    for round in 0..=session.effort.pick(24, 80) {
        let seed = session.next_seed();
        let pattern = Pattern::new(seed);
        let (kind, count) = (Kind::Read, READS);
        let offer = Offer { plain: false, kind, bytes: BYTES, count, warm: 0, seed, check: true };
        pair.buffer.poison(&session.gpus, offer.all())?;
        let offered = session.offer(offer)?;
        let lists = pair.buffer.lists(&offer)?;
        for (index, (remote, local)) in offered.iter().zip(lists).enumerate() {
            let who = turn(round, index);
            let connector = if who == 0 { &choosing } else { &direct };
            let (begin, whole, completion) = session.runtime.block_on(async {
                let options = engines[who].options();
                let called = clock::now();
                let mut operation = connector.begin_read_with(remote, local, options).await?;
                let begun = clock::now();
                let completion = operation.wait_for_completion().await?;
                anyhow::Ok((begun - called, clock::now() - called, completion))
            })?;
            ways[who] = taken(&completion)?;
            if round > 0 {
                begins[who].push(begin);
                wholes[who].push(whole);
            }
        }
        session.finish(true)?;
        if !pair.buffer.matches(&session.gpus, offer.all(), pattern)? {
            bail!("wrong bytes in the destination");
        }
    }
    for (case, samples) in [(CASE, &wholes), (BEGIN, &begins)] {
        for ((engine, samples), (transport, path)) in engines.iter().zip(samples).zip(&ways) {
            let row = Row::new(case, engine.to_string(), samples)?
                .over(transport, path)
                .between(SUITE, Memory::Host, Memory::Host)
                .of(BYTES)
                .verified();
            findings.rows.push(row);
        }
    }
    Ok(())
}

/// Whose turn it is: first one, then the other twice, then the first; the other way round in the next round. So each
/// follows itself as often as it follows the other.
fn turn(round: usize, index: usize) -> usize {
    usize::from(matches!(index % 4, 1 | 2)) ^ (round % 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_have_as_many_turns_after_either() {
        for round in 0..2 {
            let turns: Vec<_> = (0..READS).map(|index| turn(round, index)).collect();
            assert_eq!(turns.iter().sum::<usize>() * 2, READS);
            let same = turns.windows(2).filter(|pair| pair[0] == pair[1]).count();
            assert!(same.abs_diff(turns.len() - 1 - same) <= 1);
            assert_ne!(turns[0], turn(round + 1, 0));
        }
    }
}
