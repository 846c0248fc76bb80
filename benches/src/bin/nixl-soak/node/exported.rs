//! Memory that is exported once, granted block by block, and read by tickets.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::time::Duration;

use anyhow::{Result, anyhow};
use nixl_connector::{
    BlockTransferOptions, Connector, Export, Grant, GrantOptions, OperationOptions, RemoteExport,
};
use nixl_descriptor::Region;
use nixl_descriptor::layout::{Dimensions, Inner, Layout, LayoutGeometry};
use nixl_metadata::{ExportMetadata, Ticket};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::memory;
use crate::bytes::pattern;

/// Blocks of an export, granted in turns.
const BLOCKS: u32 = 64;
/// Grants that stand at a time.
const STANDING: usize = 4;

/// What a reader gets for a grant.
#[derive(Debug, Deserialize, Serialize)]
struct Granted {
    export: Vec<u8>,
    ticket: Vec<u8>,
}

/// The owner's side.
#[derive(Debug)]
pub(super) struct Exported {
    export: Export,
    region: Region,
    grants: VecDeque<Grant>,
    next: u32,
}

impl Exported {
    pub(super) async fn new(connector: &Connector) -> Result<Self> {
        let geometry = geometry(BLOCKS as usize)?;
        let region = connector.buffer(geometry.bytes())?;
        let layout = Layout::fully_contiguous(geometry, region.clone())?;
        let export = connector.export([("kept", layout)]).await?;
        Ok(Self { export, region, grants: VecDeque::new(), next: 0 })
    }

    /// Grants the next block, filled with the bytes of the seed, to one reader.
    pub(super) async fn grant(&mut self, seed: u64, within: Duration) -> Result<Vec<u8>> {
        let block = self.next % BLOCKS;
        self.next = self.next.wrapping_add(1);
        // A reader that is killed has not ended its grant.
        let free = timeout(2 * within, self.export.free_blocks(0, &[block])?).await;
        free.map_err(|_| anyhow!("block {block} does not come back"))?;
        let len = self.region.len() / BLOCKS as usize;
        let bytes = pattern(seed, len);
        let filled = self.region.copy_from_slice(block as usize * len, bytes);
        filled.map_err(|error| anyhow!("{error}"))?;
        let options = GrantOptions::new().time_to_live(within).readers(NonZeroU32::MIN);
        let grant = self.export.grant(0, &[block], options)?;
        let (export, ticket) = (self.export.metadata().encode()?, grant.ticket().encode());
        self.grants.push_back(grant);
        if self.grants.len() > STANDING {
            self.grants.pop_front();
        }
        Ok(serde_json::to_vec(&Granted { export: export.to_vec(), ticket: ticket.to_vec() })?)
    }
}

/// The reader's side.
#[derive(Debug, Default)]
pub(super) struct Imported {
    /// The export's metadata, the import, and the block that is read into.
    export: Option<(Vec<u8>, RemoteExport)>,
    local: Option<(Region, Layout)>,
}

impl Imported {
    /// Reads the granted block so many times. Returns the wrong bytes.
    pub(super) async fn read(
        &mut self,
        connector: &Connector,
        granted: &[u8],
        (seed, times): (u64, usize),
        within: Duration,
    ) -> Result<u64> {
        let Granted { export, ticket } = serde_json::from_slice(granted)?;
        let ticket = Ticket::decode(&ticket)?;
        if self.export.as_ref().is_none_or(|(known, _)| *known != export) {
            let imported = connector.import(&ExportMetadata::decode(&export)?).await?;
            self.export = Some((export, imported));
        }
        if self.local.is_none() {
            let geometry = geometry(1)?;
            let region = connector.buffer(geometry.bytes())?;
            self.local = Some((region.clone(), Layout::fully_contiguous(geometry, region)?));
        }
        let (Some((_, remote)), Some((region, local))) = (&self.export, &self.local) else {
            return Ok(0);
        };
        let mut wrong = 0;
        for _ in 0..times {
            let options =
                BlockTransferOptions::new().operation(OperationOptions::new().timeout(within));
            // What is read over must not be right from the start.
            let overwritten = region.copy_from_slice(0, pattern(!seed, region.len()));
            overwritten.map_err(|error| anyhow!("{error}"))?;
            remote.read_blocks_with(&ticket, local, &[0], options).await?;
            wrong += memory::wrong_bytes(region, seed)?;
        }
        remote.done(&ticket).await?;
        Ok(wrong)
    }
}

/// Of blocks of 4 KiB.
fn geometry(blocks: usize) -> Result<LayoutGeometry> {
    Ok(LayoutGeometry::try_from(Dimensions {
        blocks,
        layers: 1,
        outer: 1,
        page_size: 16,
        inner: Inner::Elements(128),
        element_width: 2,
    })?)
}
