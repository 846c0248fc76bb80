//! Cost of a target that only waits.

use anyhow::Result;

use crate::initiator::{Findings, Session};
use crate::messages::{Reply, Request};
use crate::peer::expect_reply;
use crate::report::Gauge;

/// All threads of the target process, the plain engine's included, which no thread polls here.
pub(crate) fn idle(
    session: &mut Session,
    outstanding: bool,
    findings: &mut Findings,
) -> Result<()> {
    let millis = session.effort.pick(3_000, 10_000) as u64;
    let reply = session.peer.ask(&Request::Idle { outstanding, millis })?;
    let (cpu, wall) = expect_reply!(reply, Reply::Idled { cpu, wall } => (cpu, wall));
    let name = match outstanding {
        true => "idle_cpu.one_outstanding",
        false => "idle_cpu.none_outstanding",
    };
    let percent = cpu as f64 * 100.0 / wall.max(1) as f64;
    findings.gauges.push(Gauge::new(name, (percent * 1000.0).round() / 1000.0, "% of a core"));
    Ok(())
}
