//! The results, as a table and as a report in JSON.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use nixl_benches::Environment;
use serde::Serialize;

use crate::side::SideReport;

/// The version of the format.
const SCHEMA: u32 = 1;

#[derive(Debug, Serialize)]
pub(crate) struct Report {
    schema: u32,
    pub(crate) environment: Environment,
    pub(crate) seed: u64,
    pub(crate) seconds: f64,
    pub(crate) findings: Vec<Finding>,
}

/// What became of one variant of a scenario.
#[derive(Debug, Serialize)]
pub(crate) struct Finding {
    pub(crate) scenario: &'static str,
    pub(crate) variant: String,
    pub(crate) seconds: f64,
    pub(crate) sides: Vec<SideReport>,
    pub(crate) failures: Vec<String>,
    pub(crate) notes: Vec<String>,
    /// Why it was not run.
    pub(crate) skipped: Option<String>,
}

impl Report {
    pub(crate) fn new(seed: u64) -> Self {
        let environment = Environment::discover();
        Self { schema: SCHEMA, environment, seed, seconds: 0.0, findings: Vec::new() }
    }

    /// Whether nothing failed and nothing grew.
    pub(crate) fn passed(&self) -> bool {
        self.findings.iter().all(|finding| finding.failures.is_empty())
    }

    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)
                .with_context(|| format!("cannot make {}", folder.display()))?;
        }
        let text = serde_json::to_string_pretty(self)?;
        fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
    }
}

impl Finding {
    /// One line, and one more for each failure.
    pub(crate) fn verdict(&self) -> String {
        let Self { scenario, variant, seconds, .. } = self;
        let word = match (&self.skipped, self.failures.is_empty()) {
            (Some(reason), _) => format!("SKIPPED ({reason})"),
            (None, true) => "passed".to_owned(),
            (None, false) => "FAILED".to_owned(),
        };
        let mut text = format!("{scenario} ({variant}): {word} in {seconds:.0} s");
        for note in &self.notes {
            text += &format!("; {note}");
        }
        for failure in &self.failures {
            text += &format!("\n    {failure}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(failures: &[&str], skipped: Option<&str>) -> Finding {
        Finding {
            scenario: "kept",
            variant: "x".to_owned(),
            seconds: 2.0,
            sides: Vec::new(),
            failures: failures.iter().map(ToString::to_string).collect(),
            notes: vec!["quick".to_owned()],
            skipped: skipped.map(str::to_owned),
        }
    }

    #[test]
    fn one_failure_fails_the_report() {
        let mut report = Report::new(1);
        report.findings = vec![finding(&[], None), finding(&[], Some("no root"))];
        assert!(report.passed());
        report.findings.push(finding(&["files grow"], None));
        assert!(!report.passed());
        let verdicts: Vec<_> = report.findings.iter().map(Finding::verdict).collect();
        assert_eq!(verdicts[0], "kept (x): passed in 2 s; quick");
        assert_eq!(verdicts[1], "kept (x): SKIPPED (no root) in 2 s; quick");
        assert_eq!(verdicts[2], "kept (x): FAILED in 2 s; quick\n    files grow");
    }

    #[test]
    fn the_report_is_written_where_it_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/soak.json");
        let mut report = Report::new(7);
        report.findings.push(finding(&[], None));
        report.write(&path).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        assert_eq!(value["seed"], 7);
        assert_eq!(value["findings"][0]["scenario"], "kept");
    }
}
