//! Leases, and the host's copies that have to respect them.
#![allow(missing_docs, reason = "criterion's macros make public items")]
#![allow(clippy::unwrap_used, reason = "a bench that cannot run has nothing to say")]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use nixl_benches::Layout;
use nixl_descriptor::{Descriptor, LeaseMode, Leases, Region};

const BLOCK: usize = 4096;

fn descriptors(region: &Region, count: usize) -> Vec<Descriptor> {
    let pieces = Layout::Scattered { pieces: count, bytes: BLOCK }.pieces();
    pieces.iter().map(|p| region.descriptor(p.local..p.local + p.len).unwrap()).collect()
}

fn acquire(c: &mut Criterion) {
    let mut group = c.benchmark_group("lease");
    for count in [1, 64, 1024] {
        let region = Region::zeroed(2 * count * BLOCK).unwrap();
        let list = descriptors(&region, count);
        group.throughput(Throughput::Elements(count as u64));
        for (name, mode) in [("read", LeaseMode::Read), ("write", LeaseMode::Write)] {
            group.bench_function(BenchmarkId::new(name, count), |b| {
                // Taken and given back.
                b.iter(|| drop(Leases::acquire(&list, mode).unwrap()));
            });
        }
    }
    group.finish();
}

/// One more lease where many are held already.
fn crowded(c: &mut Criterion) {
    let mut group = c.benchmark_group("lease_beside");
    for count in [0, 64, 1024] {
        let region = Region::zeroed(2 * (count + 1) * BLOCK).unwrap();
        let list = descriptors(&region, count + 1);
        let (one, others) = list.split_last().unwrap();
        let held: Vec<_> = others
            .iter()
            .map(|d| Leases::acquire(std::slice::from_ref(d), LeaseMode::Write).unwrap())
            .collect();
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::from_parameter(count), |b| {
            b.iter(|| drop(Leases::acquire(std::slice::from_ref(one), LeaseMode::Write).unwrap()));
        });
        drop(held);
    }
    group.finish();
}

fn copies(c: &mut Criterion) {
    let mut group = c.benchmark_group("copy_to_slice");
    for bytes in [64, 4096, 1 << 20] {
        let region = Region::zeroed(bytes).unwrap();
        let mut target = vec![0; bytes];
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(BenchmarkId::from_parameter(bytes), |b| {
            b.iter(|| region.copy_to_slice(0, &mut target).unwrap());
        });
    }
    group.finish();
}

criterion_group!(benches, acquire, crowded, copies);
criterion_main!(benches);
