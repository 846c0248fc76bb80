//! Distances between a GPU and a NIC, from where they hang in the PCI tree.

use nixl_device::Distance;

use crate::fake_tree::FakeTree;

/// The distance between a GPU and a NIC at these paths, on a machine with two NUMA nodes.
fn distance(gpu: (&str, i32), nic: (&str, i32)) -> Distance {
    let tree = FakeTree::new();
    tree.node(0, "0-3", 1024, "10 21")
        .node(1, "4-7", 1024, "21 10")
        .gpu(gpu.0, gpu.1)
        .nic("mlx5_0", nic.0, nic.1);
    let topology = tree.discover();
    assert_eq!(topology.notes(), []);
    let nic = topology.nics()[0].pci().unwrap();
    let there = topology.gpus()[0].distance(nic);
    assert_eq!(there, nic.distance(&topology.gpus()[0]));
    there
}

/// Root port, upstream port and the downstream ports of a switch.
const SWITCH: &str = "pci0000:00/0000:00:01.0/0000:01:00.0";

#[test]
fn one_switch_is_pix() {
    assert_eq!(
        distance(
            (&format!("{SWITCH}/0000:02:00.0/0000:03:00.0"), 0),
            (&format!("{SWITCH}/0000:02:01.0/0000:04:00.0"), 0),
        ),
        Distance::Pix
    );
}

#[test]
fn functions_on_one_bus_are_pix() {
    assert_eq!(
        distance(
            ("pci0000:00/0000:00:01.0/0000:01:00.0", 0),
            ("pci0000:00/0000:00:01.0/0000:01:00.1", 0),
        ),
        Distance::Pix
    );
}

#[test]
fn a_switch_below_a_switch_is_pxb() {
    assert_eq!(
        distance(
            (&format!("{SWITCH}/0000:02:00.0/0000:03:00.0/0000:04:00.0/0000:05:00.0"), 0),
            (&format!("{SWITCH}/0000:02:01.0/0000:06:00.0"), 0),
        ),
        Distance::Pxb
    );
}

#[test]
fn root_ports_of_one_host_bridge_are_phb() {
    assert_eq!(
        distance(
            ("pci0000:00/0000:00:01.0/0000:01:00.0", 0),
            ("pci0000:00/0000:00:02.0/0000:02:00.0", 0),
        ),
        Distance::Phb
    );
}

#[test]
fn host_bridges_of_one_node_are_node() {
    assert_eq!(
        distance(
            ("pci0000:00/0000:00:01.0/0000:01:00.0", 1),
            ("pci0000:80/0000:80:01.0/0000:81:00.0", 1),
        ),
        Distance::Node
    );
}

#[test]
fn nodes_apart_are_sys() {
    assert_eq!(
        distance(
            ("pci0000:00/0000:00:01.0/0000:01:00.0", 0),
            ("pci0000:80/0000:80:01.0/0000:81:00.0", 1),
        ),
        Distance::Sys
    );
}

#[test]
fn an_unknown_node_is_sys_on_a_machine_with_several() {
    for (gpu_node, nic_node) in [(-1, 0), (0, -1), (-1, -1)] {
        assert_eq!(
            distance(
                ("pci0000:00/0000:00:01.0/0000:01:00.0", gpu_node),
                ("pci0000:80/0000:80:01.0/0000:81:00.0", nic_node),
            ),
            Distance::Sys
        );
    }
}

#[test]
fn an_unknown_node_is_the_only_node() {
    let tree = FakeTree::new();
    tree.node(0, "0-3", 1024, "10").gpu("pci0000:00/0000:00:01.0/0000:01:00.0", -1).nic(
        "mlx5_0",
        "pci0000:80/0000:80:01.0/0000:81:00.0",
        -1,
    );
    let topology = tree.discover();
    let nic = topology.nics()[0].pci().unwrap();
    assert_eq!(nic.numa_node(), Some(0));
    assert_eq!(topology.gpus()[0].distance(nic), Distance::Node);
}

#[test]
fn equal_bridges_of_different_domains_are_not_shared() {
    assert_eq!(
        distance(
            ("pci0000:00/0000:00:01.0/0000:01:00.0", 0),
            ("pci0001:00/0001:00:01.0/0001:01:00.0", 1),
        ),
        Distance::Sys
    );
}

#[test]
fn a_host_bridge_below_other_devices_is_found() {
    // As on a virtual machine of Hyper-V, and behind a volume management device.
    for prefix in [
        "LNXSYSTM:00/LNXSYBUS:00/ACPI0004:00/VMBUS:00/47505500-0001/pci10000:00",
        "pci0000:00/0000:00:0e.0/pci10000:00",
    ] {
        assert_eq!(
            distance(
                (&format!("{prefix}/10000:00:01.0/10000:01:00.0"), 0),
                (&format!("{prefix}/10000:00:02.0/10000:02:00.0"), 0),
            ),
            Distance::Phb
        );
    }
}

#[test]
fn a_function_is_at_no_distance_from_itself() {
    let tree = FakeTree::new();
    tree.gpu("pci0000:00/0000:00:01.0/0000:01:00.0", 0);
    let topology = tree.discover();
    let gpu = &topology.gpus()[0];
    assert_eq!(gpu.distance(gpu), Distance::Same);
}

#[test]
fn distances_order_and_print_as_people_know_them() {
    let names: Vec<String> = [
        Distance::Sys,
        Distance::Pxb,
        Distance::Same,
        Distance::Node,
        Distance::Pix,
        Distance::Phb,
    ]
    .into_iter()
    .collect::<std::collections::BTreeSet<_>>()
    .iter()
    .inspect(|distance| {
        let json = serde_json::to_string(distance).unwrap();
        assert_eq!(json, format!("\"{distance}\""));
    })
    .map(ToString::to_string)
    .collect();
    assert_eq!(names, ["SAME", "PIX", "PXB", "PHB", "NODE", "SYS"]);
}
