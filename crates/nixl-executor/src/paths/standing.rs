//! How the paths stand for one operation.

use std::borrow::Cow;

use nixl_ops::PathKind;

use super::plan::same;

/// What speaks against paths that are there: those that failed [lately](super::Health), which come last, and those that
/// this operation has tried, which are not tried again. Empty, it takes no memory.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Standing {
    cooling: Reasons,
    tried: Reasons,
}

impl Standing {
    /// Nothing speaks against any.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether nothing speaks against any.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.cooling.is_empty() && self.tried.is_empty()
    }

    /// Notes that a path failed lately.
    pub fn note_cooling(&mut self, kind: PathKind, reason: impl Into<Cow<'static, str>>) {
        note(&mut self.cooling, kind, reason.into());
    }

    /// Notes that this operation tried a path in vain.
    pub fn note_tried(&mut self, kind: PathKind, reason: impl Into<Cow<'static, str>>) {
        note(&mut self.tried, kind, reason.into());
    }

    /// Why a path comes last.
    #[must_use]
    pub fn cooling(&self, kind: PathKind) -> Option<&Cow<'static, str>> {
        find(&self.cooling, kind)
    }

    /// How a path failed this operation.
    #[must_use]
    pub fn tried(&self, kind: PathKind) -> Option<&Cow<'static, str>> {
        find(&self.tried, kind)
    }
}

type Reasons = Vec<(PathKind, Cow<'static, str>)>;

fn note(list: &mut Reasons, kind: PathKind, reason: Cow<'static, str>) {
    list.retain(|(known, _)| !same(*known, kind));
    list.push((kind, reason));
}

fn find(list: &Reasons, kind: PathKind) -> Option<&Cow<'static, str>> {
    list.iter().find(|(known, _)| same(*known, kind)).map(|(_, reason)| reason)
}
