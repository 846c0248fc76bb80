//! The target process: offers memory of any kind.

use anyhow::{Context as _, Result, anyhow, bail};
use nixl_connector::Connector;
use tokio::runtime::{self, Runtime};
use tokio::time::timeout;

use super::buffer::Buffer;
use super::engine::{Engine, PATIENCE};
use super::executor::executor;
use super::memory::Memory;
use super::messages::{Introduction, Offer, Reply, Request};
use super::plain::Plain;
use super::session::open_gpus;
use crate::control::Control;
use crate::gpus::Gpus;
use crate::messages::Kind;
use crate::offered::Offered;
use crate::pattern::Pattern;

/// Serves the initiator until it says quit.
pub(crate) fn run() -> Result<()> {
    let mut control = Control::open()?;
    let served = Target::start().and_then(|mut target| {
        while let Some(request) = control.next() {
            let reply = target.serve(request)?;
            control.answer(reply)?;
            target.watch();
        }
        Ok(())
    });
    served.or_else(|error| control.fail(&error))
}

/// Field order: what uses the memory and the agents goes before them.
struct Target {
    offered: Option<(Offer, Vec<Offered>)>,
    /// What came of watching for the plain engine's transfer.
    watched: Option<Result<()>>,
    connector: Connector,
    plain: Option<Plain>,
    buffer: Option<Buffer>,
    gpus: Gpus,
    runtime: Runtime,
}

impl Target {
    fn start() -> Result<Self> {
        let runtime = runtime::Builder::new_current_thread().enable_time().build()?;
        let gpus = open_gpus()?;
        let builder = Connector::builder().name("bench-target").executor(executor()?);
        let connector = runtime.block_on(builder.build())?;
        Ok(Self {
            offered: None,
            watched: None,
            connector,
            plain: None,
            buffer: None,
            gpus,
            runtime,
        })
    }

    fn serve(&mut self, request: Request) -> Result<Reply> {
        match request {
            Request::Prepare { memory, bytes, plain } => self.prepare(memory, bytes, plain),
            Request::Offer(offer) => {
                let metadata = self.offer(offer).map_err(|error| format!("{error:#}"));
                Ok(Reply::Offered { metadata })
            }
            Request::Finish { check } => self.finish(check),
            Request::Withdraw => {
                self.offered = None;
                Ok(Reply::Withdrawn)
            }
        }
    }

    /// Waits for the plain engine's transfer. The connector does so by itself.
    fn watch(&mut self) {
        let (Some((offer, _)), Some(plain)) = (&self.offered, &mut self.plain) else { return };
        if offer.plain {
            self.watched = Some(plain.watch(&offer.notifications()));
        }
    }

    fn prepare(&mut self, memory: Memory, bytes: usize, plain: Option<Vec<u8>>) -> Result<Reply> {
        self.offered = None;
        self.plain = None;
        self.buffer = None;
        let buffer = Buffer::new(&self.gpus, memory, bytes)?;
        let plain = plain.map(|metadata| {
            let (plain, introduction) = self.meet(&buffer, &metadata)?;
            self.plain = Some(plain);
            anyhow::Ok(introduction)
        });
        self.buffer = Some(buffer);
        let plain = plain.map(|met| met.map_err(|error| format!("the target: {error:#}")));
        Ok(Reply::Prepared { plain })
    }

    fn meet(&self, buffer: &Buffer, metadata: &[u8]) -> Result<(Plain, Introduction)> {
        let mut plain = Plain::start("bench-target-plain", &self.gpus, buffer)?;
        plain.meet(metadata)?;
        let introduction = plain.introduction()?;
        Ok((plain, introduction))
    }

    fn offer(&mut self, offer: Offer) -> Result<Vec<Vec<u8>>> {
        let buffer = self.buffer.as_ref().context("there is no memory yet")?;
        let bytes = offer.all();
        match offer.kind {
            Kind::Read if offer.check => {
                buffer.fill(&self.gpus, bytes, Pattern::new(offer.seed))?;
            }
            Kind::Read => {}
            Kind::Write => buffer.poison(&self.gpus, bytes)?,
        }
        let (mut offered, mut metadata) = (Vec::new(), Vec::new());
        if !offer.plain {
            let options = Engine::Auto.options();
            for list in buffer.lists(&offer)? {
                let creating = Offered::create(&self.connector, offer.kind, list, options);
                let operation = self.runtime.block_on(creating)?;
                metadata.push(operation.metadata().to_native_bytes()?);
                offered.push(operation);
            }
        }
        self.offered = Some((offer, offered));
        Ok(metadata)
    }

    /// What goes wrong with a transfer is the initiator's to judge; this process goes on.
    fn finish(&mut self, check: bool) -> Result<Reply> {
        let Some((offer, offered)) = self.offered.take() else {
            bail!("a request out of turn: nothing is offered");
        };
        let fault = self.fault(offer, offered, check).err().map(|error| format!("{error:#}"));
        Ok(Reply::Finished { fault })
    }

    /// Waits for the completions, and checks. The connector serves its offers whether or not a thread waits, so it is
    /// enough to wait from now on.
    fn fault(&mut self, offer: Offer, offered: Vec<Offered>, check: bool) -> Result<()> {
        if offer.plain {
            self.watched.take().context("there is no plain engine")??;
        }
        for mut operation in offered {
            let waited = self
                .runtime
                .block_on(async { timeout(PATIENCE, operation.wait_for_completion()).await });
            waited.map_err(|_| anyhow!("the completion was not learnt of"))??;
        }
        if check && offer.kind == Kind::Write {
            let buffer = self.buffer.as_ref().context("there is no memory yet")?;
            if !buffer.matches(&self.gpus, offer.all(), Pattern::new(offer.seed))? {
                bail!("wrong bytes in the destination");
            }
        }
        Ok(())
    }
}
