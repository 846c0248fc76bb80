//! The initiator process: its connector, and the target.

use anyhow::{Context as _, Result, anyhow, bail};
use nixl_connector::Connector;
use nixl_device::cuda;
use nixl_metadata::RdmaMetadata;
use tokio::runtime::{self, Runtime};

use super::buffer::Buffer;
use super::executor::executor;
use super::memory::Memory;
use super::messages::{Offer, Reply, Request};
use super::pair::Pair;
use super::plain::Plain;
use crate::cases::Effort;
use crate::gpus::Gpus;
use crate::peer::{Peer, expect_reply};

/// Everything that a measurement uses.
pub(crate) struct Session {
    peer: Peer<Request, Reply>,
    pub(crate) connector: Connector,
    pub(crate) gpus: Gpus,
    pub(crate) runtime: Runtime,
    pub(crate) effort: Effort,
    seed: u64,
}

impl Session {
    pub(crate) fn start(effort: Effort) -> Result<Self> {
        let peer = Peer::start("remote-target")?;
        let runtime = runtime::Builder::new_current_thread().build()?;
        let gpus = open_gpus()?;
        let builder = Connector::builder().name("bench-initiator").executor(executor()?);
        let connector = runtime.block_on(builder.build())?;
        Ok(Self { peer, connector, gpus, runtime, effort, seed: 0 })
    }

    pub(crate) fn end(self) -> Result<()> {
        self.peer.quit()
    }

    /// What a failure of ours may really be about.
    pub(crate) fn explain(&mut self, error: anyhow::Error) -> anyhow::Error {
        self.peer.explain(error)
    }

    /// Of the next iteration.
    pub(crate) fn next_seed(&mut self) -> u64 {
        self.seed += 1;
        self.seed
    }

    /// New memory on both sides, the initiator's first. A plain engine that cannot be had is a reason in words.
    pub(crate) fn prepare(
        &mut self,
        (here, there): (Memory, Memory),
        bytes: usize,
        with_plain: bool,
    ) -> Result<Pair> {
        let buffer = Buffer::new(&self.gpus, here, bytes)?;
        let mut plain = match with_plain {
            true => Some(Plain::start("bench-initiator-plain", &self.gpus, &buffer)),
            false => None,
        };
        let metadata = match &plain {
            Some(Ok(plain)) => Some(plain.introduction()?.metadata),
            _ => None,
        };
        let request = Request::Prepare { memory: there, bytes, plain: metadata };
        let reply = self.peer.ask(&request).context("the target has no memory")?;
        let theirs = expect_reply!(reply, Reply::Prepared { plain } => plain);
        let mut address = 0;
        if let (Some(Ok(ours)), Some(theirs)) = (&mut plain, theirs) {
            let met = theirs.map_err(anyhow::Error::msg).and_then(|theirs| {
                address = theirs.address;
                ours.meet(&theirs.metadata)
            });
            if let Err(error) = met {
                plain = Some(Err(error));
            }
        }
        let device = there.gpu().map_or(nixl_device::Device::HOST, nixl_device::Device::cuda);
        Ok(Pair { buffer, plain, there: (device, address) })
    }

    /// Has the target offer its memory. Nothing comes back for the plain engine, which knows already.
    pub(crate) fn offer(&mut self, offer: Offer) -> Result<Vec<RdmaMetadata>> {
        let reply = self.peer.ask(&Request::Offer(offer))?;
        let metadata = expect_reply!(reply, Reply::Offered { metadata } => metadata);
        let metadata = metadata.map_err(|reason| anyhow!("at the target: {reason}"))?;
        let expected = if offer.plain { 0 } else { offer.operations().len() };
        if metadata.len() != expected {
            bail!("the target offered {} operations, not {expected}", metadata.len());
        }
        metadata.iter().map(|bytes| Ok(RdmaMetadata::decode(bytes)?)).collect()
    }

    /// The transfers of the offer are over. An error if the target does not have what it should, if that was to be
    /// checked.
    pub(crate) fn finish(&mut self, check: bool) -> Result<()> {
        let reply = self.peer.ask(&Request::Finish { check })?;
        match expect_reply!(reply, Reply::Finished { fault } => fault) {
            Some(fault) => bail!("at the target: {fault}"),
            None => Ok(()),
        }
    }

    /// The transfers of the offer are not to be.
    pub(crate) fn withdraw(&mut self) -> Result<()> {
        expect_reply!(self.peer.ask(&Request::Withdraw)?, Reply::Withdrawn => ());
        Ok(())
    }
}

/// The GPUs that are measured. None is no error.
pub(crate) fn open_gpus() -> Result<Gpus> {
    let count = cuda::devices().map_or(0, |devices| devices.len());
    Gpus::open(u32::try_from(count).unwrap_or(u32::MAX))
}
