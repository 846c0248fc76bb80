//! `cargo xtask doctor`: what was found, what is missing, and what to do about it.

mod machine;
mod nixl;
mod process;
mod report;
mod started;
mod tools;

pub(crate) mod probe;

/// What connectors refuse: their own source.
#[path = "../../crates/nixl-connector/src/nixl/settings_files.rs"]
mod settings_files;

use std::process::ExitCode;

use anyhow::Result;
use nixl_device::{Topology, cuda};
use serde_json::json;

use crate::bundle;
use crate::workspace::Workspace;
use report::Report;

/// What brings a missing NIXL: in a checkout, and in an unpacked bundle.
const SETUP: &str = "run `cargo xtask setup`";
const UNPACK: &str = "unpack the bundle anew";

/// Exit code 0 if transfers can work here.
pub(crate) fn run(as_json: bool) -> Result<ExitCode> {
    let topology = Topology::discover();
    let mut report = Report::default();
    if let Some(bundle) = bundle::unpacked() {
        match bundle::version(&bundle) {
            Ok(version) => report.ok_for("bundle", "version", version),
            Err(error) => report.missing("bundle", "version", format!("{error:#}"), UNPACK),
        }
        nixl::check(&mut report, &topology, &bundle, UNPACK);
        machine::check(&mut report, &topology);
        process::check(&mut report);
    } else {
        let store = Workspace::find()?.store();
        nixl::check(&mut report, &topology, &store, SETUP);
        machine::check(&mut report, &topology);
        process::check(&mut report);
        tools::check(&mut report, &store);
    }

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
