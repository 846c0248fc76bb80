//! The process that reads.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nixl_connector::{BlockTransferOptions, Connector, OperationOptions, RemoteExport};
use nixl_executor::{PathExecutor, PathKind};
use nixl_metadata::{ExportMetadata, RdmaMetadata, Ticket};
use nixl_ops::PathPolicy;
use tokio::runtime::{self, Runtime};

use super::engine::Engine;
use super::messages::{Reply, Request};
use super::owner::from_afar;
use crate::baseline::Baseline;
use crate::cases::Effort;
use crate::peer::{Peer, expect_reply};

/// By which the owner's blocks were filled.
pub(crate) const SEED: u64 = 1;
/// No read takes nearly as long.
const PATIENCE: Duration = Duration::from_secs(20);

/// Everything that a measurement uses. Field order: what uses the agents goes before them.
pub(crate) struct Session {
    pub(crate) peer: Peer<Request, Reply>,
    /// The export as a reader of this host, and as one of another host has it.
    pub(crate) metadata: [ExportMetadata; 2],
    here: RemoteExport,
    afar: RemoteExport,
    pub(crate) connector: Connector,
    pub(crate) plain: Baseline,
    /// The owner's, by its plain agent.
    pub(crate) plain_owner: String,
    pub(crate) layers: Vec<u64>,
    pub(crate) small: u64,
    pub(crate) runtime: Runtime,
    pub(crate) effort: Effort,
    /// Of the cache.
    pub(crate) blocks: usize,
}

impl Session {
    pub(crate) fn start(effort: Effort, blocks: usize) -> Result<Self> {
        let mut peer = Peer::start("blocks-owner")?;
        let runtime = runtime::Builder::new_current_thread().build()?;
        let connector = runtime.block_on(connector("bench-reader"))?;
        let plain = Baseline::start(&format!("bench-reader-plain-{}", std::process::id()))?;
        let request = Request::Export { blocks, plain: plain.metadata()? };
        let reply = peer.ask(&request).context("the owner exports nothing")?;
        let (metadata, theirs, layers, small) = expect_reply!(
            reply,
            Reply::Exported { metadata, plain, layers, small } => (metadata, plain, layers, small)
        );
        let plain_owner = plain.meet(&theirs)?;
        let here = ExportMetadata::decode(&metadata)?;
        let metadata = [here.clone(), from_afar(&here)?];
        let [here, afar] = runtime.block_on(async {
            let [here, afar] = &metadata;
            anyhow::Ok([connector.import(here).await?, connector.import(afar).await?])
        })?;
        let expected = [PathKind::SharedMemory, PathKind::Direct];
        for (import, expected) in [&here, &afar].into_iter().zip(expected) {
            let path = import.path(0).context("an import without a path")?;
            if path.kind() != expected {
                bail!("the import takes the path {}, not {expected}", path.kind());
            }
        }
        Ok(Self {
            peer,
            metadata,
            here,
            afar,
            connector,
            plain,
            plain_owner,
            layers,
            small,
            runtime,
            effort,
            blocks,
        })
    }

    pub(crate) fn end(self) -> Result<()> {
        self.peer.quit()
    }

    /// The import by which an engine reads, and how.
    pub(crate) fn import(&self, engine: Engine) -> (RemoteExport, BlockTransferOptions) {
        let import = match engine {
            Engine::TicketMapped | Engine::TicketWordsMapped => &self.here,
            _ => &self.afar,
        };
        (import.clone(), BlockTransferOptions::new().operation(options(engine)))
    }

    /// Has the owner grant each of these lists.
    pub(crate) fn tickets(&mut self, layout: u16, lists: Vec<Vec<u32>>) -> Result<Vec<Ticket>> {
        let reply = self.peer.ask(&Request::Grant { layout, lists })?;
        let encoded = expect_reply!(reply, Reply::Given { encoded } => encoded);
        encoded.iter().map(|bytes| Ok(Ticket::decode(bytes)?)).collect()
    }

    /// Has the owner offer each of these lists. Returns the offers and how many bytes each came in.
    pub(crate) fn offers(
        &mut self,
        layout: u16,
        lists: Vec<Vec<usize>>,
    ) -> Result<Vec<(RdmaMetadata, usize)>> {
        let reply = self.peer.ask(&Request::Offer { layout, lists })?;
        let encoded = expect_reply!(reply, Reply::Given { encoded } => encoded);
        encoded.iter().map(|bytes| Ok((RdmaMetadata::decode(bytes)?, bytes.len()))).collect()
    }

    /// The grants and offers are over.
    pub(crate) fn over(&mut self) -> Result<()> {
        expect_reply!(self.peer.ask(&Request::Over)?, Reply::Over => ());
        Ok(())
    }

    /// CPU time that the owner has used, in nanoseconds.
    pub(crate) fn owner_cpu_time(&mut self) -> Result<u64> {
        let reply = self.peer.ask(&Request::CpuTime)?;
        Ok(expect_reply!(reply, Reply::CpuTime { nanos } => nanos))
    }
}

/// One that chooses its paths.
pub(crate) async fn connector(name: &str) -> Result<Connector> {
    let executor = Arc::new(PathExecutor::new()?);
    Ok(Connector::builder().name(name).executor(executor).build().await?)
}

/// What leaves an operation the path that is measured.
pub(crate) fn options(engine: Engine) -> OperationOptions {
    let kind = match engine {
        Engine::TicketMapped | Engine::OneShotMapped => PathKind::SharedMemory,
        _ => PathKind::Direct,
    };
    OperationOptions::new().timeout(PATIENCE).policy(PathPolicy::auto().require(kind))
}
