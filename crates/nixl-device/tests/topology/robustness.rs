//! Broken, hostile and random trees.

use std::fs;
use std::num::NonZeroU64;

use nixl_device::Topology;
use proptest::prelude::*;

use crate::fake_tree::FakeTree;

const SLOT: &str = "pci0000:00/0000:00:01.0/0000:3b:00.0";

fn note_paths(topology: &Topology) -> Vec<&str> {
    topology.notes().iter().map(|note| note.path()).collect()
}

#[test]
fn a_root_that_does_not_exist_is_noted() {
    let tree = FakeTree::new();
    let topology = Topology::discover_in(&tree.path().join("nowhere"));
    assert_eq!(note_paths(&topology), ["/"]);
    assert_eq!(topology.nics(), []);
}

#[test]
fn broken_files_of_one_nic_hide_neither_it_nor_others() {
    let tree = FakeTree::new();
    tree.nic("mlx5_0", SLOT, 0)
        .port("mlx5_0", 1, "Token Ring", "fast")
        .file("sys/class/infiniband/mlx5_0/ports/1/state", "")
        .folder("sys/class/infiniband/mlx5_0/ports/first")
        .file(&format!("sys/devices/{SLOT}/numa_node"), "\n")
        .file(&format!("sys/devices/{SLOT}/vendor"), [0xff, 0xfe])
        .file(&format!("sys/devices/{SLOT}/current_link_width"), "255\n")
        .file(&format!("sys/devices/{SLOT}/current_link_speed"), "Unknown\n")
        .nic("mlx5_1", "pci0000:00/0000:00:02.0/0000:5e:00.0", 1)
        .port("mlx5_1", 1, "Ethernet", "100 Gb/sec (4X EDR)");
    let topology = tree.discover();
    let [broken, whole] = topology.nics() else {
        panic!("{:?}", topology.nics());
    };
    let pci = broken.pci().unwrap();
    assert_eq!((pci.numa_node(), pci.vendor()), (None, None));
    assert_eq!(pci.device(), Some(0x1021));
    assert_eq!((pci.link().speed_mt_s(), pci.link().lanes()), (None, None));
    let [port] = broken.ports() else {
        panic!("{:?}", broken.ports());
    };
    assert_eq!((port.state(), port.link_layer(), port.rate_mbit_s()), (None, None, None));
    assert!(whole.ports()[0].state().is_some());
    let mut paths = note_paths(&topology);
    paths.sort_unstable();
    assert_eq!(
        paths,
        [
            "/sys/class/infiniband/mlx5_0/ports/1/link_layer".to_owned(),
            "/sys/class/infiniband/mlx5_0/ports/1/rate".to_owned(),
            "/sys/class/infiniband/mlx5_0/ports/1/state".to_owned(),
            "/sys/class/infiniband/mlx5_0/ports/first".to_owned(),
            format!("/sys/devices/{SLOT}/numa_node"),
            format!("/sys/devices/{SLOT}/vendor"),
        ]
    );
}

#[test]
fn links_that_lead_nowhere_or_out_are_noted() {
    let outside = FakeTree::new();
    outside.function(SLOT, "0x15b3", "0x020700", 0);
    let tree = FakeTree::new();
    tree.raw_link("sys/class/infiniband/a/device", "../../../devices/gone")
        .raw_link("sys/class/infiniband/b/device", outside.path().join("sys/devices").join(SLOT))
        .raw_link("sys/class/infiniband/c/device", "device");
    let topology = tree.discover();
    assert_eq!(topology.nics().len(), 3);
    assert!(topology.nics().iter().all(|nic| nic.pci().is_none()));
    assert_eq!(
        note_paths(&topology),
        [
            "/sys/class/infiniband/a/device",
            "/sys/class/infiniband/b/device",
            "/sys/class/infiniband/c/device",
        ]
    );
}

