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
use crate::initiator::Findings;

use self::case::Case;
use self::machine::Machine;

pub(crate) use self::engine::Engine;
pub(crate) use self::tune::tune;
pub(crate) use self::verdict::verdicts;

/// The name of this suite in reports.
pub(crate) const SUITE: &str = "local";

/// Measures all cases whose name contains `filter`. A case that fails is left out, and the error printed.
///
/// Without a GPU it says so, and measures what the host can do.
pub(crate) fn run(effort: Effort, filter: Option<&str>, costs: Costs) -> Result<Findings> {
    let machine = Machine::open(costs)?;
    let mut findings = Findings::default();
    for case in Case::all(&machine, effort) {
        let name = case.to_string();
        if filter.is_some_and(|filter| !name.contains(filter)) {
            continue;
        }
        if let Err(error) = case.measure(&machine, effort, &mut findings) {
            eprintln!("local: {name} is left out: {error:#}");
        }
    }
    Ok(findings)
}
