//! A machine made of files in a temporary folder.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use nixl_device::Topology;
use tempfile::TempDir;

pub(crate) struct FakeTree {
    root: TempDir,
}

impl FakeTree {
    pub(crate) fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self) -> &Path {
        self.root.path()
    }

    pub(crate) fn discover(&self) -> Topology {
        Topology::discover_in(self.path())
    }

    pub(crate) fn file(&self, path: &str, content: impl AsRef<[u8]>) -> &Self {
        fs::write(self.with_parent(path), content).unwrap();
        self
    }

    pub(crate) fn folder(&self, path: &str) -> &Self {
        fs::create_dir_all(self.path().join(path)).unwrap();
        self
    }

    /// A relative link, as sysfs has them. Both paths are relative to the root.
    pub(crate) fn link(&self, path: &str, target: &str) -> &Self {
        let up = "../".repeat(path.matches('/').count());
        self.raw_link(path, format!("{up}{target}"))
    }

    pub(crate) fn raw_link(&self, path: &str, target: impl AsRef<Path>) -> &Self {
        symlink(target, self.with_parent(path)).unwrap();
        self
    }

    /// A PCI function; `path` is below `/sys/devices`.
    pub(crate) fn function(&self, path: &str, vendor: &str, class: &str, node: i32) -> &Self {
        let folder = format!("sys/devices/{path}");
        let address = path.rsplit('/').next().unwrap();
        self.file(&format!("{folder}/vendor"), format!("{vendor}\n"))
            .file(&format!("{folder}/device"), "0x1021\n")
            .file(&format!("{folder}/class"), format!("{class}\n"))
            .file(&format!("{folder}/numa_node"), format!("{node}\n"))
            .file(&format!("{folder}/current_link_speed"), "16.0 GT/s PCIe\n")
            .file(&format!("{folder}/current_link_width"), "8\n")
            .file(&format!("{folder}/max_link_speed"), "32.0 GT/s PCIe\n")
            .file(&format!("{folder}/max_link_width"), "16\n")
            .link(&format!("sys/bus/pci/devices/{address}"), &folder)
    }

    /// An NVIDIA GPU.
    pub(crate) fn gpu(&self, path: &str, node: i32) -> &Self {
        self.function(path, "0x10de", "0x030200", node)
    }

    /// An RDMA NIC on a PCI function of its own, without ports.
    pub(crate) fn nic(&self, name: &str, path: &str, node: i32) -> &Self {
        self.function(path, "0x15b3", "0x020700", node);
        self.rdma_device(name, path)
    }

    /// An RDMA device without ports below a device that is already there.
    pub(crate) fn rdma_device(&self, name: &str, path: &str) -> &Self {
        let folder = format!("sys/devices/{path}/infiniband/{name}");
        self.folder(&folder)
            .link(&format!("sys/class/infiniband/{name}"), &folder)
            .link(&format!("{folder}/device"), &format!("sys/devices/{path}"))
    }

    /// An active port of a NIC.
    pub(crate) fn port(&self, nic: &str, number: u32, layer: &str, rate: &str) -> &Self {
        let folder = format!("sys/class/infiniband/{nic}/ports/{number}");
        self.file(&format!("{folder}/state"), "4: ACTIVE\n")
            .file(&format!("{folder}/link_layer"), format!("{layer}\n"))
            .file(&format!("{folder}/rate"), format!("{rate}\n"))
    }

    /// The verbs device of a NIC as sysfs shows it, without the node below `/dev`.
    pub(crate) fn verbs(&self, name: &str, nic: &str) -> &Self {
        self.file(&format!("sys/class/infiniband_verbs/{name}/ibdev"), format!("{nic}\n"))
    }

    /// A NUMA node; `cpus` and `distances` are the texts of the files.
    pub(crate) fn node(&self, id: u32, cpus: &str, kibibytes: u64, distances: &str) -> &Self {
        let folder = format!("sys/devices/system/node/node{id}");
        self.file(&format!("{folder}/cpulist"), format!("{cpus}\n"))
            .file(&format!("{folder}/distance"), format!("{distances}\n"))
            .file(
                &format!("{folder}/meminfo"),
                format!(
                    "Node {id} MemTotal:     {kibibytes} kB\nNode {id} MemFree:      1024 kB\n"
                ),
            )
    }

    fn with_parent(&self, path: &str) -> PathBuf {
        let path = self.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }
}
