//! Metrics of transfers of blocks on both sides, and the events that they leave out.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use metrics::{
    Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit,
    set_default_local_recorder,
};

use super::*;

/// Keeps counters and gauges, by name and labels.
#[derive(Default)]
struct Recorded(Mutex<BTreeMap<String, Arc<AtomicU64>>>);

impl Recorded {
    fn of(&self, key: &Key) -> Arc<AtomicU64> {
        let labels: String = key.labels().map(|label| format!(" {}", label.value())).collect();
        let name = format!("{}{labels}", key.name());
        Arc::clone(self.0.lock().unwrap().entry(name).or_default())
    }

    /// The counters of this name that are not zero, by their labels.
    fn counted(&self, name: &str) -> Vec<(String, u64)> {
        let values = self.0.lock().unwrap();
        let of_name = values.iter().filter_map(|(key, value)| {
            let labels = key.strip_prefix(name)?.strip_prefix(' ')?;
            Some((labels.to_owned(), value.load(Ordering::Relaxed)))
        });
        of_name.filter(|(_, value)| *value > 0).collect()
    }
}

impl Recorder for Recorded {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.of(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.of(key))
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

fn counts<const N: usize>(counts: [(&str, u64); N]) -> Vec<(String, u64)> {
    counts.into_iter().map(|(labels, count)| (labels.to_owned(), count)).collect()
}

#[tokio::test]
async fn reads_of_blocks_are_counted_by_what_their_callers_get() {
    let world = World::new().await;
    let recorded = Recorded::default();
    let _recorder = set_default_local_recorder(&recorded);
    let own = world.reader.import(world.export.metadata()).await.unwrap();
    let [here, afar] = world.imports().await;
    assert_eq!(recorded.counted("nixl_requests_total"), [], "imports read for themselves");
    for import in [&here, &afar, &own] {
        let (local, _) = contiguous();
        let grant = world.export.grant(0, &[7], GrantOptions::new()).unwrap();
        import.read_blocks(grant.ticket(), &local, &[0]).await.unwrap();
        let ticket = grant.ticket().clone();
        grant.end();
        import.read_blocks(&ticket, &local, &[0]).await.unwrap_err();
        let part = world.export.grant(0, &[7], GrantOptions::new().ready(1)).unwrap();
        import.read_blocks(part.ticket(), &local, &[0]).await.unwrap_err();
        let one = GrantOptions::new().layers(0..1);
        let one = world.export.grant(0, &[7], one).unwrap();
        let all = BlockTransferOptions::new().layers(0..3);
        import.read_blocks_with(one.ticket(), &local, &[0], all).await.unwrap_err();
        // The local layout has no such block.
        import.read_blocks(one.ticket(), &local, &[BLOCKS]).await.unwrap_err();
        drop(import.read_blocks(one.ticket(), &local, &[0]));
    }
    let expected =
        counts([("failed", 3), ("not-granted", 3), ("not-ready", 3), ("ok", 3), ("stale", 3)]);
    assert_eq!(recorded.counted("nixl_block_reads_total"), expected);
    // That of the stale ticket over the engine moved bytes; the words take requests of their own, which are not counted.
    assert_eq!(recorded.counted("nixl_requests_total"), counts([("direct other ok", 3)]));
    let ended = counts([("revoked", 9)]);
    assert_eq!(recorded.counted("nixl_grants_ended_total"), ended);
}

#[tokio::test]
async fn a_read_that_is_dropped_is_counted_as_cancelled() {
    let world = World::new().await;
    let recorded = Recorded::default();
    let _recorder = set_default_local_recorder(&recorded);
    let [here, _] = world.imports().await;
    let (local, _) = contiguous();
    let grant = world.export.grant(0, &[7], GrantOptions::new()).unwrap();
    world.fabric.faults_of(world.reader.name()).unwrap().next([Fault::Stalls { after: 1 }]);
    {
        let mut read = std::pin::pin!(here.read_blocks(grant.ticket(), &local, &[0]));
        while world.reader.stats().active() == 0 {
            tokio::select! {
                biased;
                _ = &mut read => panic!("its engine stalls"),
                () = tokio::task::yield_now() => {}
            }
        }
    }
    world.fabric.faults_of(world.reader.name()).unwrap().release();
    assert_eq!(recorded.counted("nixl_block_reads_total"), counts([("cancelled", 1)]));
}

#[tokio::test]
async fn grants_for_writing_are_in_the_gauges_and_writes_are_counted() {
    let world = World::new().await;
    let recorded = Recorded::default();
    let _recorder = set_default_local_recorder(&recorded);
    let [here, _] = world.imports().await;
    let one = |count: f64| counts([("write", count.to_bits())]);
    let grant = world.export.grant_write(0, &[3, 4], WriteGrantOptions::new()).await.unwrap();
    assert_eq!(recorded.counted("nixl_grants"), one(1.0));
    assert_eq!(recorded.counted("nixl_granted_blocks"), one(2.0));
    let (local, _) = contiguous();
    here.write_blocks(grant.ticket(), &local, &[0, 1]).await.unwrap();
    here.write_blocks(grant.ticket(), &local, &[0, 1]).await.unwrap_err();
    let counted = recorded.counted("nixl_block_writes_total");
    assert_eq!(counted, counts([("offer-ended", 1), ("ok", 1)]));
    drop(grant);
    world.export.free_blocks(0, &[3, 4]).unwrap().await;
    assert_eq!(recorded.counted("nixl_grants"), []);
    assert_eq!(recorded.counted("nixl_granted_blocks"), []);
}
