//! The other process of a test: a connector over NIXL, driven by lines on stdin.
//!
//! Each line is a command, and each is answered by one line on stdout: `ok …`, or `error …` with the error as
//! `Debug` prints it. The first line is printed unasked: whether the connector was built, and its name.
//!
//! | command | answer |
//! |---|---|
//! | `readable LEN SEED`, `writable LEN SEED` | an operation's number and its metadata: memory filled from the seed |
//! | `read JSON`, `write SEED JSON` | the number of the operation, which has begun |
//! | `wait N` | once it is complete, the CRC-32 of its memory |
//! | `cancel N` | what came of it |
//! | `drop N` | nothing; the operation is gone, and its memory as far as this program is concerned |
//! | `reuse N SEED` | once it is complete, nothing; the operation is gone, and its owner has filled the memory from the seed |
//! | `look N` | the CRC-32 of memory that is in use again |
//! | `free N` | nothing; the memory is gone |
//! | `memory host`, `memory shared`, `memory cuda`, `memory pool` | nothing; memory of operations from here on is the host's, can be mapped by others, or is a simulated GPU's, with or without a handle |
//! | `profile dynamo`, `profile native` | nothing; the metadata of operations from here on is in this profile |
//! | `slots` | what staging holds |
//! | `stats` | what is in hand |
//! | `settings` | what the engine was given |
//! | `health` | whether the connector is ready and live, and its problems |
//! | `rebuild` | nothing; another connector has taken the place of the first, and its operations are gone |
//! | `blocked` | the longest call on the connection's thread, in microseconds |
//! | `export SEED`, `import METADATA` | the metadata of an export; nothing |
//! | `pages TOKENS` | nothing; caches from here on have pages of so many tokens, in memory of the pool |
//! | `grant BLOCK,… [MILLISECONDS]`, `end N` | a grant's number and ticket; whether it had not ended |
//! | `refill N SEED` | as `end`, and whether each of its blocks was filled from the seed and its number |
//! | `blocks TICKET` | the CRC-32 of the blocks, which were read |
//! | `put TICKET`, `done TICKET` | nothing; the blocks were written from the first of the own cache, or the owner was told |
//! | `notify TEXT`, `hear COUNT` | nothing, the owner was notified; the notifications of importers, of which 0 begin to be received |
//!
//! With the variable `NIXL_TEST_STAGED`, transfers of GPU memory are staged; its value is the time of silence, in
//! milliseconds, after which a peer is given up. With `NIXL_TEST_ADMIT`, UCX takes connections of that network alone. It ends when
//! stdin does.
#![allow(clippy::print_stdout, reason = "stdout is its interface")]

use std::collections::HashMap;
use std::env;
use std::error::Error;
use std::io::{self, BufRead as _};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use nixl_connector::nixl::NixlOptions;
use nixl_connector::{
    Connector, ConnectorError, ReadOperation, ReadableOperation, WritableOperation, WriteOperation,
};
use nixl_descriptor::Region;
use nixl_executor::paths::LocalFacts;
use nixl_executor::{GpuBackend, GpuCapabilities, PathExecutor, SimulatedGpus, StagingConfig};
use nixl_metadata::RdmaMetadata;
use nixl_ops::Executor;
use nixl_tests::{Exports, Memory, bytes, crc32, metadata, native_line, pattern};

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

enum Operation {
    Readable(ReadableOperation),
    Writable(WritableOperation),
    Read(ReadOperation),
    Write(WriteOperation),
}

