//! A whole operation between two connectors over the simulated transport: what everything but the engine costs.
#![allow(missing_docs, reason = "criterion's macros make public items")]
#![allow(clippy::unwrap_used, reason = "a bench that cannot run has nothing to say")]

use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use nixl_benches::Layout;
use nixl_connector::Connector;
use nixl_connector::simulated::Fabric;
use nixl_descriptor::{Descriptor, DescriptorList, Region};
use nixl_metadata::RdmaMetadata;
use nixl_ops::SystemClock;

const BLOCK: usize = 4096;

/// Offered, encoded, decoded, read, and known to be over on both sides.
fn read(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let fabric = Fabric::new(Arc::new(SystemClock::new()));
    let connector = |name: &str| {
        let builder = Connector::builder().name(name).transport(fabric.transport(name));
        runtime.block_on(builder.build()).unwrap()
    };
    let (source, sink) = (connector("source"), connector("sink"));
    let mut group = c.benchmark_group("simulated_read");
    for pieces in [1, 64] {
        let layout = Layout::Scattered { pieces, bytes: BLOCK };
        let list = |region: &Region| {
            let descriptors: Vec<Descriptor> = layout
                .pieces()
                .iter()
                .map(|p| region.descriptor(p.local..p.local + p.len).unwrap())
                .collect();
            DescriptorList::try_from(descriptors).unwrap()
        };
        let here = list(&Region::zeroed(layout.span()).unwrap());
        let there = list(&Region::zeroed(layout.span()).unwrap());
        group.throughput(Throughput::Bytes((pieces * BLOCK) as u64));
        group.bench_function(BenchmarkId::from_parameter(pieces), |b| {
            b.iter(|| {
                runtime.block_on(async {
                    let mut offered = source.create_readable(there.clone()).await.unwrap();
                    let message = offered.metadata().to_dynamo_json();
                    let remote = RdmaMetadata::decode(message.as_bytes()).unwrap();
                    let mut read = sink.begin_read(&remote, here.clone()).await.unwrap();
                    read.wait_for_completion().await.unwrap();
                    offered.wait_for_completion().await.unwrap()
                })
            });
        });
    }
    group.finish();
}

criterion_group!(benches, read);
criterion_main!(benches);
