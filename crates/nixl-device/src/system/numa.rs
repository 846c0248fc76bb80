//! NUMA nodes.

use std::collections::BTreeMap;

use serde::Serialize;

use super::tree::Tree;

const FOLDER: &str = "sys/devices/system/node";

/// A NUMA node: memory, processors or both that are near each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NumaNode {
    pub(crate) id: u32,
    pub(crate) cpus: Option<Vec<u32>>,
    memory_bytes: Option<u64>,
    distances: Option<BTreeMap<u32, u32>>,
}

impl NumaNode {
    /// Its number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The processors on it, ascending. Empty for a node of memory alone; `None` if that could not be read.
    #[must_use]
    pub fn cpus(&self) -> Option<&[u32]> {
        self.cpus.as_deref()
    }

    /// The memory on it, in bytes. 0 for a node of processors alone; `None` if that could not be read.
    #[must_use]
    pub fn memory_bytes(&self) -> Option<u64> {
        self.memory_bytes
    }

    /// The distance to every node by its number, in the firmware's unit: 10 is local. `None` if that could not be
    /// read.
    #[must_use]
    pub fn distances(&self) -> Option<&BTreeMap<u32, u32>> {
        self.distances.as_ref()
    }
}

/// The nodes in ascending order; none if the kernel has no NUMA support.
pub(crate) fn read_nodes(tree: &Tree) -> Vec<NumaNode> {
    let mut ids: Vec<u32> = tree
        .names(FOLDER)
        .iter()
        .filter_map(|name| name.strip_prefix("node")?.parse().ok())
        .collect();
    ids.sort_unstable();
    ids.dedup();
    ids.iter().map(|&id| read_node(tree, id, &ids)).collect()
}

fn read_node(tree: &Tree, id: u32, ids: &[u32]) -> NumaNode {
    let file = |name: &str| format!("{FOLDER}/node{id}/{name}");
    NumaNode {
        id,
        cpus: read_cpus(tree, &file("cpulist")),
        memory_bytes: tree.value(&file("meminfo"), "a line with MemTotal in kB", parse_memory),
        distances: tree.value(&file("distance"), "one number for each node", |text| {
            parse_distances(text, ids)
        }),
    }
}

/// A node without processors has a blank line here, which is no fault.
fn read_cpus(tree: &Tree, path: &str) -> Option<Vec<u32>> {
    if tree.raw_text(path)?.trim().is_empty() {
        return Some(Vec::new());
    }
    tree.value(path, "processors in the form `0-3,8`", parse_cpus)
}

/// Parses `0-3,8`.
fn parse_cpus(text: &str) -> Option<Vec<u32>> {
    // Far above what the kernel can be built for, and small enough to list one by one.
    const MAX_CPU: u32 = 65_535;
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first: u32 = first.parse().ok()?;
        let last: u32 = last.parse().ok()?;
        // Ascending ranges also bound the length of the list.
        if first > last || last > MAX_CPU || cpus.last().is_some_and(|&end| first <= end) {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

/// Finds `Node 0 MemTotal:  4942028 kB`.
fn parse_memory(text: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.split_once("MemTotal:"))?.1;
    let kibibytes: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// The kernel prints one number for each node that is online, in ascending order.
fn parse_distances(text: &str, ids: &[u32]) -> Option<BTreeMap<u32, u32>> {
    let numbers: Vec<u32> =
        text.split_whitespace().map(|number| number.parse().ok()).collect::<Option<_>>()?;
    (numbers.len() == ids.len()).then(|| ids.iter().copied().zip(numbers).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// As the kernel prints a set.
    fn print_cpus(cpus: &[u32]) -> String {
        cpus.chunk_by(|a, b| a + 1 == *b)
            .map(|run| match run {
                [only] => only.to_string(),
                _ => format!("{}-{}", run[0], run[run.len() - 1]),
            })
            .collect::<Vec<_>>()
            .join(",")
    }

    proptest! {
        #[test]
        fn processors_round_trip(cpus in proptest::collection::btree_set(0..200_u32, 1..100)) {
            let cpus: Vec<u32> = BTreeSet::into_iter(cpus).collect();
            prop_assert_eq!(parse_cpus(&print_cpus(&cpus)), Some(cpus));
        }

        #[test]
        fn any_text_is_a_list_of_processors_or_not(text in "[0-9,-]{0,12}") {
            if let Some(cpus) = parse_cpus(&text) {
                prop_assert!(cpus.is_sorted_by(|a, b| a < b));
            }
        }
    }

    #[test]
    fn absurd_or_unordered_processors_are_refused() {
        for text in ["0-4294967295", "70000", "3-0", "4,1", "0-3,3", "1-", "-1", "a", "0,,1"] {
            assert_eq!(parse_cpus(text), None, "{text:?}");
        }
    }

    #[test]
    fn memory_that_overflows_is_refused() {
        assert_eq!(parse_memory("Node 0 MemTotal: 4 kB"), Some(4096));
        assert_eq!(parse_memory(&format!("Node 0 MemTotal: {} kB", u64::MAX)), None);
        assert_eq!(parse_memory("Node 0 MemTotal: 4 MB"), None);
    }
}
