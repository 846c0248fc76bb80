//! The registration cache in front of an engine that costs nothing.
#![allow(missing_docs, reason = "criterion's macros make public items")]
#![allow(unsafe_code, reason = "implements traits that are trusted with memory")]
#![allow(clippy::unwrap_used, reason = "a bench that cannot run has nothing to say")]

use std::sync::Arc;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use nixl_descriptor::{
    CacheLimits, Region, RegionSpan, RegisterError, Registered, Registrar, RegistrarId,
    RegistrationCache, Retired,
};

#[derive(Debug)]
struct NoEngine(RegistrarId);

#[derive(Debug)]
struct NoRegistration {
    _span: RegionSpan,
}

// SAFETY: there is no engine behind it, so nothing touches the memory.
unsafe impl Registrar for NoEngine {
    fn id(&self) -> RegistrarId {
        self.0
    }

    fn register(&self, span: &RegionSpan) -> Result<Box<dyn Registered>, RegisterError> {
        Ok(Box::new(NoRegistration { _span: span.clone() }))
    }

    fn retire(&self, retired: Retired) {
        // Nothing blocks here, so it need not be another thread.
        drop(retired);
    }
}

// SAFETY: there is no engine behind it, so nothing touches the memory.
unsafe impl Registered for NoRegistration {
    fn deregister(self: Box<Self>) -> Result<(), RegisterError> {
        Ok(())
    }
}

fn cache() -> RegistrationCache {
    RegistrationCache::new(Arc::new(NoEngine(RegistrarId::new())), CacheLimits::default())
}

/// The second use of a region, with so many others in the cache.
fn hit(c: &mut Criterion) {
    let mut group = c.benchmark_group("registration_cache/hit");
    for others in [0, 1000] {
        let cache = cache();
        let regions: Vec<Region> = (0..=others).map(|_| Region::zeroed(1).unwrap()).collect();
        for region in &regions {
            cache.get_or_register(region).unwrap();
        }
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::from_parameter(others), |b| {
            b.iter(|| cache.get(&regions[0]).unwrap());
        });
    }
    group.finish();
}

/// The first use of a region, and its end.
fn miss(c: &mut Criterion) {
    let cache = cache();
    let mut group = c.benchmark_group("registration_cache/miss");
    group.throughput(Throughput::Elements(1));
    group.bench_function("and_drop", |b| {
        b.iter_batched(
            || Region::try_from(vec![0; 64]).unwrap(),
            |region| drop(cache.get_or_register(&region).unwrap()),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(benches, hit, miss);
criterion_main!(benches);
