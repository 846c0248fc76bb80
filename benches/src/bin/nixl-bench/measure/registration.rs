//! Registering 64 MiB: for the first time, and again.

use anyhow::{Context as _, Result};
use memmap2::MmapMut;
use nixl_connector::ControlThread;
use nixl_connector::nixl::NixlTransport;
use nixl_descriptor::{CacheLimits, Region, RegistrationCache};
use nixl_ops::Transport as _;

use crate::cases::MEMORY_BYTES;
use crate::clock;
use crate::initiator::{Findings, Session};
use crate::memory::touch;
use crate::messages::Engine;
use crate::report::Row;
use crate::samples::Samples;

/// Look-ups between two looks at the clock, which costs as much as one.
const LOOK_UPS: u64 = 64;

/// Every iteration has fresh memory, so that nothing in the engine remembers it. Registering a second time with another
/// agent could be cheaper, so the engines take turns in going first.
pub(crate) fn registration(session: &mut Session, findings: &mut Findings) -> Result<()> {
    let name = format!("bench-registration-{}", std::process::id());
    let transport = NixlTransport::open(&name, ControlThread::spawn()?)?;
    let cache = RegistrationCache::new(transport.registrar(), CacheLimits::default());
    let iterations = session.effort.pick(16, 60);
    let (mut ours, mut plain, mut cached) =
        (Samples::default(), Samples::default(), Samples::default());
    for iteration in 0..iterations {
        let region = Region::zeroed(MEMORY_BYTES)?;
        touch(&region)?;
        let mut plain_registered = None;
        for turn in 0..2 {
            let begun = clock::now();
            if (iteration + turn) % 2 == 0 {
                cache.get_or_register(&region)?;
                ours.push(clock::now() - begun);
            } else {
                plain_registered = Some(session.baseline.register(&region)?);
                plain.push(clock::now() - begun);
            }
        }
        let begun = clock::now();
        for _ in 0..LOOK_UPS {
            cache.get(&region).context("the registration was not cached")?;
        }
        cached.push((clock::now() - begun) / LOOK_UPS);
        if let Some(registered) = plain_registered {
            registered.deregister()?;
        }
        // Deregisters here and now.
        drop(region.try_into_inner::<MmapMut>()?);
    }
    for (case, engine, samples) in [
        ("registration-cold", Engine::Connector, &ours),
        ("registration-cold", Engine::NixlSys, &plain),
        ("registration-cached", Engine::Connector, &cached),
    ] {
        let row = Row::new(case, engine, samples)?.over("nixl/UCX", "none");
        findings.rows.push(row.of(MEMORY_BYTES));
    }
    Ok(())
}