#[test]
fn a_gpu_outside_any_host_bridge_is_noted() {
    let tree = FakeTree::new();
    tree.function("platform/0000:3b:00.0", "0x10de", "0x030200", 0);
    let topology = tree.discover();
    assert_eq!(topology.gpus(), []);
    assert_eq!(note_paths(&topology), ["/sys/bus/pci/devices/0000:3b:00.0"]);
}

#[test]
fn an_endless_file_is_not_read_to_its_end() {
    let tree = FakeTree::new();
    tree.raw_link("proc/sys/kernel/hostname", "/dev/zero");
    let topology = tree.discover();
    assert_eq!(topology.host().hostname(), None);
    assert_eq!(note_paths(&topology), ["/proc/sys/kernel/hostname"]);
}

#[test]
fn a_long_wrong_text_makes_a_short_note() {
    let tree = FakeTree::new();
    tree.file("proc/sys/kernel/random/boot_id", "\u{1b}".repeat(10_000));
    let topology = tree.discover();
    let notes = topology.notes();
    assert!(notes[0].message().len() < 400, "{}", notes[0].message());
    assert!(!notes[0].message().contains('\u{1b}'));
}

#[test]
fn namespaces_that_are_not_written_as_the_kernel_does_are_noted() {
    for target in [
        "pid:[0]",
        "pid:[]",
        "pid:[+1]",
        "pid:[-1]",
        "pid:[4026531836",
        "pid:4026531836",
        "pid:[4026531836] ",
        "pid:[18446744073709551616]",
        "ipc:[4026531839]",
        "self",
    ] {
        let tree = FakeTree::new();
        tree.raw_link("proc/self/ns/pid", target).raw_link("proc/self/ns/ipc", "ipc:[4026531839]");
        let topology = tree.discover();
        assert_eq!(topology.host().pid_namespace(), None, "{target}");
        assert_eq!(topology.host().ipc_namespace(), NonZeroU64::new(4_026_531_839));
        assert_eq!(note_paths(&topology), ["/proc/self/ns/pid"], "{target}");
    }

    // A file where a link should be, and a folder.
    let tree = FakeTree::new();
    tree.file("proc/self/ns/pid", "pid:[4026531836]").folder("proc/self/ns/ipc");
    let topology = tree.discover();
    assert_eq!((topology.host().pid_namespace(), topology.host().ipc_namespace()), (None, None));
    assert_eq!(note_paths(&topology), ["/proc/self/ns/pid", "/proc/self/ns/ipc"]);
}

#[test]
fn the_real_machine_is_described() {
    let topology = Topology::discover();
    assert!(topology.host().kernel().is_some());
    assert!(topology.host().pid_namespace().is_some());
    assert!(topology.memlock().is_some());
    assert!(serde_json::to_string(&topology).is_ok());
}

