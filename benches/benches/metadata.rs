//! Metadata of peers, in both profiles.
#![allow(missing_docs, reason = "criterion's macros make public items")]
#![allow(clippy::unwrap_used, reason = "a bench that cannot run has nothing to say")]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use nixl_device::Device;
use nixl_metadata::{
    AgentMetadata, HostIdentity, Limits, NotificationKey, OperationKind, PeerInfo, RdmaMetadata,
    SerializedDescriptor,
};

/// As much as an agent with one backend says about itself, compressible as such a blob is.
fn agent_blob() -> Vec<u8> {
    (0..700u32)
        .map(|i| if i % 3 == 0 { (i.wrapping_mul(2_654_435_761) >> 24) as u8 } else { 0 })
        .collect()
}

fn sample(descriptors: u64) -> RdmaMetadata {
    let descriptors = (0..descriptors)
        .map(|i| {
            SerializedDescriptor::new(Device::HOST, 0x7f00_0000_0000 + i * 8192, 4096).unwrap()
        })
        .collect();
    let agent = AgentMetadata::compress(&agent_blob()).unwrap();
    let host = HostIdentity::new("node-0", "3f0c9d52-7f5e-4f43-8a0e-8c7d1a0b6f11", 4242).unwrap();
    let peer = PeerInfo::new("node-0-worker", 7, host).unwrap();
    RdmaMetadata::new(OperationKind::Read, descriptors, agent, NotificationKey::random())
        .unwrap()
        .with_peer(peer)
}

fn profiles(c: &mut Criterion) {
    let mut group = c.benchmark_group("metadata");
    for descriptors in [1, 64, 1024] {
        let metadata = sample(descriptors);
        let json = metadata.to_dynamo_json();
        let native = metadata.to_native_bytes().unwrap();

        group.throughput(Throughput::Bytes(json.len() as u64));
        group.bench_function(BenchmarkId::new("encode_dynamo", descriptors), |b| {
            b.iter(|| black_box(&metadata).to_dynamo_json());
        });
        group.bench_function(BenchmarkId::new("decode_dynamo", descriptors), |b| {
            b.iter(|| RdmaMetadata::decode(black_box(json.as_bytes())).unwrap());
        });

        group.throughput(Throughput::Bytes(native.len() as u64));
        group.bench_function(BenchmarkId::new("encode_native", descriptors), |b| {
            b.iter(|| black_box(&metadata).to_native_bytes().unwrap());
        });
        group.bench_function(BenchmarkId::new("decode_native", descriptors), |b| {
            b.iter(|| RdmaMetadata::decode(black_box(&native)).unwrap());
        });
    }
    group.finish();
}

/// What a peer that is met for the first time costs beyond the decoding.
fn agent(c: &mut Criterion) {
    let blob = agent_blob();
    let agent = AgentMetadata::compress(&blob).unwrap();
    let mut group = c.benchmark_group("agent_metadata");
    group.throughput(Throughput::Bytes(blob.len() as u64));
    group.bench_function("compress", |b| {
        b.iter(|| AgentMetadata::compress(black_box(&blob)).unwrap());
    });
    group.bench_function("inflate", |b| {
        b.iter(|| black_box(&agent).inflate(&Limits::default()).unwrap());
    });
    group.finish();
}

criterion_group!(benches, profiles, agent);
criterion_main!(benches);
