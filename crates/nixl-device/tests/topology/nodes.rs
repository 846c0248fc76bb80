//! NUMA nodes.

use std::collections::BTreeMap;

use crate::fake_tree::FakeTree;

#[test]
fn nodes_have_processors_memory_and_distances() {
    let tree = FakeTree::new();
    tree.node(0, "0-3,16-17", 4_942_028, "10 21").node(1, "4-7", 1024, "21 10");
    let topology = tree.discover();
    assert_eq!(topology.notes(), []);
    let [first, second] = topology.numa_nodes() else {
        panic!("{:?}", topology.numa_nodes());
    };
    assert_eq!(first.cpus(), Some(&[0, 1, 2, 3, 16, 17][..]));
    assert_eq!(first.memory_bytes(), Some(4_942_028 * 1024));
    assert_eq!(first.distances(), Some(&BTreeMap::from([(0, 10), (1, 21)])));
    assert_eq!(second.id(), 1);
    assert_eq!(second.distances(), Some(&BTreeMap::from([(0, 21), (1, 10)])));
}

#[test]
fn a_node_of_memory_alone_has_no_processors_and_no_note() {
    let tree = FakeTree::new();
    tree.node(0, "0-71", 1024, "10 80").node(2, "", 2048, "80 10");
    let topology = tree.discover();
    assert_eq!(topology.notes(), []);
    assert_eq!(topology.numa_nodes()[1].cpus(), Some(&[][..]));
    assert_eq!(topology.numa_nodes()[1].memory_bytes(), Some(2048 * 1024));
}

#[test]
fn a_node_of_processors_alone_has_zero_bytes() {
    let tree = FakeTree::new();
    tree.node(0, "0-3", 0, "10");
    assert_eq!(tree.discover().numa_nodes()[0].memory_bytes(), Some(0));
}

#[test]
fn distances_go_by_the_numbers_of_the_nodes_that_exist() {
    let tree = FakeTree::new();
    for (id, distances) in [(0, "10 12 40"), (2, "12 10 40"), (10, "40 40 10")] {
        tree.node(id, &id.to_string(), 1024, distances);
    }
    let topology = tree.discover();
    let nodes = topology.numa_nodes();
    assert_eq!(nodes.iter().map(|node| node.id()).collect::<Vec<_>>(), [0, 2, 10]);
    assert_eq!(nodes[1].distances(), Some(&BTreeMap::from([(0, 12), (2, 10), (10, 40)])));
}

#[test]
fn each_broken_file_costs_one_value_and_leaves_a_note() {
    let tree = FakeTree::new();
    tree.node(0, "0-3", 1024, "10 21")
        .node(1, "4-7", 1024, "21 10")
        .file("sys/devices/system/node/node0/cpulist", "0-many\n")
        .file("sys/devices/system/node/node0/distance", "10\n")
        .file("sys/devices/system/node/node1/meminfo", "")
        .file("sys/devices/system/node/node1/cpulist", "");
    let topology = tree.discover();
    let [first, second] = topology.numa_nodes() else {
        panic!("{:?}", topology.numa_nodes());
    };
    assert_eq!(
        (first.cpus(), first.memory_bytes(), first.distances()),
        (None, Some(1 << 20), None)
    );
    assert_eq!((second.cpus(), second.memory_bytes()), (None, None));
    assert!(second.distances().is_some());
    let mut paths: Vec<_> = topology.notes().iter().map(|note| note.path()).collect();
    paths.sort_unstable();
    assert_eq!(
        paths,
        [
            "/sys/devices/system/node/node0/cpulist",
            "/sys/devices/system/node/node0/distance",
            "/sys/devices/system/node/node1/cpulist",
            "/sys/devices/system/node/node1/meminfo",
        ]
    );
}

#[test]
fn other_entries_are_no_nodes() {
    let tree = FakeTree::new();
    tree.node(0, "0", 1024, "10")
        .file("sys/devices/system/node/online", "0\n")
        .folder("sys/devices/system/node/nodes")
        .folder("sys/devices/system/node/power");
    let topology = tree.discover();
    assert_eq!(topology.numa_nodes().len(), 1);
    assert_eq!(topology.notes(), []);
}
