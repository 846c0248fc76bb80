//! Host memory near a device: on which NUMA node it is, and how to get it there.

use std::path::Path;
use std::thread;

use crate::named_thread;
use crate::system::gpu_direct::read_gpus;
use crate::system::numa::read_nodes;
use crate::system::pci::PciAddress;
use crate::system::tree::Tree;

/// Where host memory near a device is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Placement {
    /// The NUMA node next to the device. `None` if the system does not report it.
    pub(super) node: Option<u32>,
    /// The processors of that node. Empty if there is but one node, or none is known: then nothing needs to be done.
    cpus: Vec<u32>,
}

impl Placement {
    /// The placement near the device with this PCI address.
    pub(super) fn near(address: Option<PciAddress>) -> Self {
        Self::near_in(Path::new("/"), address)
    }

    fn near_in(root: &Path, address: Option<PciAddress>) -> Self {
        let tree = Tree::new(root);
        let nodes = read_nodes(&tree);
        if let [only] = nodes.as_slice() {
            return Self { node: Some(only.id), cpus: Vec::new() };
        }
        let node = read_gpus(&tree, None)
            .iter()
            .find(|gpu| Some(gpu.address) == address)
            .and_then(|gpu| gpu.numa_node);
        let cpus = nodes
            .into_iter()
            .find(|found| Some(found.id) == node)
            .and_then(|found| found.cpus)
            .unwrap_or_default();
        Self { node, cpus }
    }

    /// Runs `work` on a thread that runs near the device, so that the memory it touches first comes to lie there.
    /// On this thread where that makes no difference, or no thread can be had.
    pub(super) fn run<T: Send>(&self, work: impl Fn() -> T + Sync) -> T {
        if self.cpus.is_empty() {
            return work();
        }
        thread::scope(|scope| {
            let thread = named_thread("nixl-place")
                .spawn_scoped(scope, || {
                    self.move_here();
                    work()
                })
                .ok();
            match thread.and_then(|thread| thread.join().ok()) {
                Some(result) => result,
                None => work(),
            }
        })
    }

    /// Splits `0..len` into pieces of at least `grain`, a power of two, and runs `work` on them in parallel near the
    /// device, on at most `max_threads`.
    pub(super) fn run_pieces(
        &self,
        len: usize,
        grain: usize,
        max_threads: usize,
        work: impl Fn(std::ops::Range<usize>) + Sync,
    ) {
        let available = match self.cpus.len() {
            0 => thread::available_parallelism().map_or(1, usize::from),
            near => near,
        };
        let threads = available.min(max_threads).min(len.div_ceil(grain)).max(1);
        let piece = len.div_ceil(threads).next_multiple_of(grain);
        let pieces = || (0..len).step_by(piece).map(|start| start..(start + piece).min(len));
        thread::scope(|scope| {
            for range in pieces() {
                let work = &work;
                let on_thread = range.clone();
                let spawned = named_thread("nixl-place").spawn_scoped(scope, move || {
                    self.move_here();
                    work(on_thread);
                });
                if spawned.is_err() {
                    work(range);
                }
            }
        });
    }

    /// Moves the calling thread, which is one of ours, to the node. Best effort: a container may forbid it, and then
    /// the memory is farther away, which costs speed only.
    #[cfg(target_os = "linux")]
    fn move_here(&self) {
        use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
        let Ok(allowed) = sched_getaffinity(None) else {
            return;
        };
        let mut near = CpuSet::new();
        let mut any = false;
        for &cpu in &self.cpus {
            match usize::try_from(cpu) {
                Ok(cpu) if cpu < CpuSet::MAX_CPU && allowed.is_set(cpu) => {
                    near.set(cpu);
                    any = true;
                }
                _ => {}
            }
        }
        if any {
            let _ = sched_setaffinity(None, &near);
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn move_here(&self) {}
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use proptest::prelude::*;

    use super::*;

    /// Two nodes with two processors each, and a GPU on the second.
    #[cfg(unix)]
    fn two_nodes() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let file = |path: &str, content: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        };
        file("sys/devices/system/node/node0/cpulist", "0-1\n");
        file("sys/devices/system/node/node1/cpulist", "2-3\n");
        let gpu = "sys/devices/pci0000:00/0000:01:00.0";
        file(&format!("{gpu}/vendor"), "0x10de\n");
        file(&format!("{gpu}/class"), "0x030200\n");
        file(&format!("{gpu}/numa_node"), "1\n");
        let links = root.path().join("sys/bus/pci/devices");
        std::fs::create_dir_all(&links).unwrap();
        std::os::unix::fs::symlink(
            "../../../devices/pci0000:00/0000:01:00.0",
            links.join("0000:01:00.0"),
        )
        .unwrap();
        root
    }

    #[test]
    #[cfg(unix)]
    fn the_node_of_the_device_is_found() {
        let root = two_nodes();
        let near = |address: &str| Placement::near_in(root.path(), address.parse().ok());
        assert_eq!(near("0000:01:00.0"), Placement { node: Some(1), cpus: vec![2, 3] });
        assert_eq!(near("0000:02:00.0"), Placement::default());
        assert_eq!(near(""), Placement::default());
    }

    #[test]
    fn work_runs_once_near_and_far() {
        for cpus in [Vec::new(), vec![0], vec![60_000]] {
            let placement = Placement { node: Some(0), cpus };
            assert_eq!(placement.run(|| 7), 7);
        }
    }

    proptest! {
        #[test]
        fn pieces_cover_everything_once(
            len in 0..100_000_usize, grain in 0..12_u32, threads in 1..20_usize, near in 0..5_u32,
        ) {
            let grain = 1 << grain;
            let placement = Placement { node: None, cpus: (0..near).collect() };
            let seen = Mutex::new(Vec::new());
            placement.run_pieces(len, grain, threads, |range| {
                seen.lock().unwrap().push(range);
            });
            let mut seen = seen.into_inner().unwrap();
            seen.sort_by_key(|range| range.start);
            prop_assert!(seen.len() <= threads);
            let mut end = 0;
            for range in seen {
                prop_assert_eq!(range.start, end);
                prop_assert_eq!(range.start % grain, 0);
                end = range.end;
            }
            prop_assert_eq!(end, len);
        }
    }
}
