//! UCX's own messages reach a subscriber of `tracing`.
#![cfg(feature = "nixl")]
#![allow(clippy::unwrap_used, reason = "a test says so by failing")]

use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex};

use nixl_connector::Connector;
use nixl_connector::nixl::NixlOptions;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Collects what UCX says, as warnings or worse.
#[derive(Clone, Default)]
struct Collects(Arc<Mutex<String>>);

impl Visit for Collects {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        writeln!(self.0.lock().unwrap(), "{field}={value:?}").unwrap();
    }
}

impl Subscriber for Collects {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "ucx" && *metadata.level() <= Level::WARN
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        event.record(&mut self.clone());
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[test]
fn a_device_that_is_not_there_is_told() {
    let heard = Collects::default();
    tracing::subscriber::set_global_default(heard.clone()).unwrap();
    let options = NixlOptions::new().network_devices(["lo", "no-such0"]);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let _connector = runtime.block_on(Connector::builder().nixl(options).build()).unwrap();
    let heard = heard.0.lock().unwrap();
    assert!(heard.contains("network device 'no-such0' is not available"), "{heard}");
}