struct Server {
    connector: Connector,
    gpus: Arc<SimulatedGpus>,
    staged: Arc<PathExecutor>,
    is_staged: bool,
    memory: Memory,
    native: bool,
    operations: HashMap<u64, (Operation, Region)>,
    exports: Exports,
    /// Memory of operations that have ended.
    reused: HashMap<u64, Region>,
    last: u64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let capabilities = GpuCapabilities::new(1).with_batch(true);
    let facts = LocalFacts::discover().as_ref().clone().with_simulated_gpus(&capabilities);
    let gpus = match SimulatedGpus::new(capabilities) {
        Ok(gpus) => Arc::new(gpus),
        Err(error) => return println!("error {error:?}"),
    };
    let mut config = StagingConfig::default();
    let silence = env::var("NIXL_TEST_STAGED").ok();
    if let Some(silence) = silence.as_ref().and_then(|ms| ms.parse().ok()) {
        config = config.silence(Duration::from_millis(silence));
    }
    let made = PathExecutor::with(Arc::clone(&gpus) as Arc<dyn GpuBackend>, Arc::new(facts));
    let staged = match made {
        Ok(executor) => Arc::new(executor.staging(config)),
        Err(error) => return println!("error {error:?}"),
    };
    let is_staged = silence.is_some();
    let connector = match build(is_staged, &staged).await {
        Ok(connector) => connector,
        Err(error) => return println!("error {error:?}"),
    };
    println!("ok {}", connector.name());
    let mut server = Server {
        connector,
        gpus,
        staged,
        memory: Memory::Host,
        is_staged,
        native: is_staged,
        operations: HashMap::new(),
        exports: Exports::default(),
        reused: HashMap::new(),
        last: 0,
    };
    for line in io::stdin().lock().lines() {
        let Ok(line) = line else { return };
        match server.obey(&line).await {
            Ok(answer) => println!("ok {answer}"),
            Err(error) => println!("error {error:?}"),
        }
    }
}

async fn build(is_staged: bool, staged: &Arc<PathExecutor>) -> Result<Connector, ConnectorError> {
    let mut builder = Connector::builder().name("peer");
    if let Ok(network) = env::var("NIXL_TEST_ADMIT")
        && let Some((address, bits)) = network.split_once('/')
        && let (Ok(address), Ok(bits)) = (address.parse::<IpAddr>(), bits.parse())
    {
        builder = builder.nixl(NixlOptions::new().admit_networks([(address, bits)]));
    }
    if is_staged {
        builder = builder.executor(Arc::clone(staged) as Arc<dyn Executor>);
    }
    builder.build().await
}

/// How much memory an offer is for, within what this program has.
fn length(remote: &RdmaMetadata) -> Result<usize> {
    const MOST: u64 = 256 << 20;
    let bytes = remote.total_bytes();
    match bytes <= MOST {
        true => Ok(usize::try_from(bytes)?),
        false => Err(format!("{bytes} bytes are more than this program reads").into()),
    }
}

impl Server {
    /// In Dynamo's profile, unless transfers are staged, of which that says nothing, or the test wants the other.
    fn line(&self, metadata: &RdmaMetadata) -> String {
        if self.native { native_line(metadata) } else { metadata.to_dynamo_json() }
    }

