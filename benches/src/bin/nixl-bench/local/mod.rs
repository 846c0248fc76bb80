//! The suite `local`: copies of blocks between memories of this process, by our executor and by plain CUDA calls.

mod block_on;
mod case;
mod engine;
mod fit;
mod in_flight;
mod machine;
mod measure;
mod pair;
mod side;
mod tune;
mod verdict;

use anyhow::Result;
use nixl_executor::Costs;

use crate::cases::Effort;
use crate::initiator::{Findings, progress};

use self::case::Case;
use self::machine::Machine;

pub(crate) use self::engine::Engine;
pub(crate) use self::tune::tune;
pub(crate) use self::verdict::verdicts;

/// The name of this suite in reports.
pub(crate) const SUITE: &str = "local";

/// Measures all cases whose name contains `filter`. A case that fails is left out, with its error, and the others go on.
///
/// Without a GPU it says so, and measures what the host can do. `disk` measures the pairs with a disk.
pub(crate) fn run(
    effort: Effort,
    filter: Option<&str>,
    costs: Costs,
    disk: impl FnOnce(Effort, Option<&str>) -> Result<Findings>,
) -> Result<Findings> {
    let machine = Machine::open(costs)?;
    let mut cases = Case::all(&machine, effort);
    cases.retain(|case| filter.is_none_or(|filter| case.to_string().contains(filter)));
    let mut findings = Findings::default();
    let progress = progress(cases.len())?;
    for case in cases {
        progress.set_message(case.to_string());
        if let Err(error) = case.measure(&machine, effort, &mut findings) {
            findings.left_out.push(format!("{case}: {error:#}"));
        }
        progress.inc(1);
    }
    progress.finish_and_clear();
    match disk(effort, filter) {
        Ok(found) => findings.extend(found),
        Err(error) => findings.left_out.push(format!("pairs with a disk: {error:#}")),
    }
    Ok(findings)
}
