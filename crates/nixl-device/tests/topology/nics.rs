//! RDMA NICs, their ports, and whether they can be used.

use std::collections::BTreeSet;

use nixl_device::{DmaBufSupport, LinkLayer, NodeAccess, PortState};
use proptest::prelude::*;

use crate::fake_tree::FakeTree;

const SLOT: &str = "pci0000:00/0000:00:01.0/0000:3b:00.0";

#[test]
fn a_nic_has_its_place_and_link() {
    let tree = FakeTree::new();
    tree.nic("mlx5_0", SLOT, 1)
        .folder("sys/bus/pci/drivers/mlx5_core")
        .link(&format!("sys/devices/{SLOT}/driver"), "sys/bus/pci/drivers/mlx5_core");
    let topology = tree.discover();
    assert_eq!(topology.notes(), []);
    let nic = &topology.nics()[0];
    assert_eq!(nic.name(), "mlx5_0");
    let pci = nic.pci().unwrap();
    assert_eq!(pci.address().to_string(), "0000:3b:00.0");
    assert_eq!(pci.host_bridge(), "pci0000:00");
    assert_eq!(pci.numa_node(), Some(1));
    assert_eq!((pci.vendor(), pci.device()), (Some(0x15b3), Some(0x1021)));
    assert_eq!(pci.class(), Some(0x02_0700));
    assert_eq!(pci.driver(), Some("mlx5_core"));
    assert_eq!((pci.link().speed_mt_s(), pci.link().lanes()), (Some(16_000), Some(8)));
    assert_eq!((pci.max_link().speed_mt_s(), pci.max_link().lanes()), (Some(32_000), Some(16)));
}

#[test]
fn each_port_has_its_own_state_layer_and_rate() {
    let tree = FakeTree::new();
    tree.nic("mlx5_0", SLOT, 0)
        .port("mlx5_0", 10, "Unspecified", "100 Gb/sec")
        .port("mlx5_0", 2, "Ethernet", "2.5 Gb/sec (1X SDR)")
        .port("mlx5_0", 1, "InfiniBand", "400 Gb/sec (4X NDR)")
        .file("sys/class/infiniband/mlx5_0/ports/2/state", "1: DOWN\n");
    let topology = tree.discover();
    assert_eq!(topology.notes(), []);
    let ports: Vec<_> = topology.nics()[0]
        .ports()
        .iter()
        .map(|port| (port.number(), port.state(), port.link_layer(), port.rate_mbit_s()))
        .collect();
    assert_eq!(
        ports,
        [
            (1, Some(PortState::Active), Some(LinkLayer::InfiniBand), Some(400_000)),
            (2, Some(PortState::Down), Some(LinkLayer::Ethernet), Some(2_500)),
            (10, Some(PortState::Active), Some(LinkLayer::Unspecified), Some(100_000)),
        ]
    );
}

#[test]
fn ethernet_ports_name_their_interfaces_in_the_gid_table() {
    let tree = FakeTree::new();
    let table = "sys/class/infiniband/mlx5_0/ports/1/gid_attrs/ndevs";
    tree.nic("mlx5_0", SLOT, 0)
        .port("mlx5_0", 1, "Ethernet", "200 Gb/sec (4X HDR)")
        .file(&format!("{table}/0"), "eth2\n")
        .file(&format!("{table}/1"), "eth2\n")
        .file(&format!("{table}/2"), "eth2.100\n")
        // An unused entry cannot be read, which is no fault.
        .folder(&format!("{table}/3"));
    let topology = tree.discover();
    assert_eq!(topology.notes(), []);
    assert_eq!(topology.nics()[0].ports()[0].netdevs(), ["eth2", "eth2.100"]);
}

#[test]
fn infiniband_ports_find_their_interfaces_by_number() {
    let tree = FakeTree::new();
    tree.nic("mlx4_0", SLOT, 0)
        .port("mlx4_0", 1, "InfiniBand", "56 Gb/sec (4X FDR)")
        .port("mlx4_0", 2, "InfiniBand", "56 Gb/sec (4X FDR)")
        .file(&format!("sys/devices/{SLOT}/net/ib0/dev_port"), "0\n")
        .file(&format!("sys/devices/{SLOT}/net/ib1/dev_port"), "1\n");
    let topology = tree.discover();
    let ports = topology.nics()[0].ports();
    assert_eq!(ports[0].netdevs(), ["ib0"]);
    assert_eq!(ports[1].netdevs(), ["ib1"]);
}

#[test]
fn the_only_port_has_all_interfaces() {
    let tree = FakeTree::new();
    tree.nic("mlx5_0", SLOT, 0)
        .port("mlx5_0", 1, "InfiniBand", "400 Gb/sec (4X NDR)")
        .folder(&format!("sys/devices/{SLOT}/net/ibp59s0"));
    assert_eq!(tree.discover().nics()[0].ports()[0].netdevs(), ["ibp59s0"]);
}

