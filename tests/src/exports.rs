//! Exports and reads of their blocks, as the peer's commands for them do.

use std::collections::HashMap;
use std::error::Error;
use std::time::Duration;

use nixl_connector::{Connector, Export, ExportNotifications, Grant, GrantOptions, RemoteExport};
use nixl_descriptor::Region;
use nixl_descriptor::layout::{Dimensions, GeometryError, Inner, Layout, LayoutGeometry};
use nixl_metadata::{ExportMetadata, Ticket};

use crate::line::{bytes_of, hex_line};
use crate::{crc32, pattern};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// One side's exports.
#[derive(Debug, Default)]
pub struct Exports {
    /// Tokens of a page in caches of memory of the pool; `None` for small caches of other memory.
    page: Option<usize>,
    own: Option<(Export, Cache)>,
    grants: HashMap<u64, Grant>,
    last: u64,
    imported: Option<RemoteExport>,
    heard: Option<ExportNotifications>,
    /// What is read goes there, and what is written comes from there.
    local: Option<Cache>,
}

/// A cache of 64 blocks, in memory that this process has.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Cache {
    /// The layout.
    pub layout: Layout,
    region: Region,
}

impl Cache {
    /// Its blocks.
    pub const BLOCKS: usize = 64;

    /// Filled with the [pattern](pattern()) of the seed.
    ///
    /// # Errors
    ///
    /// If there is not so much memory.
    pub fn new(seed: u64) -> Result<Self> {
        let geometry = geometry(PAGE)?;
        Self::over(geometry, Region::try_from(pattern(seed, geometry.bytes()))?)
    }

    /// In memory of the connector's pool, which is zero, with pages of so many tokens. A block has 256 bytes for each.
    ///
    /// # Errors
    ///
    /// If there is not so much memory.
    pub fn of_pages(connector: &Connector, page: usize) -> Result<Self> {
        let geometry = geometry(page)?;
        Self::over(geometry, connector.buffer(geometry.bytes())?)
    }

    /// As [`of_pages`](Self::of_pages), in memory of its own, which goes back to the system with it.
    ///
    /// # Errors
    ///
    /// If there is not so much memory.
    pub fn of_own_pages(page: usize) -> Result<Self> {
        let geometry = geometry(page)?;
        Self::over(geometry, Region::zeroed(geometry.bytes())?)
    }

    fn over(geometry: LayoutGeometry, region: Region) -> Result<Self> {
        Ok(Self { layout: Layout::fully_contiguous(geometry, region.clone())?, region })
    }

    /// What a block holds.
    ///
    /// # Errors
    ///
    /// If it is being written.
    pub fn block(&self, block: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; self.layout.geometry().block_len()];
        self.region.copy_to_slice(block * bytes.len(), &mut bytes)?;
        Ok(bytes)
    }

    /// Fills a block with the [pattern](pattern()) of the seed.
    ///
    /// # Errors
    ///
    /// If it is granted or in use.
    pub fn fill(&self, block: usize, seed: u64) -> Result<()> {
        let len = self.layout.geometry().block_len();
        Ok(self.region.copy_from_slice(block * len, &pattern(seed, len))?)
    }
}

/// Tokens of a page, unless a test says otherwise.
const PAGE: usize = 16;

fn geometry(page_size: usize) -> std::result::Result<LayoutGeometry, GeometryError> {
    LayoutGeometry::try_from(Dimensions {
        blocks: Cache::BLOCKS,
        layers: 2,
        outer: 2,
        page_size,
        inner: Inner::Elements(32),
        element_width: 2,
    })
}

/// What a block of the cache of a seed holds.
///
/// # Panics
///
/// If there is no such block.
pub fn block_of(seed: u64, block: usize) -> Vec<u8> {
    let geometry = geometry(PAGE).expect("it makes sense");
    let len = geometry.block_len();
    pattern(seed, geometry.bytes())[block * len..][..len].to_vec()
}

