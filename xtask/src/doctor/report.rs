//! Findings, for people and for programs.

use std::fmt;

use serde_json::{Value, json};

/// What was looked at, in the order it was looked at.
#[derive(Debug, Default)]
pub(super) struct Report {
    checks: Vec<Check>,
}

#[derive(Debug)]
struct Check {
    section: &'static str,
    name: String,
    status: Status,
    found: String,
    advice: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Status {
    /// As it should be.
    Ok,
    /// Transfers work without it.
    Note,
    /// Transfers cannot work without it.
    Missing,
}

impl Report {
    pub(super) fn ok_for(
        &mut self,
        section: &'static str,
        name: impl Into<String>,
        found: impl Into<String>,
    ) {
        self.add(section, name.into(), Status::Ok, found.into(), None);
    }

    /// Something optional that is missing or could be better.
    pub(super) fn note(
        &mut self,
        section: &'static str,
        name: impl Into<String>,
        found: impl Into<String>,
        advice: Option<String>,
    ) {
        self.add(section, name.into(), Status::Note, found.into(), advice);
    }

    /// Something without which transfers cannot work.
    pub(super) fn missing(
        &mut self,
        section: &'static str,
        name: impl Into<String>,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) {
        let advice = Some(advice.into());
        self.add(section, name.into(), Status::Missing, found.into(), advice);
    }

    /// Whether transfers can work.
    pub(super) fn ok(&self) -> bool {
        self.count(Status::Missing) == 0
    }

    pub(super) fn to_json(&self) -> Vec<Value> {
        self.checks
            .iter()
            .map(|check| {
                json!({
                    "section": check.section,
                    "name": check.name,
                    "status": check.status.name(),
                    "found": check.found,
                    "advice": check.advice,
                })
            })
            .collect()
    }

    fn add(
        &mut self,
        section: &'static str,
        name: String,
        status: Status,
        found: String,
        advice: Option<String>,
    ) {
        self.checks.push(Check { section, name, status, found, advice });
    }

    fn count(&self, status: Status) -> usize {
        self.checks.iter().filter(|check| check.status == status).count()
    }
}

impl Status {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Missing => "missing",
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.checks.iter().map(|check| check.name.len()).max();
        let width = width.unwrap_or(0);
        let mut section = "";
        for check in &self.checks {
            if section != check.section {
                section = check.section;
                writeln!(f, "{section}")?;
            }
            let mark = match check.status {
                Status::Missing => "MISSING",
                other => other.name(),
            };
            writeln!(f, "  {mark:<7}  {:<width$}  {}", check.name, check.found)?;
            if let Some(advice) = &check.advice {
                writeln!(f, "  {:<7}  {:<width$}  -> {advice}", "", "")?;
            }
        }
        match self.count(Status::Missing) {
            0 => write!(f, "\nTransfers can work here."),
            count => {
                write!(f, "\nTransfers cannot work here: {count} missing, with what to do above.")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_missing_spoils_it() {
        let mut report = Report::default();
        report.ok_for("NIXL", "library", "/lib/x.so");
        report.note("plugins", "GDS", "no libcufile", None);
        assert!(report.ok());
        report.missing("plugins", "UCX", "no libucp", "reinstall");
        assert!(!report.ok());
    }

    #[test]
    fn text_names_sections_once_and_gives_advice() {
        let mut report = Report::default();
        report.ok_for("NIXL", "library", "/lib/x.so");
        report.missing("NIXL", "UCX", "no libucp", "reinstall");
        assert_eq!(
            report.to_string(),
            "NIXL\n\
             \x20 ok       library  /lib/x.so\n\
             \x20 MISSING  UCX      no libucp\n\
             \x20                   -> reinstall\n\
             \n\
             Transfers cannot work here: 1 missing, with what to do above."
        );
    }

    #[test]
    fn json_has_the_same() {
        let mut report = Report::default();
        report.note("limits", "memlock", "8 MiB", Some("raise it".into()));
        assert_eq!(
            report.to_json(),
            [json!({
                "section": "limits",
                "name": "memlock",
                "status": "note",
                "found": "8 MiB",
                "advice": "raise it",
            })]
        );
    }
}
