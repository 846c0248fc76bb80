//! Memory on both sides.

use anyhow::Result;
use nixl_device::Device;

use super::buffer::Buffer;
use super::plain::Plain;

/// As the initiator sees it.
pub(crate) struct Pair {
    /// If one is wanted, the plain engine or why there is none. Before the buffer, whose memory it has registered.
    pub(crate) plain: Option<Result<Plain>>,
    pub(crate) buffer: Buffer,
    /// The target's device and address, for the plain engine.
    pub(crate) there: (Device, u64),
}
