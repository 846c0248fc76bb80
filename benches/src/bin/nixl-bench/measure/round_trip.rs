//! A notification there and back, with a thread at each end that is awake only to wait for it.

use anyhow::{Context as _, Result};
use nixl_metadata::RdmaMetadata;

use crate::cases::Effort;
use crate::clock;
use crate::initiator::{Findings, Session};
use crate::messages::{Engine, Reply, Request};
use crate::peer::expect_reply;
use crate::report::Row;
use crate::samples::Samples;

/// The connector: we read a byte, which wakes the target's waiter, which reads a byte of ours, which wakes ours. The
/// plain engine: a notification and its answer, both sides polling all the time.
pub(crate) fn round_trip(session: &mut Session, findings: &mut Findings) -> Result<()> {
    let iterations = session.effort.pick(400, 2000);
    let warm_up = Effort::warm_up(iterations);
    let mut samples = [Samples::default(), Samples::default()];
    for iteration in 0..warm_up + iterations {
        for turn in 0..Engine::BOTH.len() {
            let index = (iteration + turn) % Engine::BOTH.len();
            let took = match Engine::BOTH[index] {
                Engine::Connector => by_connector(session)?,
                Engine::NixlSys => by_nixl_sys(session)?,
            };
            if iteration >= warm_up {
                samples[index].push(took);
            }
        }
    }
    for (engine, samples) in Engine::BOTH.into_iter().zip(&samples) {
        let row = Row::new("notification-round-trip", engine, samples)?;
        findings.rows.push(row.over("nixl/UCX", "direct"));
    }
    Ok(())
}

fn by_connector(session: &mut Session) -> Result<u64> {
    let Session { runtime, connector, memory, peer, .. } = session;
    let (byte, answer) = (memory.region().descriptor(..1)?, memory.region().descriptor(8..9)?);
    let mut ours = runtime.block_on(connector.create_readable(byte))?;
    let metadata = ours.metadata().to_dynamo_json();
    let reply = peer.ask(&Request::Ping { engine: Engine::Connector, metadata })?;
    let theirs = expect_reply!(reply, Reply::Offered { metadata } => metadata);
    let theirs = theirs.first().context("the target offered nothing")?;
    let theirs = RdmaMetadata::decode(theirs.as_bytes())?;
    let took = runtime.block_on(async {
        let begun = clock::now();
        connector.begin_read(&theirs, answer).await?.wait_for_completion().await?;
        ours.wait_for_completion().await?;
        anyhow::Ok(clock::now() - begun)
    })?;
    expect_reply!(peer.ask(&Request::Finish)?, Reply::Finished { .. } => ());
    Ok(took)
}

fn by_nixl_sys(session: &mut Session) -> Result<u64> {
    let Session { baseline, peer, target_name, .. } = session;
    let reply = peer.ask(&Request::Ping { engine: Engine::NixlSys, metadata: String::new() })?;
    expect_reply!(reply, Reply::Offered { .. } => ());
    let begun = clock::now();
    baseline.notify(target_name, b"ping")?;
    baseline.wait_notified(b"pong")?;
    let took = clock::now() - begun;
    expect_reply!(peer.ask(&Request::Finish)?, Reply::Finished { .. } => ());
    Ok(took)
}
