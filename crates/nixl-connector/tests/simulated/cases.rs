//! Every case of the conformance suite, each as a test of its own.

use std::sync::Arc;

use nixl_connector::conformance::{CASES, Harness};
use nixl_connector::simulated::Fabric;
use nixl_connector::{Connector, ConnectorBuilder};
use nixl_ops::SystemClock;

/// Transfers that are polled.
struct Polled(Fabric);

impl Harness for Polled {
    fn pair(&self) -> [ConnectorBuilder; 2] {
        ["a", "b"].map(|name| Connector::builder().transport(self.0.transport(name)))
    }
}

/// Transfers that wake.
struct Waking(Fabric);

impl Harness for Waking {
    fn pair(&self) -> [ConnectorBuilder; 2] {
        ["a", "b"]
            .map(|name| Connector::builder().transport(self.0.waking_transport(name).unwrap()))
    }
}

fn fabric() -> Fabric {
    Fabric::new(Arc::new(SystemClock::new()))
}

async fn run(name: &str, harness: &impl Harness) {
    let case = CASES.iter().find(|case| case.name() == name).unwrap();
    case.run(harness).await.unwrap();
}

macro_rules! cases {
    ($($name:ident)*) => {
        const NAMES: &[&str] = &[$(stringify!($name)),*];

        mod polled {
            $(
                #[tokio::test]
                async fn $name() {
                    super::run(stringify!($name), &super::Polled(super::fabric())).await;
                }
            )*
        }

        mod waking {
            $(
                #[tokio::test]
                async fn $name() {
                    super::run(stringify!($name), &super::Waking(super::fabric())).await;
                }
            )*
        }
    };
}

cases! {
    one_byte four_kibibytes odd_size four_mebibytes
    neighbours scattered several_regions concurrent both_directions registered_once
    prepared_lists
    dynamo_metadata native_metadata repeated_metadata changed_registrations stale_metadata
    memory_never_registered own_metadata garbage_metadata truncated_metadata
    metadata_under_our_name metadata_under_a_foreign_name introduction_under_a_foreign_name
    wrong_kind count_mismatch size_mismatch read_only_destination leased_destination
    passive_completion passive_timeout cancelled dropped used_once revoked
    messages messages_answered_from_their_receipt messages_to_unknown_peer
}

#[test]
fn no_case_is_left_out() {
    assert!(CASES.iter().map(|case| case.name()).eq(NAMES.iter().copied()));
}
