//! The memory of operations.

use anyhow::{Result, anyhow};
use nixl_connector::Connector;
use nixl_descriptor::Region;

use crate::bytes::{pattern, wrong};
use crate::messages::Memory;

/// Memory with bytes to be moved, or with others that are to be overwritten.
pub(super) fn filled(
    connector: &Connector,
    memory: Memory,
    kept: &mut Option<Region>,
    len: usize,
    seed: u64,
) -> Result<Region> {
    let bytes = pattern(seed, len);
    let region = match memory {
        Memory::Vec => return Ok(Region::try_from(bytes.to_vec())?),
        Memory::Buffer => connector.buffer(len)?,
        Memory::Kept => match kept {
            Some(region) => region.clone(),
            None => kept.insert(connector.buffer(len)?).clone(),
        },
    };
    region.copy_from_slice(0, bytes).map_err(|error| anyhow!("{error}"))?;
    Ok(region)
}

/// How many of its bytes are not those that belong to the seed.
pub(super) fn wrong_bytes(region: &Region, seed: u64) -> Result<u64> {
    let bytes = region.to_vec().map_err(|error| anyhow!("{error}"))?;
    Ok(wrong(seed, &bytes))
}