/// Every path that discovery looks at, for two NICs, a GPU and two nodes.
const PATHS: &[&str] = &[
    "dev/gdrdrv",
    "dev/infiniband/uverbs0",
    "proc/driver/nvidia/version",
    "proc/self/limits",
    "proc/self/ns/ipc",
    "proc/self/ns/pid",
    "proc/sys/kernel/hostname",
    "proc/sys/kernel/osrelease",
    "proc/sys/kernel/random/boot_id",
    "sys/bus/pci/devices/0000:3b:00.0",
    "sys/bus/pci/devices/0000:3b:00.0/vendor",
    "sys/bus/pci/devices/0000:3b:00.0/class",
    "sys/class/infiniband",
    "sys/class/infiniband/mlx5_0",
    "sys/class/infiniband/mlx5_0/device",
    "sys/class/infiniband/mlx5_0/device/net/eth0/dev_port",
    "sys/class/infiniband/mlx5_0/ports",
    "sys/class/infiniband/mlx5_0/ports/1",
    "sys/class/infiniband/mlx5_0/ports/1/gid_attrs/ndevs/0",
    "sys/class/infiniband/mlx5_0/ports/1/link_layer",
    "sys/class/infiniband/mlx5_0/ports/1/rate",
    "sys/class/infiniband/mlx5_0/ports/1/state",
    "sys/class/infiniband/mlx5_1/device",
    "sys/class/infiniband_verbs/uverbs0",
    "sys/class/infiniband_verbs/uverbs0/ibdev",
    "sys/devices/pci0000:00/0000:00:01.0/0000:3b:00.0/class",
    "sys/devices/pci0000:00/0000:00:01.0/0000:3b:00.0/current_link_speed",
    "sys/devices/pci0000:00/0000:00:01.0/0000:3b:00.0/current_link_width",
    "sys/devices/pci0000:00/0000:00:01.0/0000:3b:00.0/device",
    "sys/devices/pci0000:00/0000:00:01.0/0000:3b:00.0/driver",
    "sys/devices/pci0000:00/0000:00:01.0/0000:3b:00.0/numa_node",
    "sys/devices/pci0000:00/0000:00:01.0/0000:3b:00.0/vendor",
    "sys/devices/system/node/node0",
    "sys/devices/system/node/node0/cpulist",
    "sys/devices/system/node/node0/distance",
    "sys/devices/system/node/node0/meminfo",
    "sys/devices/system/node/node1/cpulist",
    "sys/devices/system/node/node1/distance",
    "sys/kernel/mm/memory_peers/nv_mem/version",
    "sys/module/gdrdrv",
    "sys/module/nvidia/version",
];

#[derive(Clone, Debug)]
enum Entry {
    File(Vec<u8>),
    Folder,
    Link(&'static str),
}

fn any_entry() -> impl Strategy<Value = Entry> {
    let likely = prop::sample::select(vec![
        "",
        "\n",
        "0\n",
        "-1\n",
        "4294967296\n",
        "0x10de\n",
        "0x030200\n",
        "0-3,8\n",
        "10 21\n",
        "4: ACTIVE\n",
        "Ethernet\n",
        "100 Gb/sec\n",
        "16.0 GT/s PCIe\n",
        "mlx5_0\n",
        "6.8.0\n",
        "Node 0 MemTotal: 7 kB\n",
        "Max locked memory 1 unlimited bytes\n",
    ]);
    prop_oneof![
        6 => likely.prop_map(|text| Entry::File(text.into())),
        2 => proptest::collection::vec(any::<u8>(), 0..32).prop_map(Entry::File),
        1 => Just(Entry::Folder),
        2 => prop::sample::select(PATHS).prop_map(Entry::Link),
        2 => Just(Entry::Link("sys/devices/pci0000:00/0000:00:01.0/0000:3b:00.0")),
    ]
}

proptest! {
    #[test]
    fn any_tree_is_described_without_a_panic(
        entries in proptest::collection::vec((prop::sample::select(PATHS), any_entry()), 0..40),
    ) {
        let tree = FakeTree::new();
        for (path, entry) in entries {
            // Entries may exclude each other (a file where a folder is needed); the first one stays.
            let place = tree.path().join(path);
            let parent = place.parent().unwrap();
            if fs::create_dir_all(parent).is_err() || fs::symlink_metadata(&place).is_ok() {
                continue;
            }
            // Through a link the place may lie anywhere in the tree, even where it exists.
            let _ = match entry {
                Entry::File(bytes) => fs::write(&place, bytes),
                Entry::Folder => fs::create_dir_all(&place),
                Entry::Link(target) => std::os::unix::fs::symlink(tree.path().join(target), &place),
            };
        }
        let topology = tree.discover();
        prop_assert!(serde_json::to_string(&topology).is_ok());
        prop_assert_eq!(&topology, &tree.discover());
        for a in topology.gpus() {
            for nic in topology.nics() {
                if let Some(b) = &nic.pci() {
                    prop_assert_eq!(a.distance(b), b.distance(a));
                }
            }
        }
    }
}
