//! The process that owns the cache.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use nixl_connector::{Connector, Export, Grant, GrantOptions, ReadableOperation};
use nixl_descriptor::DescriptorList;
use nixl_executor::PathExecutor;
use nixl_metadata::{ExportMetadata, WordsLocation};
use tokio::runtime::{self, Runtime};

use super::cache::{Cache, LAYERS, SmallCache};
use super::grants;
use super::messages::{Reply, Request};
use super::session::SEED;
use crate::baseline::{Baseline, Registered};
use crate::clock;
use crate::control::Control;

/// Serves the reader until it says quit.
pub(crate) fn run() -> Result<()> {
    let mut control = Control::open()?;
    let served = Owner::start().and_then(|mut owner| {
        while let Some(request) = control.next() {
            let reply = owner.serve(request)?;
            control.answer(reply)?;
        }
        Ok(())
    });
    served.or_else(|error| control.fail(&error))
}

/// Field order: what uses the memory and the agents goes before them.
struct Owner {
    offers: Vec<ReadableOperation>,
    grants: Vec<Grant>,
    exported: Option<Exported>,
    connector: Connector,
    runtime: Runtime,
}

struct Exported {
    export: Export,
    _registered: Vec<Registered>,
    _plain: Baseline,
    cache: Cache,
    small: SmallCache,
}

impl Owner {
    fn start() -> Result<Self> {
        let runtime = runtime::Builder::new_current_thread().enable_time().build()?;
        let executor = Arc::new(PathExecutor::new()?);
        let builder = Connector::builder().name("bench-owner").executor(executor);
        let connector = runtime.block_on(builder.build())?;
        Ok(Self { offers: Vec::new(), grants: Vec::new(), exported: None, connector, runtime })
    }

    fn serve(&mut self, request: Request) -> Result<Reply> {
        match request {
            Request::Export { blocks, plain } => self.export(blocks, &plain),
            Request::Grant { layout, lists } => {
                let export = &self.exported()?.export;
                let grant = |list: &Vec<u32>| export.grant(layout, list, GrantOptions::new());
                let granted = lists.iter().map(grant).collect::<Result<Vec<_>, _>>()?;
                let encoded = granted.iter().map(|grant| grant.ticket().encode()).collect();
                self.grants.extend(granted);
                Ok(Reply::Given { encoded })
            }
            Request::Offer { layout, lists } => {
                let encoded = lists.iter().map(|list| self.offer(layout, list));
                let encoded = encoded.collect::<Result<_>>()?;
                Ok(Reply::Given { encoded })
            }
            Request::Over => {
                self.grants.clear();
                self.offers.clear();
                Ok(Reply::Over)
            }
            Request::CpuTime => Ok(Reply::CpuTime { nanos: clock::cpu_time() }),
            Request::MeasureGrants { rounds } => {
                let measured = grants::measure(&self.runtime, &self.connector, rounds)?;
                Ok(Reply::Grants(measured))
            }
        }
    }

    fn exported(&self) -> Result<&Exported> {
        self.exported.as_ref().context("nothing is exported yet")
    }

    fn export(&mut self, blocks: usize, plain: &[u8]) -> Result<Reply> {
        let cache = Cache::shared(blocks)?;
        let held: Vec<_> = (0..blocks).zip(0..).collect();
        cache.fill(&held, Some(SEED))?;
        let small = SmallCache::shared()?;
        small.fill(Some(SEED))?;
        let layouts = [("cache", cache.layout.clone()), ("small", small.layout.clone())];
        let export = self.runtime.block_on(self.connector.export(layouts))?;
        let agent = Baseline::start(&format!("bench-owner-plain-{}", std::process::id()))?;
        let regions = cache.regions.iter().chain([&small.region]);
        let registered = regions.map(|region| agent.register(region)).collect::<Result<_>>()?;
        agent.meet(plain)?;
        let reply = Reply::Exported {
            metadata: export.metadata().encode()?,
            plain: agent.metadata()?,
            layers: cache.regions.iter().map(|region| region.address()).collect(),
            small: small.region.address(),
        };
        self.exported =
            Some(Exported { export, _registered: registered, _plain: agent, cache, small });
        Ok(reply)
    }

    fn offer(&mut self, layout: u16, blocks: &[usize]) -> Result<Vec<u8>> {
        let exported = self.exported()?;
        let (layout, layers) = match layout {
            0 => (&exported.cache.layout, 0..LAYERS),
            _ => (&exported.small.layout, 0..1),
        };
        let list = DescriptorList::try_from(chunks(layout, blocks, layers.len())?)?;
        let offer = self.runtime.block_on(self.connector.create_readable(list))?;
        let encoded = offer.metadata().to_native_bytes()?;
        self.offers.push(offer);
        Ok(encoded)
    }
}

/// The blocks layer by layer, which both sides of an offer list alike.
pub(crate) fn chunks(
    layout: &nixl_descriptor::layout::Layout,
    blocks: &[usize],
    layers: usize,
) -> Result<Vec<nixl_descriptor::Descriptor>> {
    let len = layout.geometry().layer_len();
    let mut list = Vec::with_capacity(blocks.len() * layers);
    for layer in 0..layers {
        for &block in blocks {
            // The outer parts of a layer follow each other.
            let span = layout.chunk(block, layer, 0)?;
            let region = layout.parts()[span.part].region();
            list.push(region.descriptor(span.offset..span.offset + len)?);
        }
    }
    Ok(list)
}

/// The export as a reader of another host has it: nothing of it can be mapped.
pub(crate) fn from_afar(metadata: &ExportMetadata) -> Result<ExportMetadata> {
    Ok(ExportMetadata::new(
        metadata.export(),
        metadata.agent_metadata().clone(),
        metadata.peer().clone(),
        metadata.layouts().to_vec(),
        WordsLocation { file: None, ..*metadata.words() },
    )?)
}
