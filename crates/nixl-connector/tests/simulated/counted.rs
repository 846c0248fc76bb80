//! Operations that fail before they begin, as recorders count them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use metrics::{
    Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit,
    set_default_local_recorder,
};
use nixl_connector::ConnectorError;
use nixl_descriptor::Region;

use crate::net::net;

/// Keeps the counters of operations that ended, by their labels.
#[derive(Default)]
struct Requests(Mutex<Vec<(String, Arc<AtomicU64>)>>);

impl Recorder for Requests {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        if key.name() != "nixl_requests_total" {
            return Counter::noop();
        }
        let labels: Vec<_> = key.labels().map(|label| label.value()).collect();
        let count = Arc::<AtomicU64>::default();
        self.0.lock().unwrap().push((labels.join(" "), Arc::clone(&count)));
        Counter::from_arc(count)
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

#[tokio::test]
async fn an_operation_that_does_not_begin_is_counted_once() {
    let net = net().await;
    let requests = Requests::default();
    let _recorder = set_default_local_recorder(&requests);
    let offer = net.target.create_readable(Region::zeroed(64).unwrap()).await.unwrap();
    let begun = net.initiator.begin_read(offer.metadata(), Region::zeroed(32).unwrap()).await;
    assert!(matches!(begun, Err(ConnectorError::Pairing(_))));
    let counted = requests.0.lock().unwrap();
    let counted: Vec<_> =
        counted.iter().map(|(labels, count)| (&**labels, count.load(Ordering::Relaxed))).collect();
    assert_eq!(counted, [("none other failed", 1)]);
}
