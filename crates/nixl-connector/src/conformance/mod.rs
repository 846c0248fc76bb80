//! The conformance suite of transports, as cases that any transport can run.
//!
//! A [`Harness`] makes pairs of connectors over the transport under test; each [`Case`] checks one promise byte for byte. The
//! cases run on any async runtime, and wait only by the connectors' own deadlines.
//!
//! ```
//! use std::sync::Arc;
//! use nixl_connector::conformance::{CASES, Harness};
//! use nixl_connector::{Connector, ConnectorBuilder, simulated::Fabric};
//! use nixl_ops::SystemClock;
//!
//! struct Simulated(Fabric);
//!
//! impl Harness for Simulated {
//!     fn pair(&self) -> [ConnectorBuilder; 2] {
//!         ["t", "i"].map(|name| Connector::builder().transport(self.0.transport(name)))
//!     }
//! }
//!
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! let harness = Simulated(Fabric::new(Arc::new(SystemClock::new())));
//! for case in CASES {
//!     case.run(&harness).await.unwrap_or_else(|failure| panic!("{}: {failure}", case.name()));
//! }
//! # });
//! ```

mod endings;
mod failure;
mod lists;
mod messages;
mod metadata;
mod pairing;
mod support;
mod transfers;

use std::fmt;
use std::future::Future;
use std::pin::Pin;

pub use failure::Failure;
use support::Pair;

use crate::{Connector, ConnectorBuilder};

/// Makes connectors over the transport under test.
pub trait Harness {
    /// Two new connectors that can reach each other, the target and the initiator of most cases; the cases choose the
    /// executor.
    ///
    /// They run on real time. All names have the same length, as `metadata_under_a_foreign_name` needs for its forgery.
    fn pair(&self) -> [ConnectorBuilder; 2];
}

/// One promise, with its check.
#[derive(Clone, Copy)]
pub struct Case {
    name: &'static str,
    check: Check,
}

type Outcome<'a> = Pin<Box<dyn Future<Output = Result<(), Failure>> + 'a>>;

#[derive(Clone, Copy)]
enum Check {
    /// Uses one pair.
    Pair(for<'a> fn(&'a Pair) -> Outcome<'a>),
    /// Uses a further pair's target as an outsider.
    Outsider(for<'a> fn(&'a Pair, &'a Connector) -> Outcome<'a>),
    /// Builds its own.
    Builders(fn([ConnectorBuilder; 2]) -> Outcome<'static>),
}

impl Case {
    /// Its name, in the form of a function's.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Checks it with a new pair.
    ///
    /// # Errors
    ///
    /// The broken promise, or the reason why the pair could not be made.
    pub async fn run(&self, harness: &dyn Harness) -> Result<(), Failure> {
        match self.check {
            Check::Pair(check) => check(&Pair::new(harness).await?).await,
            Check::Outsider(check) => {
                let pair = Pair::new(harness).await?;
                let [outsider, _] = harness.pair();
                check(&pair, &outsider.build().await?).await
            }
            Check::Builders(check) => check(harness.pair()).await,
        }
    }
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Case").field(&self.name).finish()
    }
}

const fn of_pair(name: &'static str, check: for<'a> fn(&'a Pair) -> Outcome<'a>) -> Case {
    Case { name, check: Check::Pair(check) }
}

const fn with_outsider(
    name: &'static str,
    check: for<'a> fn(&'a Pair, &'a Connector) -> Outcome<'a>,
) -> Case {
    Case { name, check: Check::Outsider(check) }
}

const fn of_builders(
    name: &'static str,
    check: fn([ConnectorBuilder; 2]) -> Outcome<'static>,
) -> Case {
    Case { name, check: Check::Builders(check) }
}

/// All cases.
pub const CASES: &[Case] = &[
    of_pair("one_byte", |p| Box::pin(transfers::contiguous(p, 1))),
    of_pair("four_kibibytes", |p| Box::pin(transfers::contiguous(p, 4 << 10))),
    of_pair("odd_size", |p| Box::pin(transfers::contiguous(p, (64 << 10) + 1))),
    of_pair("four_mebibytes", |p| Box::pin(transfers::contiguous(p, 4 << 20))),
    of_pair("neighbours", |p| Box::pin(transfers::neighbours(p))),
    of_pair("scattered", |p| Box::pin(transfers::scattered(p))),
    of_pair("several_regions", |p| Box::pin(transfers::several_regions(p))),
    of_pair("concurrent", |p| Box::pin(transfers::concurrent(p))),
    of_pair("both_directions", |p| Box::pin(transfers::both_directions(p))),
    of_pair("registered_once", |p| Box::pin(transfers::registered_once(p))),
    of_pair("prepared_lists", |p| Box::pin(lists::prepared(p))),
    of_pair("dynamo_metadata", |p| Box::pin(metadata::dynamo(p))),
    of_pair("native_metadata", |p| Box::pin(metadata::native(p))),
    of_pair("repeated_metadata", |p| Box::pin(metadata::repeated(p))),
    of_pair("changed_registrations", |p| Box::pin(metadata::changed_registrations(p))),
    of_pair("stale_metadata", |p| Box::pin(metadata::stale(p))),
    of_pair("memory_never_registered", |p| Box::pin(metadata::never_registered(p))),
    of_pair("own_metadata", |p| Box::pin(metadata::own(p))),
    of_pair("garbage_metadata", |p| Box::pin(metadata::garbage(p))),
    of_pair("truncated_metadata", |p| Box::pin(metadata::truncated(p))),
    with_outsider("metadata_under_our_name", |p, o| Box::pin(metadata::under_our_name(p, o))),
    with_outsider("metadata_under_a_foreign_name", |p, o| {
        Box::pin(metadata::under_a_foreign_name(p, o))
    }),
    with_outsider("introduction_under_a_foreign_name", |p, o| {
        Box::pin(metadata::introduced_under_a_foreign_name(p, o))
    }),
    of_pair("wrong_kind", |p| Box::pin(pairing::wrong_kind(p))),
    of_pair("count_mismatch", |p| Box::pin(pairing::count_mismatch(p))),
    of_pair("size_mismatch", |p| Box::pin(pairing::size_mismatch(p))),
    of_pair("read_only_destination", |p| Box::pin(pairing::read_only_destination(p))),
    of_pair("leased_destination", |p| Box::pin(pairing::leased_destination(p))),
    of_pair("passive_completion", |p| Box::pin(endings::passive_completion(p))),
    of_pair("passive_timeout", |p| Box::pin(endings::passive_timeout(p))),
    of_pair("cancelled", |p| Box::pin(endings::cancelled(p))),
    of_pair("dropped", |p| Box::pin(endings::dropped(p))),
    of_pair("used_once", |p| Box::pin(endings::used_once(p))),
    of_pair("revoked", |p| Box::pin(endings::revoked(p))),
    of_builders("messages", |b| Box::pin(messages::arrive(b))),
    of_builders("messages_answered_from_their_receipt", |b| Box::pin(messages::answered(b))),
    of_builders("messages_to_unknown_peer", |b| Box::pin(messages::to_unknown_peer(b))),
];
