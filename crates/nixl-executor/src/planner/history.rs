//! The paths that have failed recently or were tried already, for one operation.

use std::borrow::Cow;

use nixl_ops::PathKind;

use super::kinds::{order, same};

/// What happened before: paths that failed lately, which come last; those that this operation has tried, which are not tried
/// again; those that took longer or less than estimated, and the path of the last operation. Empty, it takes no memory.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PathHistory {
    in_cooldown: Reasons,
    tried: Reasons,
    slow: Vec<(PathKind, f64)>,
    fast: Vec<(PathKind, f64)>,
    current: Option<PathKind>,
    /// A bit for each kind that worked the last time.
    proven: u16,
}

impl PathHistory {
    /// The path of the last operation is left only for one that is better by so much.
    pub const HYSTERESIS: f64 = 1.3;

    /// A history without failures: no path is excluded.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether no path is excluded.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.in_cooldown.is_empty() && self.tried.is_empty() && self.slow.is_empty()
    }

    /// Notes that a path failed lately.
    pub fn note_cooldown(&mut self, kind: PathKind, reason: impl Into<Cow<'static, str>>) {
        note(&mut self.in_cooldown, kind, reason.into());
    }

    /// Notes that a path failed for this operation.
    pub fn note_tried(&mut self, kind: PathKind, reason: impl Into<Cow<'static, str>>) {
        note(&mut self.tried, kind, reason.into());
    }

    /// Notes that a path takes so many times its estimate.
    pub fn note_slow(&mut self, kind: PathKind, factor: f64) {
        self.slow.retain(|(known, _)| !same(*known, kind));
        self.slow.push((kind, factor));
    }

    /// Notes that a path takes so small a part of its estimate.
    pub fn note_fast(&mut self, kind: PathKind, factor: f64) {
        self.fast.retain(|(known, _)| !same(*known, kind));
        self.fast.push((kind, factor));
    }

    /// Notes the path of the last operation.
    pub fn note_current(&mut self, kind: PathKind) {
        self.current = Some(kind);
    }

    /// Notes that a path worked the last time.
    pub fn note_proven(&mut self, kind: PathKind) {
        self.proven |= bit(kind);
    }

    /// Whether a path worked the last time.
    #[must_use]
    pub fn is_proven(&self, kind: PathKind) -> bool {
        self.proven & bit(kind) != 0
    }

    /// How many times its estimate a path takes, if that is far more.
    #[must_use]
    pub fn slow(&self, kind: PathKind) -> Option<f64> {
        self.slow.iter().find(|(known, _)| same(*known, kind)).map(|(_, factor)| *factor)
    }

    /// The part of its estimate that a path takes, if that is far less.
    #[must_use]
    pub fn fast(&self, kind: PathKind) -> Option<f64> {
        self.fast.iter().find(|(known, _)| same(*known, kind)).map(|(_, factor)| *factor)
    }

    /// The path of the last operation.
    #[must_use]
    pub fn current(&self) -> Option<PathKind> {
        self.current
    }

    /// Why a path comes last.
    #[must_use]
    pub fn in_cooldown(&self, kind: PathKind) -> Option<&Cow<'static, str>> {
        find(&self.in_cooldown, kind)
    }

    /// How a path failed this operation.
    #[must_use]
    pub fn tried(&self, kind: PathKind) -> Option<&Cow<'static, str>> {
        find(&self.tried, kind)
    }
}

fn bit(kind: PathKind) -> u16 {
    1 << order(kind)
}

type Reasons = Vec<(PathKind, Cow<'static, str>)>;

fn note(list: &mut Reasons, kind: PathKind, reason: Cow<'static, str>) {
    list.retain(|(known, _)| !same(*known, kind));
    list.push((kind, reason));
}

fn find(list: &Reasons, kind: PathKind) -> Option<&Cow<'static, str>> {
    list.iter().find(|(known, _)| same(*known, kind)).map(|(_, reason)| reason)
}
