//! The two ways in which the tests' connectors move bytes.

use std::path::Path;
use std::sync::Arc;

use nixl_connector::{Connector, ConnectorBuilder};
use nixl_descriptor::Region;
use nixl_executor::PathExecutor;
use nixl_ops::Executor;

use crate::Peer;

/// The executor that decides how the bytes go, on all sides.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[allow(clippy::exhaustive_enums, reason = "tests are total over it")]
pub enum By {
    /// The executor of a connector that is given none.
    Engine,
    /// [`PathExecutor`].
    Paths,
}

impl By {
    /// The variable by which a peer picks paths, and its value.
    pub const STAGED: (&'static str, &'static str) = ("NIXL_TEST_STAGED", "30000");

    /// Builds connectors of this process.
    pub fn builder(self) -> ConnectorBuilder {
        let builder = Connector::builder();
        match self {
            Self::Engine => builder,
            Self::Paths => builder
                .executor(Arc::new(PathExecutor::new().expect("an executor")) as Arc<dyn Executor>),
        }
    }

    /// Starts the program `peer`.
    pub fn start(self, program: &str) -> Peer {
        let (name, value) = Self::STAGED;
        match self {
            Self::Engine => Peer::start(program, &[]),
            Self::Paths => Peer::start(program, &[(name, Path::new(value))]),
        }
    }

    /// Memory that peers reach by this executor's own means.
    pub fn memory(self, bytes: &[u8]) -> Region {
        let region = match self {
            Self::Engine => Region::zeroed(bytes.len()),
            Self::Paths => Region::shared(bytes.len()),
        };
        let region = region.expect("memory");
        region.copy_from_slice(0, bytes).expect("it is not leased");
        region
    }
}

/// Shared memory and CMA, as between any two processes of one machine.
pub fn local() -> [(&'static str, &'static Path); 1] {
    [("UCX_MEM_EVENTS", Path::new("no"))]
}
