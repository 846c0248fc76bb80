//! Cases of two processes.

use std::collections::HashSet;
use std::fmt;
use std::mem::Discriminant;

use anyhow::Result;

use super::memory::{self, Memory};
use super::session::Session;
use super::{at_once, planning, transfers};
use crate::cases::Effort;
use crate::initiator::Findings;
use crate::messages::Kind;
use crate::table::size;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// From which memory to which, whichever side moves the bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Flow {
    pub(crate) src: Memory,
    pub(crate) dst: Memory,
}

impl Flow {
    pub(crate) const fn new(src: Memory, dst: Memory) -> Self {
        Self { src, dst }
    }

    /// The initiator's memory, and the target's.
    pub(crate) fn sides(self, kind: Kind) -> (Memory, Memory) {
        match kind {
            Kind::Read => (self.dst, self.src),
            Kind::Write => (self.src, self.dst),
        }
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}->{}", self.src, self.dst)
    }
}

/// What shares the memory of both sides.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Case {
    /// One transfer at a time, of each of these sizes.
    Transfers { flow: Flow, kind: Kind, sizes: Vec<usize> },
    /// Many staged transfers at once, and one alone.
    AtOnce { flow: Flow },
    /// What choosing a path costs.
    Planning,
}

impl Case {
    /// All that a machine with so many GPUs has memories for, but for the sizes whose names do not contain the filter.
    /// Quick runs leave out what no promise is about.
    pub(crate) fn all(gpus: usize, effort: Effort, tcp: bool, filter: Option<&str>) -> Vec<Self> {
        let (flows, sizes) = match effort {
            Effort::Quick => (promised(gpus, tcp), &[4 * KIB, MIB, 64 * MIB][..]),
            Effort::Full => {
                (every(gpus), &[4 * KIB, 64 * KIB, MIB, 16 * MIB, 64 * MIB, 256 * MIB][..])
            }
        };
        let wanted = |name: &str| filter.is_none_or(|filter| name.contains(filter));
        let mut cases = Vec::new();
        for flow in flows {
            for kind in Kind::BOTH {
                let mut sizes = sizes.to_vec();
                sizes.retain(|bytes| wanted(&format!("{}/{} {flow}", kind.name(), size(*bytes))));
                if !sizes.is_empty() {
                    cases.push(Self::Transfers { flow, kind, sizes });
                }
            }
        }
        let flow = match u32::try_from(gpus) {
            Ok(0) | Err(_) => Flow::new(Memory::Host, Memory::Host),
            Ok(gpus) => Flow::new(Memory::Gpu(0), Memory::Gpu(1.min(gpus - 1))),
        };
        // Half a microsecond is looked for, which the leavings of thousands of transfers would cover.
        let (first, last) = (Self::Planning, Self::AtOnce { flow });
        cases.insert(0, first);
        cases.push(last);
        cases.retain(|case| matches!(case, Self::Transfers { .. }) || wanted(&case.to_string()));
        cases
    }

    pub(crate) fn measure(&self, session: &mut Session, findings: &mut Findings) -> Result<()> {
        match self {
            Self::Transfers { flow, kind, sizes } => {
                transfers::transfers(session, *flow, *kind, sizes, findings)
            }
            Self::AtOnce { flow } => at_once::at_once(session, *flow, findings),
            Self::Planning => planning::planning(session, findings),
        }
    }
}

/// For the progress, and for what `--filter` finds where there are no sizes.
impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transfers { flow, kind, .. } => write!(f, "{} {flow}", kind.name()),
            Self::AtOnce { flow } => write!(f, "{} {flow}", at_once::CASE),
            Self::Planning => f.write_str(planning::CASE),
        }
    }
}

/// All ordered pairs of kinds from the first GPU and the host to the second and the host; of each further GPU, each kind to the
/// next one, and to and from the host.
fn every(gpus: usize) -> Vec<Flow> {
    let all = memory::all(gpus);
    let pairs = all.iter().flat_map(|src| all.iter().map(|dst| Flow::new(*src, *dst)));
    let mut flows: Vec<_> = pairs.collect();
    flows.extend(of_other_allocators(gpus));
    let ordinals = 0..u32::try_from(gpus).unwrap_or(u32::MAX);
    let host = [Memory::Host, Memory::Shared, Memory::Pinned];
    for gpu in ordinals.clone() {
        let other = (gpu + 1) % ordinals.end;
        for src in memory::of_gpus(gpu) {
            let of_kind = |dst: &Memory| gpu == 0 || std::mem::discriminant(dst) == kind_of(src);
            flows.extend(memory::of_gpus(other).filter(of_kind).map(|dst| Flow::new(src, dst)));
            flows.extend(
                host.iter().flat_map(|host| [Flow::new(src, *host), Flow::new(*host, src)]),
            );
        }
    }
    let mut seen = HashSet::new();
    flows.retain(|flow| seen.insert((flow.src, flow.dst)));
    flows
}

fn kind_of(memory: Memory) -> Discriminant<Memory> {
    std::mem::discriminant(&memory)
}

