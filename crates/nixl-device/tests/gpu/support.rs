//! Devices for tests, and saying so where there are none.

use std::fs::OpenOptions;
use std::io::Write;
use std::sync::Arc;

use nixl_device::cuda::{Buffer, Context, DeviceMemory, PinnedMemory, Stream, probe};

/// The first device, or a note that the test is skipped.
pub(crate) fn one_gpu(test: &str) -> Option<Context> {
    if probe().is_err() {
        skip("a GPU", test);
        return None;
    }
    Some(Context::primary(0).unwrap())
}

/// The first two devices, or a note that the test is skipped.
pub(crate) fn two_gpus(test: &str) -> Option<[Context; 2]> {
    if !matches!(probe(), Ok(driver) if driver.device_count() >= 2) {
        skip("two GPUs", test);
        return None;
    }
    Some([Context::primary(0).unwrap(), Context::primary(1).unwrap()])
}

pub(crate) fn skip(wanted: &str, test: &str) {
    let line = format!("SKIPPED({wanted}): {test}\n");
    // Past the test harness, which would keep it for failures.
    std::io::stderr().write_all(line.as_bytes()).unwrap();
    if let Some(log) = std::env::var_os("NIXL_TEST_SKIP_LOG") {
        let mut log = OpenOptions::new().create(true).append(true).open(log).unwrap();
        log.write_all(line.as_bytes()).unwrap();
    }
}

/// Bytes that show a shift, a swap and a repeat.
pub(crate) fn pattern(len: usize, seed: u64) -> Vec<u8> {
    (0..len as u64)
        .map(|index| ((index ^ seed).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8)
        .collect()
}

/// Device memory with these bytes.
pub(crate) fn upload(context: &Context, bytes: &[u8]) -> Arc<DeviceMemory> {
    let stream = Stream::new(context).unwrap();
    let memory = Arc::new(DeviceMemory::new(context, bytes.len()).unwrap());
    let pinned = PinnedMemory::new(context, bytes.len()).unwrap();
    pinned.write(0, bytes).unwrap();
    let to = Buffer::from(Arc::clone(&memory));
    stream.copy(&to, 0, &pinned.into(), 0, bytes.len()).unwrap();
    stream.synchronize().unwrap();
    memory
}

/// The bytes of some memory.
pub(crate) fn download(context: &Context, from: &Buffer) -> Vec<u8> {
    let stream = Stream::new(context).unwrap();
    let pinned = Arc::new(PinnedMemory::new(context, from.len()).unwrap());
    let to = Buffer::from(Arc::clone(&pinned));
    stream.copy(&to, 0, from, 0, from.len()).unwrap();
    stream.synchronize().unwrap();
    let mut bytes = vec![0; from.len()];
    pinned.read(0, &mut bytes).unwrap();
    bytes
}
