//! The engines that move the bytes.

use std::fmt;
use std::time::Duration;

use nixl_connector::OperationOptions;
use nixl_executor::PathKind;
use nixl_ops::PathPolicy;

/// No transfer takes nearly as long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Our connector under some policy, or what it is compared with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Engine {
    /// The executor chooses the path.
    Auto,
    /// The executor must take this path.
    Forced(PathKind),
    /// Create, post and poll.
    Plain,
    /// One copy by the driver within this process: the best that the hardware has.
    Driver,
    /// Our connector with the direct executor, which has nothing to choose.
    Direct,
}

impl Engine {
    /// The paths that lead from one process to another.
    const FORCED: [PathKind; 8] = [
        PathKind::CudaIpc,
        PathKind::SharedMemory,
        PathKind::StagedOnGpu,
        PathKind::GpuDirect,
        PathKind::Direct,
        PathKind::StagedOneSide,
        PathKind::StagedBothSides,
        PathKind::EngineStaged,
    ];

    /// Those between which every transfer is compared.
    pub(crate) fn compared() -> Vec<Self> {
        let forced = Self::FORCED.into_iter().map(Self::Forced);
        [Self::Auto].into_iter().chain(forced).chain([Self::Plain, Self::Driver]).collect()
    }

    pub(crate) fn options(self) -> OperationOptions {
        let policy = match self {
            Self::Forced(kind) => PathPolicy::auto().require(kind),
            _ => PathPolicy::auto(),
        };
        OperationOptions::new().timeout(PATIENCE).policy(policy)
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("nixl-connector"),
            Self::Forced(kind) => write!(f, "nixl-connector/{kind}"),
            Self::Plain => f.write_str("nixl-sys"),
            Self::Driver => f.write_str("driver"),
            Self::Direct => f.write_str("direct-executor"),
        }
    }
}