/// From and to GPU memory of other allocators.
fn of_other_allocators(gpus: usize) -> Vec<Flow> {
    use Memory::{Gpu, Managed, Pinned, Pool, Vmm, VmmFd};
    let other = match gpus {
        0 => return Vec::new(),
        1 => 0,
        _ => 1,
    };
    let flows = [
        (Pool(0), Gpu(other)),
        (Gpu(other), Pool(0)),
        (Vmm(0), Gpu(other)),
        (Gpu(other), Vmm(0)),
        (Pool(0), Pool(other)),
        (Vmm(0), Vmm(other)),
        (Managed(0), Managed(other)),
        (Pool(0), Vmm(other)),
        (VmmFd(0), Gpu(other)),
        (Gpu(other), VmmFd(0)),
        (VmmFd(0), VmmFd(other)),
        (VmmFd(0), Pool(other)),
        (Pool(0), VmmFd(other)),
        (Pool(0), Pinned),
        (Pinned, Pool(0)),
    ];
    flows.map(|(src, dst)| Flow::new(src, dst)).to_vec()
}

/// The flows that the promises of a machine are about, with sockets alone or with all it has.
fn promised(gpus: usize, tcp: bool) -> Vec<Flow> {
    use Memory::{Gpu, Host, Pinned, Shared};
    let flows: &[(Memory, Memory)] = match tcp {
        true => &[(Host, Host), (Gpu(0), Gpu(1))],
        false => &[
            (Host, Host),
            (Host, Shared),
            (Shared, Host),
            (Gpu(0), Shared),
            (Shared, Gpu(0)),
            (Gpu(0), Host),
            (Host, Gpu(0)),
            (Gpu(0), Pinned),
            (Pinned, Gpu(0)),
            (Gpu(0), Gpu(0)),
            (Gpu(0), Gpu(1)),
        ],
    };
    let all = memory::all(gpus);
    let there = |memory| all.contains(memory);
    let there = flows.iter().filter(|(src, dst)| there(src) && there(dst));
    let there = there.map(|(src, dst)| Flow::new(*src, *dst));
    there.chain(if tcp { Vec::new() } else { of_other_allocators(gpus) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_run_measures_every_pair_of_memories_in_both_directions() {
        for gpus in [0, 1, 2, 8] {
            let cases = Case::all(gpus, Effort::Full, false, None);
            let flows: Vec<_> = cases
                .iter()
                .filter_map(|case| match case {
                    Case::Transfers { flow, kind: Kind::Read, .. } => Some((flow.src, flow.dst)),
                    _ => None,
                })
                .collect();
            let transfers = cases.iter().filter(|c| matches!(c, Case::Transfers { .. }));
            assert_eq!(transfers.count(), 2 * flows.len(), "{gpus} GPUs");
            let all = memory::all(gpus);
            assert!(all.iter().all(|src| all.iter().all(|dst| flows.contains(&(*src, *dst)))));
            for gpu in 0..gpus as u32 {
                let other = (gpu + 1) % gpus as u32;
                for (src, dst) in memory::of_gpus(gpu).zip(memory::of_gpus(other)) {
                    assert!(flows.contains(&(src, dst)), "{src} {dst}");
                    assert!(flows.contains(&(src, Memory::Pinned)), "{src}");
                    assert!(flows.contains(&(Memory::Host, src)), "{src}");
                    let every = |dst| flows.contains(&(src, dst));
                    assert!(gpu > 0 || memory::of_gpus(other).all(every), "{src}");
                }
            }
            let mut names: Vec<_> = cases.iter().map(ToString::to_string).collect();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), cases.len());
        }
    }

    #[test]
    fn a_quick_run_measures_a_part_of_it() {
        for tcp in [false, true] {
            let every = Case::all(2, Effort::Full, tcp, None);
            for case in Case::all(2, Effort::Quick, tcp, None) {
                let whole = every.iter().find(|e| e.to_string() == case.to_string()).unwrap();
                if let (Case::Transfers { sizes, .. }, Case::Transfers { sizes: all, .. }) =
                    (&case, whole)
                {
                    assert!(sizes.iter().all(|size| all.contains(size)));
                }
            }
        }
    }

    #[test]
    fn filters_select_sizes_and_memories() {
        let names = |filter| {
            let cases = Case::all(2, Effort::Full, false, Some(filter));
            cases.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(names("read/64MiB cuda:0->cuda:1"), ["read cuda:0->cuda:1"]);
        assert_eq!(names("pinned->host"), ["read pinned->host", "write pinned->host"]);
        assert_eq!(names("planning"), ["planning"]);
        assert!(names("nothing of the kind").is_empty());
    }

    #[test]
    fn the_reader_has_the_destination_and_the_writer_the_source() {
        let flow = Flow::new(Memory::Gpu(0), Memory::Host);
        assert_eq!(flow.sides(Kind::Read), (Memory::Host, Memory::Gpu(0)));
        assert_eq!(flow.sides(Kind::Write), (Memory::Gpu(0), Memory::Host));
    }
}
