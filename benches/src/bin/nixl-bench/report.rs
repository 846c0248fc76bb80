//! The report: what `report.json` holds.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use nixl_benches::{Environment, Layout};

use crate::initiator::Findings;
use crate::messages::Kind;
use crate::remote::{self, Refusal};
use crate::samples::Samples;
use crate::table;

/// The version of the format.
const SCHEMA: u32 = 1;

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Report {
    schema: u32,
    pub(crate) environment: Environment,
    pub(crate) rows: Vec<Row>,
    pub(crate) gauges: Vec<Gauge>,
    /// Paths that the executor was told to take, and refused: once for each pair of memories.
    #[serde(default)]
    pub(crate) refusals: Vec<Refusal>,
    /// Rows that are not here, since this machine has no memory for them.
    #[serde(default)]
    pub(crate) skipped: Vec<String>,
}

/// What one engine took for one case.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Row {
    pub(crate) suite: String,
    pub(crate) case: String,
    /// Who moved the bytes.
    pub(crate) engine: String,
    /// What carried the bytes; `none` if nothing was carried.
    pub(crate) transport: String,
    /// The way they took; `none` likewise.
    pub(crate) path: String,
    /// The initiator's memory; in the suite `local` the source.
    pub(crate) local: String,
    /// The target's memory; in the suite `local` the destination.
    pub(crate) remote: String,
    /// Of each descriptor.
    pub(crate) bytes: usize,
    /// Descriptors, or operations in flight.
    pub(crate) batch: usize,
    pub(crate) iterations: usize,
    pub(crate) p50_ns: u64,
    pub(crate) p90_ns: u64,
    pub(crate) p99_ns: u64,
    pub(crate) p999_ns: u64,
    pub(crate) max_ns: u64,
    /// 10^9 bytes a second at the median; none if no bytes were moved.
    pub(crate) gbps: Option<f64>,
    /// The data was checked, always after the destination had been poisoned; none if there was no data. That of every
    /// iteration, but for more than 64 MiB in the suites `local` and `remote`: there of the first, the middle and the last.
    pub(crate) verified: Option<bool>,
    /// Processor time of all threads of the process, the median; none where it was not measured.
    #[serde(default)]
    pub(crate) cpu_ns: Option<u64>,
}

/// A figure that is no distribution.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Gauge {
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) unit: String,
}

impl Report {
    pub(crate) fn new(environment: Environment, findings: Findings) -> Self {
        let Findings { rows, gauges, refusals, skipped, left_out: _ } = findings;
        Self { schema: SCHEMA, environment, rows, gauges, refusals, skipped }
    }

    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let report: Self = serde_json::from_slice(&text)
            .with_context(|| format!("{} is no report of this benchmark", path.display()))?;
        if report.schema != SCHEMA {
            bail!("{} has schema {}, not {SCHEMA}", path.display(), report.schema);
        }
        Ok(report)
    }

    /// Writes `path`, and the table in Markdown beside it.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let write = |path: &Path, text: &str| {
            fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
        };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)
                .with_context(|| format!("cannot create {}", folder.display()))?;
        }
        write(path, &(serde_json::to_string_pretty(self)? + "\n"))?;
        write(&path.with_extension("md"), &table::markdown(self))
    }
}

impl Row {
    /// A row without data between host memories; the rest is added by what follows.
    pub(crate) fn new(case: &str, engine: impl Into<String>, samples: &Samples) -> Result<Self> {
        let p = samples.percentiles().context("no iteration was measured")?;
        Ok(Self {
            suite: "host".to_owned(),
            case: case.to_owned(),
            engine: engine.into(),
            transport: "none".to_owned(),
            path: "none".to_owned(),
            local: "host".to_owned(),
            remote: "host".to_owned(),
            bytes: 0,
            batch: 1,
            iterations: samples.len(),
            p50_ns: p.p50,
            p90_ns: p.p90,
            p99_ns: p.p99,
            p999_ns: p.p999,
            max_ns: p.max,
            gbps: None,
            verified: None,
            cpu_ns: None,
        })
    }

    pub(crate) fn shaped(self, layout: Layout) -> Self {
        Self { bytes: layout.piece_bytes(), batch: layout.batch(), ..self }
    }

    pub(crate) fn of(self, bytes: usize) -> Self {
        Self { bytes, ..self }
    }

