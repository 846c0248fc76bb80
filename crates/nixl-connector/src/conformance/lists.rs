//! Conformance of lists that engines prepare: transfers by them move the same bytes, also after the peer was loaded anew.

use nixl_descriptor::Region;
use nixl_descriptor::layout::{Dimensions, Inner, LayerOrder, Layout, LayoutGeometry};
use nixl_ops::PeerId;

use super::Failure;
use super::failure::ensure;
use super::support::{POISON, Pair, pattern};
use crate::{GrantOptions, ImportOptions};

const BLOCKS: usize = 16;
const LAYERS: usize = 3;

/// An engine that prepares no lists passes, too.
pub(super) async fn prepared(pair: &Pair) -> Result<(), Failure> {
    let geometry = LayoutGeometry::try_from(Dimensions {
        blocks: BLOCKS,
        layers: LAYERS,
        outer: 2,
        page_size: 4,
        inner: Inner::Elements(32),
        element_width: 2,
    })?;
    let part = |layer: u64| Region::try_from(pattern(layer, BLOCKS * geometry.layer_len()));
    let sources = (0..LAYERS as u64).map(part).collect::<Result<Vec<_>, _>>()?;
    let parts = sources.iter().map(Region::whole).collect();
    let theirs = Layout::per_layer(geometry, LayerOrder::BlockFirst, parts)?;
    let export = pair.target.export([("cache", theirs)]).await?;
    let import = pair.initiator.import_unless(export.metadata(), None, ImportOptions::new());
    let import = import.await?;
    let into = Region::zeroed(geometry.bytes())?;
    let local = Layout::fully_contiguous(geometry, into.clone())?;
    for round in 0..3 * BLOCKS {
        if round == 2 * BLOCKS {
            let target = PeerId::new(pair.target.name());
            pair.initiator.connection().transport().disconnect(&target)?;
        }
        // Neighbours on both sides, on one, and none.
        let blocks = [round % BLOCKS, (5 * round + 1) % BLOCKS, (3 * round + 7) % BLOCKS];
        let mut granted: Vec<u32> = blocks.iter().map(|block| *block as u32).collect();
        granted.dedup();
        let ours: Vec<usize> = (0..granted.len()).map(|at| (2 * at + round) % BLOCKS).collect();
        into.copy_from_slice(0, &vec![POISON; into.len()])?;
        let grant = export.grant(0, &granted, GrantOptions::new())?;
        let read = import.read_blocks(grant.ticket(), &local, &ours).await;
        read.map_err(|error| error.cause().clone())?;
        let mut expected = vec![POISON; into.len()];
        for (&theirs, &ours) in granted.iter().zip(&ours) {
            for (layer, source) in sources.iter().enumerate() {
                let len = geometry.layer_len();
                let at = ours * geometry.block_len() + layer * len;
                source.copy_to_slice(theirs as usize * len, &mut expected[at..at + len])?;
            }
        }
        ensure(into.to_vec()? == expected, "the blocks that were read are those of the ticket")?;
    }
    Ok(())
}
