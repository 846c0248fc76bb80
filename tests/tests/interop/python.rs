//! Dynamo's Python `nixl_connect` and this library, four ways.

use nixl_connector::{Connector, ConnectorError};
use nixl_metadata::RdmaMetadata;
use nixl_ops::PairingError;

use crate::DEADLINE;
use crate::memory::Memory;
use crate::peer::{How, Python};

/// The sizes of the descriptors of one operation each, from 1 B to 64 MiB.
const SHAPES: [&[usize]; 7] = [
    &[1],
    &[4 << 10],
    &[(1 << 20) + 1],
    &[64 << 20],
    &[1, 4 << 10, (1 << 20) + 1, 37],
    &[8; 300],
    &[32 << 20, 32 << 20],
];

async fn connector() -> Connector {
    Connector::builder().timeout(DEADLINE).build().await.unwrap()
}

fn decode(text: &str) -> RdmaMetadata {
    RdmaMetadata::decode(text.as_bytes()).unwrap()
}

/// Rust reads what Python offers.
async fn read(rust: &Connector, python: &mut Python, sizes: &[usize], seed: u64, how: How) {
    let (id, metadata) = python.offer("READ", sizes, seed, how);
    let memory = Memory::destination(sizes);
    let mut operation = rust.begin_read(&decode(&metadata), memory.descriptors()).await.unwrap();
    operation.wait_for_completion().await.unwrap();
    assert_eq!(memory.expect(seed), python.wait(id), "{sizes:?}");
}

/// Rust writes what Python offers.
async fn write(rust: &Connector, python: &mut Python, sizes: &[usize], seed: u64, how: How) {
    let (id, metadata) = python.offer("WRITE", sizes, seed, how);
    let memory = Memory::source(sizes, seed);
    let mut operation = rust.begin_write(memory.descriptors(), &decode(&metadata)).await.unwrap();
    operation.wait_for_completion().await.unwrap();
    assert_eq!(memory.expect(seed), python.wait(id), "{sizes:?}");
}

#[tokio::test]
async fn rust_reads_what_python_offers() {
    let (rust, mut python) = (connector().await, Python::start());
    for (seed, sizes) in (1..).zip(SHAPES) {
        read(&rust, &mut python, sizes, seed, How::default()).await;
    }
}

#[tokio::test]
async fn rust_writes_what_python_offers() {
    let (rust, mut python) = (connector().await, Python::start());
    for (seed, sizes) in (1..).zip(SHAPES) {
        write(&rust, &mut python, sizes, seed, How::default()).await;
    }
}

#[tokio::test]
async fn python_reads_what_rust_offers() {
    let (rust, mut python) = (connector().await, Python::start());
    for (seed, sizes) in (1..).zip(SHAPES) {
        let memory = Memory::source(sizes, seed);
        let mut operation = rust.create_readable(memory.descriptors()).await.unwrap();
        let theirs = python.transfer(&operation.metadata().to_dynamo_json(), seed);
        operation.wait_for_completion().await.unwrap();
        assert_eq!(memory.expect(seed), theirs, "{sizes:?}");
    }
}

#[tokio::test]
async fn python_writes_what_rust_offers() {
    let (rust, mut python) = (connector().await, Python::start());
    for (seed, sizes) in (1..).zip(SHAPES) {
        let memory = Memory::destination(sizes);
        let mut operation = rust.create_writable(memory.descriptors()).await.unwrap();
        let theirs = python.transfer(&operation.metadata().to_dynamo_json(), seed);
        operation.wait_for_completion().await.unwrap();
        assert_eq!(memory.expect(seed), theirs, "{sizes:?}");
    }
}

/// Python withdraws its registrations after each operation: every round's metadata names the same addresses
/// under new keys, or with other lengths.
#[tokio::test]
async fn a_python_buffer_is_offered_again_and_again() {
    let (rust, mut python) = (connector().await, Python::start());
    let how = How { buffers: Some("again"), ..How::default() };
    // The first is the largest: the buffers are made for it.
    let sizes = [100_000, 100_000, 5000, 100_000, 99_999, 1, 4096, 4096, 100_000];
    for (seed, size) in (1..).zip(sizes) {
        read(&rust, &mut python, &[size; 3], seed, how).await;
        write(&rust, &mut python, &[size; 3], seed, how).await;
    }
    assert_eq!(rust.stats().active(), 0);
}

/// Python keeps its earlier operations, and with them what it knows of us, while our registrations come and go.
#[tokio::test]
async fn rust_memory_comes_and_goes_under_a_python_peer_that_stays() {
    let (rust, mut python) = (connector().await, Python::start());
    for (seed, size) in (1..).zip([1 << 20, 1 << 20, 4096, 1 << 20, 70_000, 4096, 1 << 20]) {
        let memory = Memory::source(&[size], seed);
        let mut operation = rust.create_readable(memory.descriptors()).await.unwrap();
        let theirs = python.transfer_and_keep(&operation.metadata().to_dynamo_json(), seed);
        operation.wait_for_completion().await.unwrap();
        assert_eq!(memory.expect(seed), theirs);
    }
}

#[tokio::test]
async fn many_offers_are_open_at_once() {
    let (rust, mut python) = (connector().await, Python::start());
    let sizes = [4096, 1];

    let mut offered = Vec::new();
    for seed in 0..8 {
        let memory = Memory::destination(&sizes);
        offered.push((rust.create_writable(memory.descriptors()).await.unwrap(), memory, seed));
    }
    // The last first: completion must find its own operation.
    for (operation, memory, seed) in offered.iter_mut().rev() {
        let theirs = python.transfer(&operation.metadata().to_dynamo_json(), *seed);
        operation.wait_for_completion().await.unwrap();
        assert_eq!(memory.expect(*seed), theirs);
    }

    let offered: Vec<_> =
        (0..8).map(|seed| (seed, python.offer("READ", &sizes, seed, How::default()))).collect();
    let mut reading = Vec::new();
    for (seed, (id, metadata)) in offered.into_iter().rev() {
        let memory = Memory::destination(&sizes);
        let remote = decode(&metadata);
        let operation = rust.begin_read(&remote, memory.descriptors()).await.unwrap();
        reading.push((operation, memory, seed, id));
    }
    for (mut operation, memory, seed, id) in reading {
        operation.wait_for_completion().await.unwrap();
        assert_eq!(memory.expect(seed), python.wait(id));
    }
}

#[tokio::test]
async fn metadata_of_early_versions_is_understood() {
    let (rust, mut python) = (connector().await, Python::start());
    read(&rust, &mut python, &[4096], 1, How { hex: true, ..How::default() }).await;
}

#[tokio::test]
async fn what_does_not_fit_is_refused_and_disturbs_nothing() {
    let (rust, mut python) = (connector().await, Python::start());
    let (id, metadata) = python.offer("READ", &[4096], 1, How::default());
    let remote = decode(&metadata);

    let wrong = rust.begin_write(Memory::source(&[4096], 2).descriptors(), &remote).await;
    let Err(ConnectorError::Pairing(PairingError::WrongKind { .. })) = wrong else {
        panic!("{wrong:?}");
    };
    let short = rust.begin_read(&remote, Memory::destination(&[4095]).descriptors()).await;
    let Err(ConnectorError::Pairing(PairingError::Size { .. })) = short else {
        panic!("{short:?}");
    };

    let memory = Memory::destination(&[4096]);
    let mut operation = rust.begin_read(&remote, memory.descriptors()).await.unwrap();
    operation.wait_for_completion().await.unwrap();
    assert_eq!(memory.expect(1), python.wait(id));
}
