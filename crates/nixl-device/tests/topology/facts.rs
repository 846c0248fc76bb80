//! GPUs, GPU Direct, limits and identity.

use std::num::NonZeroU64;

use nixl_device::{Limit, ModuleVersion, NodeAccess, NvidiaDriverFlavor, PeerMemoryProvider};

use crate::fake_tree::FakeTree;

#[test]
fn a_bare_machine_has_nothing_and_no_notes() {
    let topology = FakeTree::new().discover();
    assert_eq!(topology.notes(), []);
    assert_eq!(topology.nics(), []);
    assert_eq!(topology.gpus(), []);
    assert_eq!(topology.numa_nodes(), []);
    assert_eq!(topology.memlock(), None);
    assert_eq!(topology.host().hostname(), None);
    assert_eq!((topology.host().pid_namespace(), topology.host().ipc_namespace()), (None, None));
    assert_eq!(topology.gpu_direct().peer_memory(), []);
    assert_eq!(topology.gpu_direct().gdrcopy(), None);
    assert_eq!(topology.gpu_direct().nvidia_fs(), None);
    assert_eq!(topology.gpu_direct().nvidia_driver(), None);
}

#[test]
fn gpus_are_nvidias_display_and_3d_controllers() {
    let tree = FakeTree::new();
    let port = "pci0000:00/0000:00:01.0";
    tree.function(&format!("{port}/0000:5e:00.0"), "0x10de", "0x030000", 1)
        .function(&format!("{port}/0000:3b:00.0"), "0x10de", "0x030200", 0)
        // Its audio function, a switch of NVLink, and another vendor's display.
        .function(&format!("{port}/0000:5e:00.1"), "0x10de", "0x040300", 1)
        .function(&format!("{port}/0000:07:00.0"), "0x10de", "0x068000", 0)
        .function(&format!("{port}/0000:02:00.0"), "0x1a03", "0x030000", 0);
    let topology = tree.discover();
    assert_eq!(topology.notes(), []);
    let gpus: Vec<_> = topology
        .gpus()
        .iter()
        .map(|gpu| (gpu.address().to_string(), gpu.numa_node(), gpu.driver()))
        .collect();
    assert_eq!(
        gpus,
        [("0000:3b:00.0".to_owned(), Some(0), None), ("0000:5e:00.0".to_owned(), Some(1), None),]
    );
}

#[test]
fn each_way_of_peer_memory_is_found() {
    for (folder, provider) in [
        ("sys/kernel/mm/memory_peers/nv_mem", PeerMemoryProvider::NvMem),
        ("sys/module/nvidia_peermem", PeerMemoryProvider::NvidiaPeermem),
        ("sys/module/nv_peer_mem", PeerMemoryProvider::NvPeerMem),
        ("sys/module/efa_nv_peermem", PeerMemoryProvider::EfaNvPeermem),
    ] {
        let tree = FakeTree::new();
        tree.file(&format!("{folder}/version"), "570.86.15\n");
        let topology = tree.discover();
        let found = topology.gpu_direct().peer_memory();
        assert_eq!(found.len(), 1, "{folder}");
        assert_eq!(found[0].provider(), provider);
        assert_eq!(found[0].version(), &ModuleVersion::Known("570.86.15".to_owned()));
    }
}

#[test]
fn a_module_without_a_version_is_still_loaded() {
    let tree = FakeTree::new();
    tree.folder("sys/module/nvidia_peermem")
        .file("sys/module/nvidia_fs/version", "2.24\n")
        .folder("sys/module/gdrdrv");
    let topology = tree.discover();
    let facts = topology.gpu_direct();
    assert_eq!(facts.peer_memory()[0].version(), &ModuleVersion::Unknown);
    assert_eq!(facts.nvidia_fs(), Some(&ModuleVersion::Known("2.24".to_owned())));
    let gdrcopy = facts.gdrcopy().unwrap();
    assert_eq!(gdrcopy.version(), &ModuleVersion::Unknown);
    assert_eq!(gdrcopy.access(), NodeAccess::Missing);
}

#[test]
fn gdrcopy_has_its_node() {
    let tree = FakeTree::new();
    tree.file("sys/module/gdrdrv/version", "2.5\n").file("dev/gdrdrv", "");
    let topology = tree.discover();
    let gdrcopy = topology.gpu_direct().gdrcopy().unwrap();
    assert_eq!(gdrcopy.access(), NodeAccess::Granted);
}

#[test]
fn the_flavor_of_the_driver_is_told() {
    for (line, flavor) in [
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build\nGCC version: 12\n",
            Some(NvidiaDriverFlavor::Open),
        ),
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22 01:44:30 UTC 2024\n",
            Some(NvidiaDriverFlavor::Proprietary),
        ),
        ("something else\n", None),
    ] {
        let tree = FakeTree::new();
        tree.file("sys/module/nvidia/version", "570.86.15\n")
            .file("proc/driver/nvidia/version", line);
        let topology = tree.discover();
        let driver = topology.gpu_direct().nvidia_driver().unwrap();
        assert_eq!(driver.version(), &ModuleVersion::Known("570.86.15".to_owned()));
        assert_eq!(driver.flavor(), flavor, "{line}");
    }
}

#[test]
fn the_limit_of_locked_memory_is_read() {
    let tree = FakeTree::new();
    tree.file(
        "proc/self/limits",
        "Limit                     Soft Limit           Hard Limit           Units     \n\
         Max cpu time              unlimited            unlimited            seconds   \n\
         Max locked memory         8388608              unlimited            bytes     \n",
    );
    let memlock = tree.discover().memlock().unwrap();
    assert_eq!(memlock.soft(), Limit::Bytes(8_388_608));
    assert_eq!(memlock.hard(), Limit::Unlimited);
    assert!(memlock.soft() < memlock.hard());
}

#[test]
fn the_identity_of_the_host_is_read() {
    let tree = FakeTree::new();
    tree.file("proc/sys/kernel/hostname", "worker-7\n")
        .file("proc/sys/kernel/osrelease", "6.8.0-45-generic\n")
        .file("proc/sys/kernel/random/boot_id", "0f0e0d0c-0b0a-4908-8706-050403020100\n")
        .raw_link("proc/self/ns/pid", "pid:[4026531836]")
        .raw_link("proc/self/ns/ipc", "ipc:[18446744073709551615]");
    let topology = tree.discover();
    assert_eq!(topology.notes(), []);
    let host = topology.host();
    assert_eq!(host.hostname(), Some("worker-7"));
    assert_eq!(host.kernel(), Some("6.8.0-45-generic"));
    assert_eq!(host.boot_id(), Some("0f0e0d0c-0b0a-4908-8706-050403020100"));
    assert_eq!(host.pid_namespace(), NonZeroU64::new(4_026_531_836));
    assert_eq!(host.ipc_namespace(), Some(NonZeroU64::MAX));
}

#[test]
fn a_snapshot_serialises_with_plain_names() {
    let tree = FakeTree::new();
    tree.nic("mlx5_0", "pci0000:00/0000:00:01.0/0000:3b:00.0", 0).port(
        "mlx5_0",
        1,
        "InfiniBand",
        "400 Gb/sec (4X NDR)",
    );
    let json = serde_json::to_value(tree.discover()).unwrap();
    let nic = &json["nics"][0];
    assert_eq!(nic["pci"]["address"], "0000:3b:00.0");
    assert_eq!(nic["ports"][0]["state"], "active");
    assert_eq!(nic["ports"][0]["link_layer"], "infiniband");
    assert!(nic["dma_buf"]["unsupported"]["reason"].is_string());
}
