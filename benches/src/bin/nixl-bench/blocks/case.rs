//! Cases of blocks by tickets.

use std::fmt;

use anyhow::Result;

use super::cache::Arrangement;
use super::session::Session;
use super::{at_once, export, first, grants, processes, readers, reads, small};
use crate::cases::Effort;
use crate::initiator::Findings;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Case {
    /// Reads of so many blocks.
    Reads { count: usize, into: Arrangement },
    /// Reads of a page.
    Page,
    /// Reads of pages, many in flight.
    AtOnce,
    /// Reads of a page beside many of blocks.
    Readers,
    /// Reads of a page beside many processes that read blocks.
    Processes,
    /// The first read after an import.
    First,
    /// Grants among many.
    Grants,
    /// Exports of memory that was not touched.
    Export,
}

impl Case {
    /// Those whose name contains the filter. Quick runs leave out the largest.
    pub(crate) fn all(effort: Effort, filter: Option<&str>) -> Vec<Self> {
        let counts: &[usize] = match effort {
            Effort::Quick => &[1, 16, 64],
            Effort::Full => &[1, 16, 64, 256],
        };
        // Small ones first: large ones leave caches and the allocator otherwise than they were.
        let mut cases = vec![Self::Grants, Self::Page, Self::AtOnce];
        let reads = |count| Arrangement::BOTH.map(|into| Self::Reads { count, into });
        cases.extend(counts.iter().flat_map(|count| reads(*count)));
        cases.extend([Self::Readers, Self::Processes, Self::First, Self::Export]);
        cases.retain(|case| filter.is_none_or(|filter| case.to_string().contains(filter)));
        cases
    }

    /// Blocks that the cache must have.
    pub(crate) fn blocks(self) -> usize {
        match self {
            Self::Reads { count, .. } => count,
            Self::Readers | Self::Processes => readers::READERS,
            Self::First => first::BLOCKS,
            Self::Page | Self::AtOnce | Self::Grants | Self::Export => 1,
        }
    }

    pub(crate) fn measure(self, session: &mut Session, findings: &mut Findings) -> Result<()> {
        match self {
            Self::Reads { count, into } => reads::reads(session, count, into, findings),
            Self::Page => small::small(session, findings),
            Self::AtOnce => at_once::at_once(session, findings),
            Self::Readers => readers::readers(session, findings),
            Self::Processes => processes::processes(session, findings),
            Self::First => first::first(session, findings),
            Self::Grants => grants::grants(session, findings),
            Self::Export => export::export(session, findings),
        }
    }
}

/// What `--filter` looks at.
impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reads { count, into } => f.write_str(&reads::name(*count, *into)),
            Self::Page => f.write_str(small::CASE),
            Self::AtOnce => f.write_str(at_once::CASE),
            Self::Readers => f.write_str(readers::CASE),
            Self::Processes => f.write_str(processes::CASE),
            Self::First => f.write_str(first::CASE),
            Self::Grants => f.write_str(grants::GRANT_AND_END),
            Self::Export => f.write_str(export::CASE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quick_run_measures_a_part_of_a_full_one() {
        let full = Case::all(Effort::Full, None);
        let quick = Case::all(Effort::Quick, None);
        assert!(quick.len() < full.len() && quick.iter().all(|case| full.contains(case)));
    }

    #[test]
    fn filters_select_by_part_of_the_name() {
        let names = |filter| {
            let cases = Case::all(Effort::Full, Some(filter));
            cases.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(names("blocks-64-per-layer-to-c"), ["blocks-64-per-layer-to-contiguous"]);
        assert_eq!(names("page"), ["page", "pages-at-once", "interactive-page", processes::CASE]);
        assert!(names("nothing of the kind").is_empty());
    }
}
