//! Path reports: the path that an operation took, and the reasons against better ones.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Kinds of path. Those between processes are ordered from best to worst.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum PathKind {
    /// Both sides are memory of this process; copied by the CPU.
    SameProcessCopy,
    /// Between memories of this process, by the executor's strategy of this name.
    Local(&'static str),
    /// Copied by this process's GPU to or from GPU memory that the peer shares (CUDA IPC).
    CudaIpc,
    /// Copied by this process to or from host memory that the peer shares.
    SharedMemory,
    /// In chunks through memory of the GPU that has the bytes, out of which the other side's GPU copies (CUDA IPC): where no other
    /// process can open the memory of either side.
    StagedOnGpu,
    /// By the transport's engine, whose network adapter reaches GPU memory itself.
    GpuDirect,
    /// By the transport's engine in one request, host memory to host memory.
    Direct,
    /// In chunks through pinned memory on the side that has GPU memory.
    StagedOneSide,
    /// In chunks through pinned memory on both sides.
    StagedBothSides,
    /// By the transport's engine in one request, which copies GPU memory itself, slowly.
    EngineStaged,
}

impl PathKind {
    /// All kinds, `Local` with no strategy's name.
    pub const ALL: [Self; 10] = [
        Self::SameProcessCopy,
        Self::Local("local"),
        Self::CudaIpc,
        Self::SharedMemory,
        Self::StagedOnGpu,
        Self::GpuDirect,
        Self::Direct,
        Self::StagedOneSide,
        Self::StagedBothSides,
        Self::EngineStaged,
    ];

    /// A number below 16 for each kind, the same for all local strategies.
    pub(crate) fn index(self) -> u8 {
        match self {
            Self::SameProcessCopy => 0,
            Self::Local(_) => 1,
            Self::CudaIpc => 2,
            Self::SharedMemory => 3,
            Self::GpuDirect => 4,
            Self::Direct => 5,
            Self::StagedOneSide => 6,
            Self::StagedBothSides => 7,
            Self::EngineStaged => 8,
            Self::StagedOnGpu => 9,
        }
    }

    /// The name, the same for all local strategies: one of a closed set, for labels.
    #[must_use]
    pub fn class(self) -> &'static str {
        match self {
            Self::SameProcessCopy => "same-process-copy",
            Self::Local(_) => "local",
            Self::CudaIpc => "cuda-ipc",
            Self::SharedMemory => "shared-memory",
            Self::StagedOnGpu => "staged-on-gpu",
            Self::GpuDirect => "gpu-direct",
            Self::Direct => "direct",
            Self::StagedOneSide => "staged-one-side",
            Self::StagedBothSides => "staged-both-sides",
            Self::EngineStaged => "engine-staged",
        }
    }
}

impl fmt::Display for PathKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(strategy) => f.write_str(strategy),
            other => f.write_str(other.class()),
        }
    }
}

/// The medium between two processes.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Medium {
    /// A GPU's copy engine or kernel, over NVLink or PCIe.
    Gpu,
    /// Memory of one host.
    SharedMemory,
    /// InfiniBand, RoCE or EFA.
    Rdma,
    /// Sockets.
    Tcp,
}

impl Medium {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Gpu, Self::SharedMemory, Self::Rdma, Self::Tcp];

    pub(crate) fn index(self) -> u8 {
        match self {
            Self::Gpu => 0,
            Self::SharedMemory => 1,
            Self::Rdma => 2,
            Self::Tcp => 3,
        }
    }
}

impl fmt::Display for Medium {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gpu => "gpu",
            Self::SharedMemory => "shared-memory",
            Self::Rdma => "rdma",
            Self::Tcp => "tcp",
        })
    }
}

/// One leg of a path.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Hop {
    pub(crate) name: Cow<'static, str>,
    busy: Duration,
}

impl Hop {
    /// A leg with its busy time.
    pub fn new(name: impl Into<Cow<'static, str>>, busy: Duration) -> Self {
        Self { name: name.into(), busy }
    }

    /// The leg's name, such as `gpu to slot`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The time during which at least one chunk was on this leg.
    #[must_use]
    pub fn busy(&self) -> Duration {
        self.busy
    }
}

/// A path that was considered and not taken.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rejected {
    pub(crate) kind: PathKind,
    pub(crate) reason: Cow<'static, str>,
}

impl Rejected {
    /// Makes a rejection of `kind` for `reason`.
    pub fn new(kind: PathKind, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, reason: reason.into() }
    }

    /// The path.
    #[must_use]
    pub fn kind(&self) -> PathKind {
        self.kind
    }

    /// The reason.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

/// The path of one operation.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PathReport {
    pub(crate) kind: PathKind,
    pub(crate) transport: Cow<'static, str>,
    pub(crate) bytes: u64,
    pub(crate) descriptors: usize,
    medium: Option<Medium>,
    is_listed: bool,
    is_checked: bool,
    is_verified: bool,
    chunks: u64,
    rails: u32,
    hops: Vec<Hop>,
    degraded: Option<Cow<'static, str>>,
    pub(crate) elapsed: Duration,
    pub(crate) rejected: Arc<[Rejected]>,
}

impl PathReport {
    /// A report for an unfinished operation.
    pub fn new(
        kind: PathKind,
        transport: impl Into<Cow<'static, str>>,
        bytes: u64,
        descriptors: usize,
    ) -> Self {
        Self {
            kind,
            transport: transport.into(),
            bytes,
            descriptors,
            medium: None,
            is_listed: false,
            is_checked: false,
            is_verified: false,
            chunks: 1,
            rails: 1,
            hops: Vec::new(),
            degraded: None,
            elapsed: Duration::ZERO,
            rejected: Arc::default(),
        }
    }