    async fn obey(&mut self, line: &str) -> Result<String> {
        let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
        match command {
            "readable" => {
                let region = self.filled(rest)?;
                let operation = self.connector.create_readable(region.clone()).await?;
                let line = self.line(operation.metadata());
                Ok(format!("{} {line}", self.keep(Operation::Readable(operation), region)))
            }
            "writable" => {
                let region = self.filled(rest)?;
                let operation = self.connector.create_writable(region.clone()).await?;
                let line = self.line(operation.metadata());
                Ok(format!("{} {line}", self.keep(Operation::Writable(operation), region)))
            }
            "read" => {
                let remote = metadata(rest)?;
                let region = self.region(vec![0; length(&remote)?])?;
                let operation = self.connector.begin_read(&remote, region.clone()).await?;
                Ok(self.keep(Operation::Read(operation), region).to_string())
            }
            "write" => {
                let (seed, line) = rest.split_once(' ').ok_or("write SEED METADATA")?;
                let remote = metadata(line)?;
                let bytes = pattern(seed.parse()?, length(&remote)?);
                let region = self.region(bytes)?;
                let operation = self.connector.begin_write(region.clone(), &remote).await?;
                Ok(self.keep(Operation::Write(operation), region).to_string())
            }
            "wait" => {
                let number = rest.parse()?;
                let crc = crc32(&bytes(&self.end(number).await?)?);
                self.operations.remove(&number);
                Ok(crc)
            }
            "reuse" => {
                let (number, seed) = rest.split_once(' ').ok_or("reuse N SEED")?;
                let (number, seed) = (number.parse()?, seed.parse()?);
                let region = self.end(number).await?;
                self.operations.remove(&number);
                region.copy_from_slice(0, &pattern(seed, region.len()))?;
                self.reused.insert(number, region);
                Ok(String::new())
            }
            "look" => {
                let region = self.reused.get(&rest.parse()?).ok_or("no such memory")?;
                Ok(crc32(&bytes(region)?))
            }
            "free" => {
                self.reused.remove(&rest.parse()?).ok_or("no such memory")?;
                Ok(String::new())
            }
            "cancel" => {
                let number = rest.parse()?;
                let (operation, _) = self.operations.get_mut(&number).ok_or("no such operation")?;
                let outcome = match operation {
                    Operation::Readable(operation) => operation.cancel(),
                    Operation::Writable(operation) => operation.cancel(),
                    Operation::Read(operation) => operation.cancel(),
                    Operation::Write(operation) => operation.cancel(),
                };
                Ok(format!("{outcome:?}"))
            }
            "drop" => {
                self.operations.remove(&rest.parse()?).ok_or("no such operation")?;
                Ok(String::new())
            }
            "memory" => {
                self.memory = rest.parse()?;
                Ok(String::new())
            }
            "profile" => {
                self.native = rest == "native";
                Ok(String::new())
            }
            "health" => {
                let health = self.connector.health().await;
                let (is_ready, is_live) = (health.is_ready(), health.is_live());
                Ok(format!("ready {is_ready}, live {is_live}: {:?}", health.problems()))
            }
            "rebuild" => {
                self.connector = build(self.is_staged, &self.staged).await?;
                self.operations.clear();
                Ok(String::new())
            }
            // The longest call on the connection's thread, in microseconds.
            "blocked" => Ok(self.connector.stats().longest_blocking_call().as_micros().to_string()),
            "slots" => Ok(format!("{:?}", self.staged.staging_stats())),
            "stats" => Ok(format!("{:?}", self.connector.stats())),
            "settings" => {
                let settings = self.connector.engine_settings();
                Ok(settings.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
            }
            _ => {
                let obeyed = self.exports.obey(&self.connector, command, rest).await?;
                obeyed.ok_or_else(|| format!("no command {command:?}").into())
            }
        }
    }

    /// Waits until the operation is complete. Returns its memory.
    async fn end(&mut self, number: u64) -> Result<Region> {
        let (operation, region) = self.operations.get_mut(&number).ok_or("no such operation")?;
        match operation {
            Operation::Readable(operation) => operation.wait_for_completion().await?,
            Operation::Writable(operation) => operation.wait_for_completion().await?,
            Operation::Read(operation) => operation.wait_for_completion().await?,
            Operation::Write(operation) => operation.wait_for_completion().await?,
        };
        Ok(region.clone())
    }

    fn keep(&mut self, operation: Operation, region: Region) -> u64 {
        self.last += 1;
        self.operations.insert(self.last, (operation, region));
        self.last
    }

    fn filled(&self, arguments: &str) -> Result<Region> {
        let (len, seed) = arguments.split_once(' ').ok_or("LEN SEED")?;
        self.region(pattern(seed.parse()?, len.parse()?))
    }

    /// Memory that holds these bytes.
    fn region(&self, bytes: Vec<u8>) -> Result<Region> {
        self.memory.region(&self.gpus, &bytes)
    }
}
