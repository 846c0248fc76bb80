//! Proof that a peer runs on this host before UCX reaches into its process.
//!
//! UCX treats two agents with equal boot identities as neighbours, and its CMA transport then reads and writes the process
//! whose identifier is in the peer's address. Clones of a virtual machine share both, so CMA would write to an unrelated
//! process. So each agent holds open an anonymous file with the agent's name, which is never used twice. If no process here has
//! a peer's file open, UCX gets connection details with another machine's identity, and reaches the peer over its network
//! transports.

use std::collections::HashSet;
use std::fs::File;

use nixl_device::memfd_holders;

use super::blob::Connections;
use super::streams;
use crate::agent_file;

/// The file that proves an agent's host.
#[derive(Debug)]
pub(super) struct Beacon {
    /// `None` if the system refuses it: peers then reach this agent over the network.
    _file: Option<File>,
}

impl Beacon {
    pub(super) fn of(agent: &str) -> Self {
        let file = agent_file::create(agent).and_then(streams::beyond_standard);
        let file = file.inspect_err(|error| tracing::debug!(%error, "no file for the agent")).ok();
        Self { _file: file.map(File::from) }
    }
}

/// Bound on the processes checked for one agent: a peer could name all.
const MOST: usize = 256;

/// Whether a process of this host and PID namespace is the agent of this name. `details` are its connection details, which
/// contain its process identifier.
pub(super) fn is_here(agent: &str, details: &[&[u8]]) -> bool {
    let mut seen = HashSet::new();
    let candidates = details.iter().flat_map(|bytes| identifiers(bytes));
    let candidates = candidates.filter(|identifier| seen.insert(*identifier)).take(MOST);
    memfd_holders(&agent_file::name(agent), candidates).next().is_some()
}

/// The candidates for process identifiers in connection details.
fn identifiers(details: &[u8]) -> impl Iterator<Item = u32> + '_ {
    /// The largest identifier of Linux is one less.
    const END: u32 = 1 << 22;
    /// UCX marks the identifier of a process in a PID namespace of its own.
    const IN_NAMESPACE: u32 = 1 << 31;
    // Windows of 4 bytes: an identifier may end the address, or lie a byte or two before its end.
    details.windows(4).filter_map(|window| {
        let word = u32::from_le_bytes(window.try_into().ok()?) & !IN_NAMESPACE;
        (word > 0 && word < END).then_some(word)
    })
}

/// Connection details for UCX of a peer without proof of this host: with another machine's identity. `None` if they do not
/// claim this machine, whose identity for UCX is `machine`.
pub(super) fn masked(
    agent: &str,
    connections: &[(&str, &[u8])],
    machine: u64,
) -> Option<Connections> {
    let claims = connections.iter().any(|(_, bytes)| positions(bytes, machine).next().is_some());
    if !claims {
        return None;
    }
    tracing::info!(
        agent,
        "the peer claims this host and is not found on it: it is reached over the network. Either two machines have one boot \
         identity, or the peer is of another user or PID namespace"
    );
    let mask = |(kind, details): &(&str, &[u8])| {
        let mut masked = details.to_vec();
        for at in positions(details, machine) {
            // Any identity but this machine's: all bits but the flag of a namespace are inverted.
            for byte in &mut masked[at..][..7] {
                *byte = !*byte;
            }
        }
        ((*kind).to_owned(), masked)
    };
    Some(connections.iter().map(mask).collect())
}

/// The positions of the machine's identity in connection details. UCX uses the top bit for a flag.
fn positions(details: &[u8], machine: u64) -> impl Iterator<Item = usize> + '_ {
    const FLAG: u64 = 1 << 63;
    let is_it = move |window: &[u8]| {
        window.try_into().is_ok_and(|word| (u64::from_le_bytes(word) ^ machine) & !FLAG == 0)
    };
    details.windows(8).enumerate().filter(move |(_, window)| is_it(window)).map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MACHINE: u64 = 0x8123_4567_89ab_cdef;

    proptest! {
        #[test]
        fn a_peer_that_is_not_here_becomes_one_of_another_machine(
            parts in proptest::collection::vec(any::<[u8; 9]>(), 0..5),
            flagged in any::<bool>(),
            pid in any::<u32>(),
        ) {
            let machine = if flagged { MACHINE ^ (1 << 63) } else { MACHINE };
            let mut details = Vec::new();
            for part in &parts {
                details.extend_from_slice(part);
                details.extend_from_slice(&machine.to_le_bytes());
                details.extend_from_slice(&pid.to_le_bytes());
            }
            let given: [(&str, &[u8]); 2] = [("UCX", &details), ("OTHER", b"details")];
            let masked = masked("agent-of-another-machine", &given, MACHINE);
            prop_assert_eq!(masked.is_some(), !parts.is_empty());
            if let Some(masked) = masked {
                prop_assert_eq!(masked[0].1.len(), details.len());
                prop_assert!(positions(&masked[0].1, MACHINE).next().is_none());
                prop_assert_eq!(&masked[1], &("OTHER".to_owned(), b"details".to_vec()));
            }
        }
    }

    #[test]
    fn a_peer_is_here_as_long_as_its_process_holds_the_file() {
        let agent = format!("here-{}", uuid::Uuid::new_v4());
        let beacon = Beacon::of(&agent);
        let mut details = MACHINE.to_le_bytes().to_vec();
        details.extend_from_slice(&u64::from(std::process::id()).to_le_bytes());
        assert!(is_here(&agent, &[&details]));
        // The identifier ends the details, as where CMA is the last of UCX's transports.
        let last = [&MACHINE.to_le_bytes()[..], &std::process::id().to_le_bytes()].concat();
        assert!(is_here(&agent, &[&last]));
        // The same identifier, and another agent: what clones of a machine look like to each other.
        assert!(!is_here("another", &[&details]));
        // The identifier of another process.
        let others = [&MACHINE.to_le_bytes()[..], &1u64.to_le_bytes()].concat();
        assert!(!is_here(&agent, &[&others]));
        drop(beacon);
        assert!(!is_here(&agent, &[&details]));
    }

    #[test]
    fn an_address_that_names_many_processes_is_looked_at_in_part() {
        let agent = format!("many-{}", uuid::Uuid::new_v4());
        let _beacon = Beacon::of(&agent);
        // What begins in the middle of a word is no identifier.
        let words = |range: std::ops::Range<u64>| -> Vec<u8> {
            let all = range.chain([std::process::id().into()]);
            all.flat_map(|word| (word | u64::MAX << 32).to_le_bytes()).collect()
        };
        // Identifiers as large as that are not given out here.
        let first = (1 << 22) - 1000;
        assert!(is_here(&agent, &[&words(first..first + 9)]));
        assert!(!is_here(&agent, &[&words(first..first + 999)]));
    }
}
