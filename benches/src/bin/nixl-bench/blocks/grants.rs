//! Cost of a grant and its end for the owner, beside no other grant and beside many.

use std::hint::black_box;

use anyhow::{Result, ensure};
use nixl_connector::{Connector, Export, GrantOptions};
use nixl_descriptor::Region;
use nixl_descriptor::layout::{Dimensions, Inner, LayerOrder, Layout, LayoutGeometry};
use tokio::runtime::Runtime;

use super::cache::some_of;
use super::messages::{Grants, Reply, Request};
use super::session::Session;
use crate::clock;
use crate::initiator::Findings;
use crate::peer::expect_reply;
use crate::report::{Gauge, Row};
use crate::samples::Samples;

/// Of the cache, which is not touched but for the blocks that are copied.
pub(crate) const BLOCKS: usize = 100_000;
pub(crate) const ALIVE: usize = 10_000;
pub(crate) const GRANTED: usize = 64;
const LAYERS: usize = 8;
const LAYER_BYTES: usize = 1024;

pub(crate) const GRANT_AND_END: &str = "grant-and-end";
const END: &str = "end";
/// The engine of these rows.
pub(crate) const OWNER: &str = "owner";
pub(crate) const COPY: &str = "owner-copies-a-block";
/// Beside no other grant, and beside [`ALIVE`].
pub(crate) const BESIDE: [&str; 2] = ["beside-none", "beside-10000"];
pub(crate) const TICKET_BYTES: &str = "ticket of 64 of 100,000 blocks";

/// In the owner's process.
pub(crate) fn measure(runtime: &Runtime, connector: &Connector, rounds: usize) -> Result<Grants> {
    let geometry = LayoutGeometry::try_from(Dimensions {
        blocks: BLOCKS,
        layers: LAYERS,
        outer: 1,
        page_size: 16,
        inner: Inner::Elements(LAYER_BYTES / 32),
        element_width: 2,
    })?;
    let region = |_| Region::zeroed(BLOCKS * LAYER_BYTES);
    let regions = (0..LAYERS).map(region).collect::<Result<Vec<_>, _>>()?;
    let parts = regions.iter().map(Region::whole).collect();
    let layout = Layout::per_layer(geometry, LayerOrder::BlockFirst, parts)?;
    let export = runtime.block_on(connector.export([("many", layout)]))?;
    let list = |seed| -> Vec<u32> {
        some_of(BLOCKS, GRANTED, seed).into_iter().map(|id| id as u32).collect()
    };
    let lists: Vec<_> = (0..32).map(list).collect();
    // No list has this one, so that the owner may change it.
    let free = (0..BLOCKS).find(|id| lists.iter().all(|list| !list.contains(&(*id as u32))));
    let free = free.unwrap_or_default();
    let mut measured = Grants {
        grant_and_end: Default::default(),
        end: Default::default(),
        copy: Default::default(),
        ticket_bytes: 0,
        metadata_bytes: export.metadata().encode()?.len(),
    };
    let mut alive = Vec::new();
    for beside in 0..BESIDE.len() {
        if beside > 0 {
            for index in 0..ALIVE {
                let list = &lists[index % lists.len()];
                alive.push(export.grant(0, list, GrantOptions::new())?);
            }
            ensure!(export.stats().alive() == ALIVE, "not all grants are alive");
        }
        for round in 0..rounds {
            let (begun, ending, ended) = once(&export, &lists[round % lists.len()])?;
            measured.grant_and_end[beside].push(ended - begun);
            measured.end[beside].push(ended - ending);
            let bytes = [round as u8; LAYER_BYTES];
            let begun = clock::now();
            for region in &regions {
                region.copy_from_slice(free * LAYER_BYTES, black_box(&bytes))?;
            }
            measured.copy[beside].push(clock::now() - begun);
        }
    }
    measured.ticket_bytes =
        alive.iter().map(|grant| grant.ticket().encode().len()).max().unwrap_or(0);
    Ok(measured)
}

fn once(export: &Export, list: &[u32]) -> Result<(u64, u64, u64)> {
    let begun = clock::now();
    let grant = export.grant(0, list, GrantOptions::new())?;
    let ending = clock::now();
    grant.end();
    Ok((begun, ending, clock::now()))
}

/// In the reader's, which asks for it.
pub(crate) fn grants(session: &mut Session, findings: &mut Findings) -> Result<()> {
    let rounds = session.effort.pick(2_000, 20_000);
    let reply = session.peer.ask(&Request::MeasureGrants { rounds })?;
    let measured = expect_reply!(reply, Reply::Grants(measured) => measured);
    let all = [(GRANT_AND_END, measured.grant_and_end), (END, measured.end), (COPY, measured.copy)];
    for (case, each) in all {
        for (beside, nanos) in BESIDE.iter().zip(each) {
            let mut samples = Samples::default();
            nanos.into_iter().for_each(|nanos| samples.push(nanos));
            let row = Row::new(&format!("{case}-{beside}"), OWNER, &samples)?;
            findings.rows.push(row.between(super::SUITE, "host", "host"));
        }
    }
    let bytes = |name: &str, bytes: usize| Gauge::new(name, bytes as f64, "B");
    findings.gauges.push(bytes(TICKET_BYTES, measured.ticket_bytes));
    let name = format!("metadata of an export of {LAYERS} parts and 100,000 blocks");
    findings.gauges.push(bytes(&name, measured.metadata_bytes));
    Ok(())
}
