//! The path is data: what an operation did with the bytes, and why not something better.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

/// The kind of path that bytes took.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum PathKind {
    /// Both sides are memory of this process; copied by the CPU.
    SameProcessCopy,
    /// Between memories of this process, by the executor's strategy of this name.
    Local(&'static str),
    /// Handed to the transport's engine in one request, memory to memory.
    Direct,
}

impl fmt::Display for PathKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SameProcessCopy => "same-process-copy",
            Self::Local(strategy) => strategy,
            Self::Direct => "direct",
        })
    }
}

/// A path that was considered and not taken.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Rejected {
    /// The path.
    pub kind: PathKind,
    /// Why not.
    pub reason: Cow<'static, str>,
}

impl Rejected {
    /// Notes that `kind` was not taken because of `reason`.
    pub fn new(kind: PathKind, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, reason: reason.into() }
    }
}

/// The path one operation took.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct PathReport {
    /// The kind of path.
    pub kind: PathKind,
    /// The engine that moved the bytes, for instance `nixl/UCX` or `memcpy`.
    pub transport: Cow<'static, str>,
    /// Bytes of the operation.
    pub bytes: u64,
    /// Descriptor pairs handed to the engine, after neighbours were merged.
    pub descriptors: usize,
    /// From post to the observed end. Zero while the operation has not ended.
    pub elapsed: Duration,
    /// Better paths that were not taken, best first.
    pub rejected: Vec<Rejected>,
}

impl PathReport {
    /// A report for an operation that has not ended yet.
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
            elapsed: Duration::ZERO,
            rejected: Vec::new(),
        }
    }

    /// Adds a path that was not taken.
    #[must_use]
    pub fn rejecting(mut self, rejected: Rejected) -> Self {
        self.rejected.push(rejected);
        self
    }
}

impl fmt::Display for PathReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} over {}: {} bytes in {} descriptors, {:?}",
            self.kind, self.transport, self.bytes, self.descriptors, self.elapsed
        )?;
        for rejected in &self.rejected {
            write!(f, "; not {}: {}", rejected.kind, rejected.reason)?;
        }
        Ok(())
    }
}
