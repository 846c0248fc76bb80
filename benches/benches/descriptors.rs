//! Descriptors and their coalescing.
#![allow(missing_docs, reason = "criterion's macros make public items")]
#![allow(clippy::unwrap_used, reason = "a bench that cannot run has nothing to say")]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use nixl_benches::Layout;
use nixl_descriptor::{Descriptor, DescriptorList, Region, Span, coalesce_pairs};

const BLOCK: usize = 4096;

/// Lists are made of as many descriptors.
const COUNTS: [usize; 3] = [1, 64, 1024];

fn lists(c: &mut Criterion) {
    let mut group = c.benchmark_group("descriptor_list");
    for count in COUNTS {
        let region = Region::zeroed(2 * count * BLOCK).unwrap();
        let pieces = Layout::Scattered { pieces: count, bytes: BLOCK }.pieces();
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::from_parameter(count), |b| {
            b.iter(|| {
                let descriptors: Result<Vec<Descriptor>, _> =
                    pieces.iter().map(|p| region.descriptor(p.local..p.local + p.len)).collect();
                DescriptorList::try_from(descriptors.unwrap()).unwrap()
            });
        });
    }
    group.finish();
}

/// Neighbours that all merge, and blocks of which none do.
fn coalescing(c: &mut Criterion) {
    let mut group = c.benchmark_group("coalesce_pairs");
    for count in COUNTS {
        for (name, stride) in [("neighbours", BLOCK), ("scattered", 2 * BLOCK)] {
            let region = Region::zeroed(2 * count * BLOCK).unwrap();
            let local: Vec<Descriptor> = (0..count)
                .map(|i| region.descriptor(i * stride..i * stride + BLOCK).unwrap())
                .collect();
            let remote: Vec<Span> = local.iter().map(Span::from).collect();
            group.throughput(Throughput::Elements(count as u64));
            group.bench_function(BenchmarkId::new(name, count), |b| {
                b.iter(|| coalesce_pairs(black_box(&local), black_box(&remote), |_, _| true));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, lists, coalescing);
criterion_main!(benches);