impl Exports {
    /// Obeys a command, if it is one of these: `pages TOKENS`, `export SEED`, `grant BLOCK,BLOCK… [MILLISECONDS]`, `end N`,
    /// `refill N SEED`, `import METADATA`, `blocks TICKET`, `put TICKET`, `done TICKET`, `notify TEXT` and `hear COUNT`, with
    /// metadata and tickets in hexadecimal.
    ///
    /// # Errors
    ///
    /// What the crates say.
    pub async fn obey(
        &mut self,
        connector: &Connector,
        command: &str,
        rest: &str,
    ) -> Result<Option<String>> {
        let answer = match command {
            "pages" => {
                self.page = Some(rest.parse()?);
                String::new()
            }
            "export" => {
                let cache = self.cache(connector, rest.parse()?)?;
                let export = connector.export([("cache", cache.layout.clone())]).await?;
                let line = hex_line(&export.metadata().encode()?);
                self.own = Some((export, cache));
                line
            }
            "grant" => {
                let (export, _) = self.own.as_ref().ok_or("nothing is exported")?;
                let (blocks, time) = rest.split_once(' ').unwrap_or((rest, ""));
                let blocks: Vec<u32> =
                    blocks.split(',').map(str::parse).collect::<std::result::Result<_, _>>()?;
                let mut options = GrantOptions::new();
                if !time.is_empty() {
                    options = options.time_to_live(Duration::from_millis(time.parse()?));
                }
                let grant = export.grant(0, &blocks, options)?;
                let line = hex_line(&grant.ticket().encode());
                self.last += 1;
                self.grants.insert(self.last, grant);
                format!("{} {line}", self.last)
            }
            // Whether it had not ended before.
            "end" => {
                let grant = self.grants.remove(&rest.parse()?).ok_or("no such grant")?;
                grant.end().to_string()
            }
            // The same, and whether each of its blocks was filled: one that another grant covers is not.
            "refill" => {
                let (number, seed) = rest.split_once(' ').ok_or("refill N SEED")?;
                let (_, cache) = self.own.as_ref().ok_or("nothing is exported")?;
                let grant = self.grants.remove(&number.parse()?).ok_or("no such grant")?;
                let (blocks, seed) = (grant.ticket().blocks().to_vec(), seed.parse::<u64>()?);
                let mut line = grant.end().to_string();
                for block in blocks {
                    let filled = cache.fill(block as usize, seed + u64::from(block));
                    line.push_str(if filled.is_ok() { " true" } else { " false" });
                }
                line
            }
            "import" => {
                let metadata = ExportMetadata::decode(&bytes_of(rest).ok_or("no bytes")?)?;
                self.imported = Some(connector.import(&metadata).await?);
                String::new()
            }
            // The CRC of all of them.
            "blocks" => {
                let cache = self.local(connector)?;
                let import = self.imported.as_ref().ok_or("nothing is imported")?;
                let ticket = Ticket::decode(&bytes_of(rest).ok_or("no bytes")?)?;
                let blocks: Vec<_> = (0..ticket.blocks().len()).collect();
                import.read_blocks(&ticket, &cache.layout, &blocks).await?;
                let mut all = Vec::new();
                for block in blocks {
                    all.extend(cache.block(block)?);
                }
                crc32(&all)
            }
            // How many layers are ready, once so many are.
            "ready" => {
                let (ticket, layers) = rest.split_once(' ').ok_or("ready TICKET LAYERS")?;
                let import = self.imported.as_ref().ok_or("nothing is imported")?;
                let ticket = Ticket::decode(&bytes_of(ticket).ok_or("no bytes")?)?;
                import.wait_ready(&ticket, layers.parse()?).await?.to_string()
            }
            "put" => {
                let cache = self.local(connector)?;
                let import = self.imported.as_ref().ok_or("nothing is imported")?;
                let ticket = Ticket::decode(&bytes_of(rest).ok_or("no bytes")?)?;
                let blocks: Vec<_> = (0..ticket.blocks().len()).collect();
                import.write_blocks(&ticket, &cache.layout, &blocks).await?;
                String::new()
            }
            "done" => {
                let import = self.imported.as_ref().ok_or("nothing is imported")?;
                import.done(&Ticket::decode(&bytes_of(rest).ok_or("no bytes")?)?).await?;
                String::new()
            }
            "notify" => {
                let import = self.imported.as_ref().ok_or("nothing is imported")?;
                import.notify(rest.as_bytes()).await?;
                String::new()
            }
            // Each as its sender's agent, its payload and how many before it are lost.
            "hear" => {
                let (export, _) = self.own.as_ref().ok_or("nothing is exported")?;
                let mut heard = match self.heard.take() {
                    Some(heard) => heard,
                    None => export.notifications().ok_or("they are received elsewhere")?,
                };
                let mut line = String::new();
                for _ in 0..rest.parse()? {
                    let next = heard.recv().await.ok_or("the export is closed")?;
                    let (agent, payload) = (next.sender.agent_name(), next.payload.escape_ascii());
                    line.push_str(&format!("{agent} {payload} {},", next.lost));
                }
                self.heard = Some(heard);
                line
            }
            _ => return Ok(None),
        };
        Ok(Some(answer))
    }

    /// A cache whose blocks hold the pattern of the seed.
    fn cache(&self, connector: &Connector, seed: u64) -> Result<Cache> {
        let Some(page) = self.page else { return Cache::new(seed) };
        let cache = Cache::of_pages(connector, page)?;
        cache.region.copy_from_slice(0, &pattern(seed, cache.region.len()))?;
        Ok(cache)
    }

    fn local(&mut self, connector: &Connector) -> Result<Cache> {
        let cache = match (&self.local, self.page) {
            (Some(cache), _) => cache.clone(),
            (None, Some(page)) => Cache::of_pages(connector, page)?,
            (None, None) => Cache::new(0)?,
        };
        self.local = Some(cache.clone());
        Ok(cache)
    }
}
