//! Exports and reads of their blocks, as the peer's commands for them do.

use std::collections::HashMap;
use std::error::Error;

use nixl_connector::{Connector, Export, Grant, GrantOptions, RemoteExport};
use nixl_descriptor::Region;
use nixl_descriptor::layout::{Dimensions, GeometryError, Inner, Layout, LayoutGeometry};
use nixl_metadata::{ExportMetadata, Ticket};

use crate::line::{bytes_of, hex_line};
use crate::{crc32, pattern};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// One side's exports.
#[derive(Debug, Default)]
pub struct Exports {
    own: Option<Export>,
    grants: HashMap<u64, Grant>,
    last: u64,
    imported: Option<RemoteExport>,
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

    /// Filled with the [pattern](pattern) of the seed.
    ///
    /// # Errors
    ///
    /// If there is not so much memory.
    pub fn new(seed: u64) -> Result<Self> {
        let geometry = geometry()?;
        let region = Region::try_from(pattern(seed, geometry.bytes()))?;
        Ok(Self { layout: Layout::fully_contiguous(geometry, region.clone())?, region })
    }

    /// What a block holds.
    ///
    /// # Errors
    ///
    /// If it is being written.
    pub fn block(&self, block: usize) -> Result<Vec<u8>> {
        let len = self.layout.geometry().block_len();
        let all = self.region.to_vec()?;
        Ok(all.get(block * len..(block + 1) * len).ok_or("no such block")?.to_vec())
    }
}

fn geometry() -> std::result::Result<LayoutGeometry, GeometryError> {
    LayoutGeometry::try_from(Dimensions {
        blocks: Cache::BLOCKS,
        layers: 2,
        outer: 2,
        page_size: 16,
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
    let geometry = geometry().expect("it makes sense");
    let len = geometry.block_len();
    pattern(seed, geometry.bytes())[block * len..][..len].to_vec()
}

impl Exports {
    /// Obeys a command, if it is one of these: `export SEED`, `grant BLOCK,BLOCK…`, `end N`, `import METADATA` and
    /// `blocks TICKET`, with metadata and tickets in hexadecimal.
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
            "export" => {
                let cache = Cache::new(rest.parse()?)?;
                let export = connector.export([("cache", cache.layout)]).await?;
                let line = hex_line(&export.metadata().encode()?);
                self.own = Some(export);
                line
            }
            "grant" => {
                let export = self.own.as_ref().ok_or("nothing is exported")?;
                let blocks: Vec<u32> =
                    rest.split(',').map(str::parse).collect::<std::result::Result<_, _>>()?;
                let grant = export.grant(0, &blocks, GrantOptions::new())?;
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
            "import" => {
                let metadata = ExportMetadata::decode(&bytes_of(rest).ok_or("no bytes")?)?;
                self.imported = Some(connector.import(&metadata).await?);
                String::new()
            }
            // The CRC of all of them.
            "blocks" => {
                let import = self.imported.as_ref().ok_or("nothing is imported")?;
                let ticket = Ticket::decode(&bytes_of(rest).ok_or("no bytes")?)?;
                let cache = Cache::new(0)?;
                let blocks: Vec<_> = (0..ticket.blocks().len()).collect();
                import.read_blocks(&ticket, &cache.layout, &blocks).await?;
                let mut all = Vec::new();
                for block in blocks {
                    all.extend(cache.block(block)?);
                }
                crc32(&all)
            }
            _ => return Ok(None),
        };
        Ok(Some(answer))
    }
}
