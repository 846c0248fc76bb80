//! A promise beside what was measured.

/// A measured value beside its limit.
pub(crate) struct Figure {
    pub(crate) text: String,
    /// None if it was not measured.
    pub(crate) passes: Option<bool>,
}

/// The line for a promise that is kept if all its figures pass.
pub(crate) fn line(what: &str, figures: Vec<Figure>) -> String {
    let missing = figures.is_empty() || figures.iter().any(|f| f.passes.is_none());
    let fails = figures.iter().any(|f| f.passes == Some(false));
    let verdict = match (fails, missing) {
        (true, _) => "FAIL",
        (false, true) => "NOT MEASURED",
        (false, false) => "PASS",
    };
    let figures: Vec<_> = figures.into_iter().map(|figure| figure.text).collect();
    format!("{verdict}  {what}: {}", figures.join("; "))
}