#[test]
fn a_device_in_software_has_no_pci_function() {
    let tree = FakeTree::new();
    tree.folder("sys/devices/virtual/infiniband/rxe0")
        .link("sys/class/infiniband/rxe0", "sys/devices/virtual/infiniband/rxe0")
        .port("rxe0", 1, "Ethernet", "10 Gb/sec (4X SDR)");
    let topology = tree.discover();
    assert_eq!(topology.notes(), []);
    assert_eq!(topology.nics()[0].pci(), None);
    assert_eq!(topology.nics()[0].ports().len(), 1);
}

#[test]
fn a_subfunction_has_the_pci_function_above_it() {
    let tree = FakeTree::new();
    tree.function(SLOT, "0x15b3", "0x020000", 0)
        .rdma_device("mlx5_2", &format!("{SLOT}/mlx5_core.sf.4"));
    let topology = tree.discover();
    let nic = &topology.nics()[0];
    assert_eq!(nic.pci().unwrap().address().to_string(), "0000:3b:00.0");
}

#[test]
fn a_verbs_device_belongs_to_the_nic_it_names() {
    let tree = FakeTree::new();
    tree.nic("mlx5_0", SLOT, 0)
        .nic("mlx5_1", "pci0000:00/0000:00:02.0/0000:5e:00.0", 0)
        .nic("mlx5_2", "pci0000:00/0000:00:03.0/0000:7e:00.0", 0)
        .file("sys/class/infiniband_verbs/abi_version", "6\n")
        .verbs("uverbs0", "mlx5_1")
        .verbs("uverbs1", "mlx5_0")
        .file("dev/infiniband/rdma_cm", "")
        .file("dev/infiniband/uverbs1", "");
    let topology = tree.discover();
    assert_eq!(topology.notes(), []);
    let verbs: Vec<_> = topology
        .nics()
        .iter()
        .map(|nic| nic.verbs().map(|verbs| (verbs.name(), verbs.access())))
        .collect();
    assert_eq!(
        verbs,
        [Some(("uverbs1", NodeAccess::Granted)), Some(("uverbs0", NodeAccess::Missing)), None]
    );
}

#[test]
fn a_verbs_node_without_a_nic_is_noted() {
    let tree = FakeTree::new();
    tree.file("dev/infiniband/uverbs7", "");
    let topology = tree.discover();
    let notes = topology.notes();
    assert_eq!(notes.len(), 1);
    assert_eq!(notes[0].path(), "/dev/infiniband/uverbs7");
}

fn dma_buf(kernel: &str) -> DmaBufSupport {
    let tree = FakeTree::new();
    tree.nic("mlx5_0", SLOT, 0)
        .verbs("uverbs0", "mlx5_0")
        .file("proc/sys/kernel/osrelease", format!("{kernel}\n"))
        .folder("sys/bus/pci/drivers/mlx5_core")
        .link(&format!("sys/devices/{SLOT}/driver"), "sys/bus/pci/drivers/mlx5_core");
    tree.discover().nics()[0].dma_buf().clone()
}

#[test]
fn dma_buf_is_open_on_a_recent_kernel_and_says_what_would_settle_it() {
    let DmaBufSupport::Unknown { reason } = dma_buf("6.8.0-45-generic") else {
        panic!("not open");
    };
    for word in ["6.8.0-45-generic", "mlx5_core", "ibv_reg_dmabuf_mr"] {
        assert!(reason.contains(word), "{reason}");
    }
}

#[test]
fn dma_buf_is_ruled_out_on_an_old_kernel() {
    let DmaBufSupport::Unsupported { reason } = dma_buf("5.4.0-200-generic") else {
        panic!("not ruled out");
    };
    assert!(reason.contains("5.4.0-200-generic"), "{reason}");
}

proptest! {
    #[test]
    fn every_nic_and_port_is_found_once_and_in_order(
        nics in proptest::collection::btree_map(0..40_u32, proptest::collection::btree_set(1..30_u32, 0..4), 0..5),
    ) {
        let tree = FakeTree::new();
        for (nic, ports) in &nics {
            let name = format!("mlx5_{nic}");
            tree.nic(&name, &format!("pci0000:00/0000:00:01.0/0000:{nic:02x}:00.0"), 0);
            for &port in ports {
                tree.port(&name, port, "Ethernet", "100 Gb/sec (4X EDR)");
            }
        }
        let topology = tree.discover();
        prop_assert_eq!(topology.notes(), &[]);
        let found: Vec<(String, BTreeSet<u32>)> = topology
            .nics()
            .iter()
            .map(|nic| (nic.name().to_owned(), nic.ports().iter().map(|port| port.number()).collect()))
            .collect();
        let made: Vec<_> = nics.into_iter().map(|(nic, ports)| (format!("mlx5_{nic}"), ports)).collect();
        prop_assert_eq!(found, made);
        for nic in topology.nics() {
            prop_assert!(nic.ports().is_sorted_by(|a, b| a.number() < b.number()));
        }
    }
}