    /// Sets the kind of path.
    #[must_use]
    pub fn with_kind(mut self, kind: PathKind) -> Self {
        self.kind = kind;
        self
    }

    /// Sets the medium.
    #[must_use]
    pub fn with_medium(mut self, medium: Option<Medium>) -> Self {
        self.medium = medium;
        self
    }

    /// The same report, of a transfer by [prepared lists](Self::uses_prepared_lists) or not.
    #[must_use]
    pub(crate) fn with_prepared_lists(mut self, is_listed: bool) -> Self {
        self.is_listed = is_listed;
        self
    }

    /// The same report, of a read whose grant [its owner has checked](Self::is_checked_by_owner) or not.
    #[must_use]
    pub fn with_owner_check(mut self, is_checked: bool) -> Self {
        self.is_checked = is_checked;
        self
    }

    /// The same report, of a read whose bytes [match their checksum](Self::has_verified_checksum) or were not verified.
    #[must_use]
    pub fn with_verified_checksum(mut self, is_verified: bool) -> Self {
        self.is_verified = is_verified;
        self
    }

    /// The same report, of a transfer in so many chunks; 1 unless set.
    #[must_use]
    pub fn with_chunks(mut self, chunks: u64) -> Self {
        self.chunks = chunks;
        self
    }

    /// Sets the time of each hop.
    #[must_use]
    pub fn with_hops(mut self, hops: Vec<Hop>) -> Self {
        self.hops = hops;
        self
    }

    /// Marks a path that is slower than the hardware allows, with the reason.
    #[must_use]
    pub fn with_degraded(mut self, reason: Option<Cow<'static, str>>) -> Self {
        self.degraded = reason;
        self
    }

    /// Sets the bytes and the number of copies.
    #[must_use]
    pub fn of_copies(mut self, bytes: u64, copies: usize) -> Self {
        self.bytes = bytes;
        self.descriptors = copies;
        self
    }

    /// Sets the rejected paths.
    #[must_use]
    pub fn rejecting(mut self, rejected: impl Into<Arc<[Rejected]>>) -> Self {
        self.rejected = rejected.into();
        self
    }

    /// The kind of path.
    #[must_use]
    pub fn kind(&self) -> PathKind {
        self.kind
    }

    /// The engine that moved the bytes, for instance `nixl/UCX` or `memcpy`.
    #[must_use]
    pub fn transport(&self) -> &str {
        &self.transport
    }

    /// Bytes of the operation.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Descriptor pairs handed to the engine, after neighbours were merged.
    #[must_use]
    pub fn descriptors(&self) -> usize {
        self.descriptors
    }

    /// Whether the engine got positions in lists that it had prepared, and not the ranges one by one.
    #[must_use]
    pub fn uses_prepared_lists(&self) -> bool {
        self.is_listed
    }

    /// Whether the owner of the blocks took part in a read by a ticket, and has seen after each of its copies that the grant stood. Then
    /// the reader needs no check of its own.
    #[must_use]
    pub fn is_checked_by_owner(&self) -> bool {
        self.is_checked
    }

    /// Whether the bytes that arrived were found to match the checksum of their [offer](crate::OperationOptions::checksum).
    #[must_use]
    pub fn has_verified_checksum(&self) -> bool {
        self.is_verified
    }

    /// What carried the bytes between the processes, if they left this one and it is known.
    #[must_use]
    pub fn medium(&self) -> Option<Medium> {
        self.medium
    }

    /// Chunks in sequence; one if the path does not split.
    #[must_use]
    pub fn chunks(&self) -> u64 {
        self.chunks
    }

    /// Links used side by side.
    #[must_use]
    pub fn rails(&self) -> u32 {
        self.rails
    }

    /// The legs of a path that has several.
    #[must_use]
    pub fn hops(&self) -> &[Hop] {
        &self.hops
    }

    /// The reason why the path is slower than the hardware allows, if the peer causes it.
    #[must_use]
    pub fn degraded(&self) -> Option<&str> {
        self.degraded.as_deref()
    }

    /// From post to the observed end. Zero while the operation has not ended.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }

    /// Rejected better paths, best first.
    #[must_use]
    pub fn rejected(&self) -> &[Rejected] {
        &self.rejected
    }
}

impl fmt::Display for PathReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} over {}: {} bytes in {} descriptors, {:?}",
            self.kind, self.transport, self.bytes, self.descriptors, self.elapsed
        )?;
        if let Some(medium) = self.medium {
            write!(f, "; carried by {medium}")?;
        }
        if self.is_listed {
            f.write_str("; by prepared lists")?;
        }
        if self.is_checked {
            f.write_str("; checked by the owner")?;
        }
        if self.is_verified {
            f.write_str("; checksum verified")?;
        }
        if self.chunks > 1 {
            write!(f, "; {} chunks", self.chunks)?;
        }
        for hop in &self.hops {
            write!(f, "; {} {:?}", hop.name, hop.busy)?;
        }
        if let Some(why) = &self.degraded {
            write!(f, "; degraded: {why}")?;
        }
        for rejected in self.rejected.iter() {
            write!(f, "; not {}: {}", rejected.kind, rejected.reason)?;
        }
        Ok(())
    }
}
