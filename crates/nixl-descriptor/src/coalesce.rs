//! Coalescing of descriptors into fewer, longer ones for the engine.

use std::borrow::Borrow;

use nixl_device::Device;

use crate::descriptor::Descriptor;
use crate::region::RegionId;

/// A range of some device's memory, as numbers: it owns nothing and may be a peer's.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "it is these three numbers and will stay so")]
pub struct Span {
    /// Address of the first byte.
    pub address: u64,
    /// Number of bytes.
    pub len: u64,
    /// Whose memory it is.
    pub device: Device,
}

impl Span {
    /// This span followed by `next`, if they touch.
    fn joined(self, next: Self) -> Option<Self> {
        let touches =
            self.device == next.device && self.address.checked_add(self.len) == Some(next.address);
        let len = self.len.checked_add(next.len)?;
        touches.then_some(Self { len, ..self })
    }
}

impl From<&Descriptor> for Span {
    fn from(descriptor: &Descriptor) -> Self {
        Self {
            address: descriptor.address(),
            len: descriptor.len() as u64,
            device: descriptor.device(),
        }
    }
}

/// Why local and remote ranges do not pair.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PairError {
    /// Different numbers of ranges.
    #[error("{local} local ranges cannot pair with {remote} remote ones: the counts must be equal")]
    Count {
        /// Number of local ranges.
        local: usize,
        /// Number of remote ranges.
        remote: usize,
    },
    /// A pair of different lengths.
    #[error("pair {index} has {local} bytes here and {remote} there: the lengths must be equal")]
    Length {
        /// Which pair, from zero.
        index: usize,
        /// Bytes of the local range.
        local: u64,
        /// Bytes of the remote range.
        remote: u64,
    },
}

/// Pairs local with remote ranges and merges neighbours that continue each other on *both* sides.
///
/// Moves the same bytes between the same addresses in the same order, in at most as many pairs. On the local side a
/// merged span stays inside one region, because one registration has to cover it for an engine. The remote side shows no
/// regions, so the caller decides: `remote_may_merge(first, second)` returns whether one registration of the peer covers
/// both (`first` is what was merged so far, and ends where `second` begins). `|_, _| false` is always right.
/// Panics: never.
///
/// # Errors
/// [`PairError`] if the counts, or the lengths of a pair, differ.
pub fn coalesce_pairs(
    local: &[Descriptor],
    remote: impl IntoIterator<Item = impl Borrow<Span>, IntoIter: ExactSizeIterator>,
    remote_may_merge: impl Fn(&Span, &Span) -> bool,
) -> Result<Vec<(Span, Span)>, PairError> {
    let remote = remote.into_iter();
    if local.len() != remote.len() {
        return Err(PairError::Count { local: local.len(), remote: remote.len() });
    }
    let mut merged: Vec<(Span, Span)> = Vec::with_capacity(local.len());
    let mut last_region: Option<RegionId> = None;
    for (index, (descriptor, there)) in local.iter().zip(remote).enumerate() {
        let (here, there) = (Span::from(descriptor), *there.borrow());
        if here.len != there.len {
            return Err(PairError::Length { index, local: here.len, remote: there.len });
        }
        let region = descriptor.region().id();
        let same_region = last_region.replace(region) == Some(region);
        if let Some((last_here, last_there)) = merged.last_mut().filter(|_| same_region)
            && let (Some(joined_here), Some(joined_there)) =
                (last_here.joined(here), last_there.joined(there))
            && remote_may_merge(last_there, &there)
        {
            (*last_here, *last_there) = (joined_here, joined_there);
        } else {
            merged.push((here, there));
        }
    }
    Ok(merged)
}
