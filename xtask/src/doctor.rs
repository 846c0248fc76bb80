//! `cargo xtask doctor`: what was found, what is missing, and what to do about it.

mod machine;
mod nixl;
mod report;
mod tools;

pub(crate) mod probe;

use std::process::ExitCode;

use anyhow::Result;
use nixl_device::{Topology, cuda};
use serde_json::json;

use crate::workspace::Workspace;
use report::Report;

/// Exit code 0 if transfers can work here.
pub(crate) fn run(workspace: &Workspace, as_json: bool) -> Result<ExitCode> {
    let store = workspace.store();
    let topology = Topology::discover();
    let mut report = Report::default();
    nixl::check(&mut report, &store);
    machine::check(&mut report, &topology);
    tools::check(&mut report, &store);

    if as_json {
        let object = json!({
            "schema": 1,
            "ok": report.ok(),
            "checks": report.to_json(),
            "cuda": cuda::probe(),
            "topology": topology,
        });
        println!("{object:#}");
    } else {
        println!("{report}");
    }
    Ok(if report.ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
