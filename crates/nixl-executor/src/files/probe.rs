//! The probe of an engine on a file: bytes written and read back by it, compared.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use nixl_descriptor::file::{FileLayout, FileOptions, FileRegion, pair_file_blocks};
use nixl_descriptor::layout::Layout;
use nixl_descriptor::{Access, LeaseMode, Region};
use nixl_ops::Clock;

use super::class::FileClass;
use super::io_kind::IoKind;
use super::operation::{FileEngine, Operation};

/// Bytes of the probe: some pages, of which io_uring would take each for itself if it were wrong about vectors.
const BYTES: usize = 64 * 1024;

/// The longest wait for an engine that does not answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Writes a scratch file beside `file` by the engine, reads it back, and compares it with what a plain read returns. Where there is no
/// scratch file, reads the beginning of `file` by both. Returns what is against the engine, if anything.
///
/// **Blocks**, up to some seconds.
pub(super) fn verify(
    engine: &Arc<dyn FileEngine>,
    file: &FileRegion,
    clock: &dyn Clock,
) -> Result<(), String> {
    let scratch = Scratch::beside(file);
    let probed = scratch.as_ref().map_or(file, |scratch| &scratch.file);
    let len = usize::try_from(probed.len().map_err(|error| error.to_string())?).unwrap_or(0);
    let len = len.min(BYTES) / 4096 * 4096;
    if len == 0 {
        return Err(
            "there is nothing to compare: its folder takes no scratch file, and it is short".into(),
        );
    }
    let memory = Region::zeroed(len).map_err(|error| error.to_string())?;
    if scratch.is_some() {
        let pattern: Vec<u8> = (0..len).map(|at| (at * 31 + at / 251) as u8).collect();
        memory.copy_from_slice(0, &pattern).map_err(|error| error.to_string())?;
        run(IoKind::Write, engine, probed, &memory, clock)?;
        memory.copy_from_slice(0, &vec![0; len]).map_err(|error| error.to_string())?;
    }
    run(IoKind::Read, engine, probed, &memory, clock)?;
    let mut plain = vec![0; len];
    let read = rustix::io::pread(probed.descriptor(), &mut plain, 0);
    let found = memory.to_vec().map_err(|error| error.to_string())?;
    match read {
        Ok(read) if read == len && found == plain => Ok(()),
        Ok(read) if read == len => Err("it read other bytes than a plain read".into()),
        Ok(_) => Err("a plain read of the same bytes was short".into()),
        Err(errno) => Err(format!("a plain read failed: {errno}")),
    }
}

/// A file that is removed after the probe.
struct Scratch {
    file: FileRegion,
}

impl Scratch {
    fn beside(file: &FileRegion) -> Option<Self> {
        static LAST: AtomicU64 = AtomicU64::new(0);
        if file.access() == Access::ReadOnly {
            return None;
        }
        let folder = file.path().parent().filter(|folder| folder.is_absolute())?;
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        let name = format!(".nixl-probe-{}-{number}", std::process::id());
        let options = FileOptions::read_write().create(BYTES as u64);
        let options = if file.direct_descriptor().is_some() { options.direct() } else { options };
        let file = FileRegion::open(folder, name, &options).ok()?;
        Some(Self { file })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.file.path());
    }
}

/// Reads or writes the beginning of a file by an engine, as one block.
fn run(
    kind: IoKind,
    engine: &Arc<dyn FileEngine>,
    file: &FileRegion,
    memory: &Region,
    clock: &dyn Clock,
) -> Result<(), String> {
    let text = |error: &dyn std::error::Error| error.to_string();
    let layout = Layout::of_blocks(memory.clone(), memory.len()).map_err(|error| text(&error))?;
    let of_file = FileLayout::new(*layout.geometry(), file.clone(), 0);
    let of_file = of_file.map_err(|error| text(&error))?;
    let pairs = pair_file_blocks(&of_file, &[0], &layout, &[0], 0..1);
    let pairs = pairs.map_err(|error| text(&error))?;
    let (of_memory, of_ranges) = match kind {
        IoKind::Read => (LeaseMode::Write, LeaseMode::Read),
        _ => (LeaseMode::Read, LeaseMode::Write),
    };
    let leased = layout.lease(&[0], 0..1, of_memory).map_err(|error| text(&error))?;
    let ranges = file.lease(&pairs.ranges(), of_ranges).map_err(|error| text(&error))?;
    let held: Box<_> = Box::new((leased, ranges));
    let engine = Arc::clone(engine);
    let operation =
        Operation::of_pairs(kind, FileClass::Demand, file, engine, &pairs, (false, held));
    let mut ops = Vec::new();
    while let Some(op) = operation.take(None) {
        ops.push(op);
    }
    operation.engine().submit(ops);
    wait(&operation, clock)
}

/// Blocks until an operation has ended.
fn wait(operation: &Operation, clock: &dyn Clock) -> Result<(), String> {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let until = clock.now().saturating_add(PATIENCE);
    loop {
        if let Poll::Ready(result) = operation.poll(&waker) {
            return result.map_err(|error| error.to_string());
        }
        let left = until.saturating_sub(clock.now());
        if left.is_zero() {
            operation.stop();
            return Err(format!("it did not answer in {PATIENCE:?}"));
        }
        clock.park(Some(left));
    }
}
