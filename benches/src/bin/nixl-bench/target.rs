//! The target process: offers memory and says when it learnt that it was used.

use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use nixl_connector::{Connector, ConnectorBuilder, OperationError, OperationOptions};
use nixl_metadata::RdmaMetadata;
use tokio::runtime::{self, Runtime};
use tokio::time::timeout;

use crate::baseline::{Baseline, PATIENCE, Registered};
use crate::cases::MEMORY_BYTES;
use crate::clock;
use crate::control::Control;
use crate::memory::{Memory, Side};
use crate::messages::{Engine, Kind, Offer, Reply, Request};
use crate::offered::Offered;
use crate::pattern::Pattern;

/// Serves the initiator until it says quit.
pub(crate) fn run() -> Result<()> {
    let mut target = Target::start(Control::open()?)?;
    target.serve().or_else(|error| target.control.fail(&error))
}

/// Field order: what uses the memory and the agents goes before them.
struct Target {
    control: Control<Request>,
    _registered: Registered,
    connector: Connector,
    memory: Memory,
    baseline: Baseline,
    initiator: Option<String>,
    runtime: Runtime,
}

impl Target {
    fn start(control: Control<Request>) -> Result<Self> {
        let runtime = runtime::Builder::new_current_thread().enable_time().build()?;
        let memory = Memory::new(Side::Target, MEMORY_BYTES)?;
        let connector = runtime.block_on(Connector::builder().name("bench-target").build())?;
        let baseline = Baseline::start(&format!("bench-target-plain-{}", std::process::id()))?;
        let registered = baseline.register(memory.region())?;
        Ok(Self {
            control,
            _registered: registered,
            connector,
            memory,
            baseline,
            initiator: None,
            runtime,
        })
    }

    fn serve(&mut self) -> Result<()> {
        while let Some(request) = self.control.next() {
            let reply = match request {
                Request::Meet { metadata } => {
                    self.initiator = Some(self.baseline.meet(&metadata)?);
                    let address = self.memory.region().address();
                    Reply::Met { metadata: self.baseline.metadata()?, address }
                }
                Request::Offer(offer) => self.offer(offer)?,
                Request::Ping { engine: Engine::Connector, metadata } => self.pong(&metadata)?,
                Request::Ping { engine: Engine::NixlSys, .. } => self.plain_pong()?,
                Request::Idle { outstanding, millis } => {
                    self.idle(outstanding, Duration::from_millis(millis))?
                }
                Request::Finish => bail!("a request out of turn: {request:?}"),
            };
            self.control.answer(reply)?;
        }
        Ok(())
    }

    fn await_finish(&self) -> Result<()> {
        match self.control.next() {
            Some(Request::Finish) => Ok(()),
            other => bail!("a request out of turn: {other:?}"),
        }
    }

    /// One iteration. The connector's waiter waits throughout; the plain engine looks only afterwards unless it is to
    /// watch, so that it does not take the initiator's processor.
    fn offer(&mut self, offer: Offer) -> Result<Reply> {
        let pieces = offer.layout.pieces();
        let pattern = Pattern::new(offer.seed);
        let operations = if offer.split { pieces.len() } else { 1 };
        let initial = match offer.kind {
            Kind::Read => pattern,
            Kind::Write => pattern.poison(),
        };
        self.memory.fill(&pieces, initial)?;
        let at = match offer.engine {
            Engine::Connector => {
                let (mut offered, mut metadata) = (Vec::new(), Vec::new());
                for part in pieces.chunks(pieces.len() / operations) {
                    let list = self.memory.descriptors(part)?;
                    let options =
                        OperationOptions::new().timeout(ConnectorBuilder::DEFAULT_TIMEOUT);
                    let operation = self.runtime.block_on(Offered::create(
                        &self.connector,
                        offer.kind,
                        list,
                        options,
                    ))?;
                    metadata.push(operation.metadata().to_dynamo_json());
                    offered.push(operation);
                }
                self.control.answer(Reply::Offered { metadata })?;
                let at = self.runtime.block_on(async {
                    for operation in &mut offered {
                        operation.wait_for_completion().await?;
                    }
                    Ok::<_, OperationError>(clock::now())
                })?;
                self.await_finish()?;
                at
            }
            Engine::NixlSys => {
                self.control.answer(Reply::Offered { metadata: Vec::new() })?;
                if !offer.watch {
                    self.await_finish()?;
                }
                for index in 0..operations {
                    self.baseline.wait_notified(&notification(offer.seed, index))?;
                }
                let at = clock::now();
                if offer.watch {
                    self.await_finish()?;
                }
                at
            }
        };
        let correct = offer.kind == Kind::Read || self.memory.matches(&pieces, pattern)?;
        Ok(Reply::Finished { at, correct })
    }

    fn pong(&mut self, metadata: &str) -> Result<Reply> {
        let remote = RdmaMetadata::decode(metadata.as_bytes())?;
        let region = self.memory.region();
        let (byte, answer) = (region.descriptor(..1)?, region.descriptor(8..9)?);
        let mut offered = self.runtime.block_on(self.connector.create_readable(byte))?;
        let metadata = vec![offered.metadata().to_dynamo_json()];
        self.control.answer(Reply::Offered { metadata })?;
        self.runtime.block_on(async {
            offered.wait_for_completion().await?;
            self.connector.begin_read(&remote, answer).await?.wait_for_completion().await?;
            anyhow::Ok(())
        })?;
        self.await_finish()?;
        Ok(Reply::Finished { at: clock::now(), correct: true })
    }

    fn plain_pong(&mut self) -> Result<Reply> {
        self.control.answer(Reply::Offered { metadata: Vec::new() })?;
        let initiator = self.initiator.as_deref().ok_or_else(|| anyhow!("not met yet"))?;
        self.baseline.wait_notified(b"ping")?;
        self.baseline.notify(initiator, b"pong")?;
        self.await_finish()?;
        Ok(Reply::Finished { at: clock::now(), correct: true })
    }

    /// The connector only: a program on plain nixl-sys chooses itself how often it looks.
    fn idle(&mut self, outstanding: bool, time: Duration) -> Result<Reply> {
        let byte = self.memory.region().descriptor(..1)?;
        let operation = match outstanding {
            true => Some(self.runtime.block_on(self.connector.create_readable(byte))?),
            false => None,
        };
        // What went before comes to rest first.
        thread::sleep(Duration::from_millis(50));
        let (cpu, wall) = (clock::cpu_time(), clock::now());
        match operation {
            // Its metadata went nowhere, so it cannot complete.
            Some(mut operation) => {
                let end = self
                    .runtime
                    .block_on(async { timeout(time, operation.wait_for_completion()).await });
                if let Ok(end) = end {
                    bail!("an operation that no peer knows has ended: {end:?}");
                }
            }
            None => thread::sleep(time),
        }
        Ok(Reply::Idled { cpu: clock::cpu_time() - cpu, wall: clock::now() - wall })
    }
}

/// What a transfer of the plain engine notifies with.
pub(crate) fn notification(seed: u64, index: usize) -> Vec<u8> {
    // As long as the connector's key, which is a UUID.
    format!("{seed:016x}-{index:019}").into_bytes()
}

const _: () = assert!(
    PATIENCE.as_secs() < ConnectorBuilder::DEFAULT_TIMEOUT.as_secs(),
    "the plain engine gives up before the connector's deadline"
);
