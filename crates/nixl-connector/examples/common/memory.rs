//! Memory with bytes that other software can make too.
//!
//! The pattern of a seed is the output of SplitMix64 started with that seed, each number as eight bytes, the least
//! significant first, cut to the operation's size. It runs through all descriptors of the operation in order.

use nixl_connector::ConnectorError;
use nixl_descriptor::{Descriptor, Region};
use nixl_memories::Memory;

use super::Result;

/// Memory that holds the pattern, for a peer to get.
pub(crate) fn source(memory: Memory, sizes: &[u64], seed: u64) -> Result<Region> {
    filled(memory, sizes, |k| number(seed, k))
}

/// Memory in which every byte differs from the pattern, so that none is right by chance.
pub(crate) fn destination(memory: Memory, sizes: &[u64], seed: u64) -> Result<Region> {
    filled(memory, sizes, |k| !number(seed, k))
}

/// One descriptor for each size, one after the other in the region.
pub(crate) fn split(
    region: &Region,
    sizes: &[u64],
) -> std::result::Result<Vec<Descriptor>, ConnectorError> {
    let mut end = 0;
    sizes
        .iter()
        .map(|&size| {
            let start = end;
            end += size as usize;
            Ok(region.descriptor(start..end)?)
        })
        .collect()
}

fn filled(memory: Memory, sizes: &[u64], number: impl Fn(u64) -> u64) -> Result<Region> {
    let total = sizes.iter().try_fold(0u64, |sum, &size| sum.checked_add(size));
    let len = total.and_then(|total| usize::try_from(total).ok()).ok_or("too many bytes")?;
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).map_err(|_| format!("cannot allocate {len} bytes"))?;
    bytes.resize(len, 0);
    for (k, chunk) in (0..).zip(bytes.chunks_mut(8)) {
        chunk.copy_from_slice(&number(k).to_le_bytes()[..chunk.len()]);
    }
    let region = memory.allocate(len).map_err(one_line)?;
    nixl_memories::write(&region, 0, &bytes).map_err(one_line)?;
    Ok(region)
}

/// An error with its causes.
pub(crate) fn one_line(error: impl std::fmt::Display) -> String {
    format!("{error:#}")
}

/// Number `k`, counted from 0, of SplitMix64.
fn number(seed: u64, k: u64) -> u64 {
    let mut z = seed.wrapping_add(k.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
