//! Cases, and their repetitions.

use std::time::Duration;

use anyhow::Result;

use nixl_benches::Layout;

use crate::initiator::{Findings, Session};
use crate::measure;
use crate::messages::Kind;
use crate::table::size;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// The memory of each side.
pub(crate) const MEMORY_BYTES: usize = 64 * MIB;

const SIZES: [usize; 8] =
    [4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB, MIB, 4 * MIB, 16 * MIB, 64 * MIB];

/// Operations in flight for the peak of operations a second.
const IN_FLIGHT: usize = 256;

/// How much work to put into it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Effort {
    Quick,
    Full,
}

impl Effort {
    pub(crate) fn new(quick: bool) -> Self {
        if quick { Self::Quick } else { Self::Full }
    }

    /// Picks a number of iterations.
    pub(crate) fn pick(self, quick: usize, full: usize) -> usize {
        match self {
            Self::Quick => quick,
            Self::Full => full,
        }
    }

    /// Iterations that are timed for an operation of so many bytes.
    pub(crate) fn iterations(self, bytes: usize) -> usize {
        match bytes {
            0..=65_536 => self.pick(400, 3000),
            65_537..=1_048_576 => self.pick(150, 1000),
            1_048_577..=4_194_304 => self.pick(50, 300),
            4_194_305..=16_777_216 => self.pick(20, 120),
            _ => self.pick(12, 60),
        }
    }

    /// Iterations before the first that is timed.
    pub(crate) fn warm_up(iterations: usize) -> usize {
        (iterations / 10).clamp(4, 200)
    }
}

/// One thing to measure.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Case {
    /// One operation at a time.
    Transfer { kind: Kind, layout: Layout },
    /// Many operations in flight; with `watched`, the plain engine's target takes the notifications meanwhile, as the
    /// connector's always does.
    InFlight { layout: Layout, watched: bool },
    /// From the initiator's completion to the target's, the target having waited for a while.
    Passive { waited: Duration },
    /// A notification there and back.
    RoundTrip,
    /// Making memory known to the engine.
    Registration,
    /// Encoding and decoding what peers exchange.
    Metadata,
    /// What waiting costs.
    Idle { outstanding: bool },
}

impl Case {
    /// What `--filter` looks at.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Transfer { kind, layout } => format!("{}/{}", kind.name(), shape(layout)),
            Self::InFlight { layout, watched: false } => {
                format!("read-in-flight/{}", shape(layout))
            }
            Self::InFlight { layout, watched: true } => {
                format!("read-in-flight-watched/{}", shape(layout))
            }
            Self::Passive { waited } if waited.is_zero() => "passive-completion".to_owned(),
            Self::Passive { .. } => "passive-completion-waited".to_owned(),
            Self::RoundTrip => "notification-round-trip".to_owned(),
            Self::Registration => "registration".to_owned(),
            Self::Metadata => "metadata".to_owned(),
            Self::Idle { outstanding: true } => "idle-one-outstanding".to_owned(),
            Self::Idle { outstanding: false } => "idle-none-outstanding".to_owned(),
        }
    }

    pub(crate) fn measure(self, session: &mut Session, findings: &mut Findings) -> Result<()> {
        match self {
            Self::Transfer { kind, layout } => measure::transfer(session, kind, layout, findings),
            Self::InFlight { layout, watched } => {
                measure::in_flight(session, (layout, watched), findings)
            }
            Self::Passive { waited } => measure::passive(session, &self.name(), waited, findings),
            Self::RoundTrip => measure::round_trip(session, findings),
            Self::Registration => measure::registration(session, findings),
            Self::Metadata => measure::metadata(session, findings),
            Self::Idle { outstanding } => measure::idle(session, outstanding, findings),
        }
    }
}

/// All cases, or those whose name contains `filter`.
pub(crate) fn select(filter: Option<&str>) -> Vec<Case> {
    let transfers = Kind::BOTH.into_iter().flat_map(|kind| {
        let contiguous = SIZES.into_iter().map(|bytes| Layout::Contiguous { bytes });
        let scattered = Layout::Scattered { pieces: 64, bytes: 4 * KIB };
        contiguous.chain([scattered]).map(move |layout| Case::Transfer { kind, layout })
    });
    let in_flight = Layout::Scattered { pieces: IN_FLIGHT, bytes: 4 * KIB };
    let others = [
        Case::InFlight { layout: in_flight, watched: false },
        Case::InFlight { layout: in_flight, watched: true },
        Case::Passive { waited: Duration::ZERO },
        Case::Passive { waited: Duration::from_millis(20) },
        Case::RoundTrip,
        Case::Registration,
        Case::Metadata,
        Case::Idle { outstanding: true },
        Case::Idle { outstanding: false },
    ];
    transfers.chain(others).filter(|case| filter.is_none_or(|f| case.name().contains(f))).collect()
}

fn shape(layout: Layout) -> String {
    match layout {
        Layout::Contiguous { bytes } => size(bytes),
        Layout::Scattered { pieces, bytes } => format!("{pieces}x{}", size(bytes)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_case_has_a_name_of_its_own_and_fits_the_memory() {
        let cases = select(None);
        let names: HashSet<_> = cases.iter().map(|c| c.name()).collect();
        assert_eq!(names.len(), cases.len());
        for case in cases {
            if let Case::Transfer { layout, .. } | Case::InFlight { layout, .. } = case {
                assert!(layout.span() <= MEMORY_BYTES, "{case:?}");
            }
        }
    }

    #[test]
    fn filters_select_by_part_of_the_name() {
        let names = |filter| select(Some(filter)).iter().map(|c| c.name()).collect::<Vec<_>>();
        assert_eq!(names("read/4KiB"), ["read/4KiB"]);
        assert_eq!(names("64x4KiB"), ["read/64x4KiB", "write/64x4KiB"]);
        assert!(names("nothing of the kind").is_empty());
    }
}
