//! Exports between real processes: a model of reads and reuse, initiators that are killed, cycles that leave nothing behind, and
//! notifications.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test says so, by failing too")]

mod flat;
mod killed;
mod model;
mod notifications;

use std::path::Path;
use std::sync::Arc;

use nixl_connector::{Connector, ConnectorBuilder};
use nixl_executor::PathExecutor;
use nixl_ops::Executor;
use nixl_tests::Peer;

const PEER: &str = env!("CARGO_BIN_EXE_peer");

/// Shared memory and CMA, as between any two processes of one machine.
fn local() -> [(&'static str, &'static Path); 1] {
    [("UCX_MEM_EVENTS", Path::new("no"))]
}

/// The variable by which a peer picks paths, and its value.
const STAGED: (&str, &str) = ("NIXL_TEST_STAGED", "30000");

/// Who decides how the bytes go, on all sides.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum By {
    /// The executor of a connector that is given none.
    Engine,
    /// [`PathExecutor`].
    Paths,
}

impl By {
    fn builder(self) -> ConnectorBuilder {
        let builder = Connector::builder();
        match self {
            Self::Engine => builder,
            Self::Paths => {
                builder.executor(Arc::new(PathExecutor::new().unwrap()) as Arc<dyn Executor>)
            }
        }
    }

    /// A process whose caches have pages of so many tokens.
    fn peer(self, page: usize) -> Peer {
        let (name, value) = STAGED;
        let mut peer = match self {
            Self::Engine => Peer::start(PEER, &[]),
            Self::Paths => Peer::start(PEER, &[(name, Path::new(value))]),
        };
        peer.ask(&format!("pages {page}")).unwrap();
        peer
    }
}
