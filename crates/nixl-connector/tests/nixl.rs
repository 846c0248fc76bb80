//! The NIXL transport keeps every promise of the conformance suite, between two connectors of one process.
#![cfg(all(feature = "nixl", feature = "conformance"))]

use nixl_connector::conformance::{CASES, Harness};
use nixl_connector::{Connector, ConnectorBuilder};

struct OverNixl;

impl Harness for OverNixl {
    fn pair(&self) -> [ConnectorBuilder; 2] {
        ["target--", "initiate"].map(|name| Connector::builder().name(name))
    }
}

#[tokio::test]
async fn conformance() {
    let mut broken = Vec::new();
    for case in CASES {
        if let Err(failure) = case.run(&OverNixl).await {
            broken.push(format!("{}: {failure}", case.name()));
        }
    }
    assert!(broken.is_empty(), "{} of {}:\n{}", broken.len(), CASES.len(), broken.join("\n"));
}