    pub(crate) fn in_batches_of(self, batch: usize) -> Self {
        Self { batch, ..self }
    }

    /// A row of another suite, between memories of other kinds.
    pub(crate) fn between(self, suite: &str, local: impl ToString, remote: impl ToString) -> Self {
        let (local, remote) = (local.to_string(), remote.to_string());
        Self { suite: suite.to_owned(), local, remote, ..self }
    }

    /// From which memory to which the bytes went.
    pub(crate) fn memories(&self) -> String {
        let read = self.suite == remote::SUITE && self.case != Kind::Write.name();
        let (from, to) = match read {
            true => (&self.remote, &self.local),
            false => (&self.local, &self.remote),
        };
        format!("{from} -> {to}")
    }

    pub(crate) fn over(self, transport: &str, path: &str) -> Self {
        Self { transport: transport.to_owned(), path: path.to_owned(), ..self }
    }

    pub(crate) fn verified(self) -> Self {
        Self { verified: Some(true), ..self }
    }

    /// Notes the processor time of a sample.
    pub(crate) fn using(self, cpu_ns: u64) -> Self {
        Self { cpu_ns: Some(cpu_ns), ..self }
    }

    /// Notes the throughput of so many bytes a sample.
    pub(crate) fn moving(self, bytes: usize) -> Self {
        // Bytes a nanosecond are 10^9 bytes a second.
        let gbps = bytes as f64 / self.p50_ns.max(1) as f64;
        Self { gbps: Some((gbps * 1000.0).round() / 1000.0), ..self }
    }

    /// Whether both measured the same thing, perhaps with different engines.
    pub(crate) fn is_beside(&self, other: &Self) -> bool {
        (&self.suite, &self.case, &self.local, &self.remote, self.bytes, self.batch)
            == (&other.suite, &other.case, &other.local, &other.remote, other.bytes, other.batch)
    }
}

impl Gauge {
    pub(crate) fn new(name: impl Into<String>, value: f64, unit: &str) -> Self {
        Self { name: name.into(), value, unit: unit.to_owned() }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::messages::Engine;

    pub(crate) fn row(case: &str, engine: Engine, p50: u64) -> Row {
        let mut samples = Samples::default();
        samples.push(p50);
        Row::new(case, engine, &samples).unwrap().of(4096).moving(4096)
    }

    pub(crate) fn report(rows: Vec<Row>, gauges: Vec<Gauge>) -> Report {
        Report::new(Environment::default(), Findings { rows, gauges, ..Findings::default() })
    }

    #[test]
    fn the_format_is_the_documented_one() {
        let gauges = vec![Gauge::new("idle", 0.5, "%")];
        let report = report(vec![row("read", Engine::NixlSys, 2048).verified()], gauges);
        let json = serde_json::to_value(&report).unwrap();
        let names = |value: &serde_json::Value| -> Vec<String> {
            value.as_object().unwrap().keys().cloned().collect()
        };
        assert_eq!(json["schema"], 1);
        let mut top = names(&json);
        top.sort_unstable();
        assert_eq!(top, ["environment", "gauges", "refusals", "rows", "schema", "skipped"]);
        let mut expected = [
            "suite",
            "case",
            "engine",
            "transport",
            "path",
            "local",
            "remote",
            "bytes",
            "batch",
            "iterations",
            "p50_ns",
            "p90_ns",
            "p99_ns",
            "p999_ns",
            "max_ns",
            "gbps",
            "verified",
            "cpu_ns",
        ];
        expected.sort_unstable();
        let mut fields = names(&json["rows"][0]);
        fields.sort_unstable();
        assert_eq!(fields, expected);
        assert_eq!(json["rows"][0]["engine"], "nixl-sys");
        assert_eq!(json["rows"][0]["gbps"], 2.0);
        assert_eq!(json["rows"][0]["verified"], true);
        assert_eq!(serde_json::from_value::<Report>(json).unwrap(), report);
    }

    #[test]
    fn what_moves_nothing_has_no_throughput() {
        let mut samples = Samples::default();
        samples.push(1);
        let row = Row::new("registration-cold", Engine::Connector, &samples).unwrap();
        assert_eq!((row.gbps, row.verified), (None, None));
        assert!(Row::new("read", Engine::Connector, &Samples::default()).is_err());
    }
}
