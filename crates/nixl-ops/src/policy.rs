//! The paths that a caller allows.

use std::borrow::Cow;

use crate::{Medium, PathKind};

/// The allowed paths of an operation. A policy that leaves none is an error before any byte moves.
///
/// ```
/// use nixl_ops::{Medium, PathKind, PathPolicy};
///
/// let policy = PathPolicy::auto().forbid_medium(Medium::Tcp).at_least_gbps(1.0);
/// assert!(policy.check(PathKind::Direct, Some(Medium::Tcp), None).is_err());
/// assert!(policy.check(PathKind::Direct, Some(Medium::Rdma), None).is_ok());
/// assert!(policy.check(PathKind::EngineStaged, None, Some(0.5)).is_err());
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PathPolicy {
    required: Option<PathKind>,
    preferred: Option<PathKind>,
    forbidden: u16,
    required_medium: Option<Medium>,
    forbidden_media: u8,
    floor_gbps: Option<f64>,
}

impl PathPolicy {
    /// Any path; the fastest is taken.
    #[must_use]
    pub fn auto() -> Self {
        Self::default()
    }

    /// This kind of path or an error. For [`PathKind::Local`] any strategy.
    #[must_use]
    pub fn require(mut self, kind: PathKind) -> Self {
        self.required = Some(kind);
        self
    }

    /// This kind of path if available, even if another is faster.
    #[must_use]
    pub fn prefer(mut self, kind: PathKind) -> Self {
        self.preferred = Some(kind);
        self
    }

    /// Any kind of path except this.
    #[must_use]
    pub fn forbid(mut self, kind: PathKind) -> Self {
        self.forbidden |= 1 << kind.index();
        self
    }

    /// Bytes that leave the process use this medium, or the operation is an error.
    #[must_use]
    pub fn require_medium(mut self, medium: Medium) -> Self {
        self.required_medium = Some(medium);
        self
    }

    /// Any medium except this.
    #[must_use]
    pub fn forbid_medium(mut self, medium: Medium) -> Self {
        self.forbidden_media |= 1 << medium.index();
        self
    }

    /// Only paths with an estimate of at least this many 1e9 bytes a second, for every size of operation. A path without an
    /// estimate passes.
    #[must_use]
    pub fn at_least_gbps(mut self, gbps: f64) -> Self {
        self.floor_gbps = Some(gbps);
        self
    }

    /// The kind preferred over faster ones.
    #[must_use]
    pub fn preferred(&self) -> Option<PathKind> {
        self.preferred
    }

    /// Whether a path of this kind is allowed, with this medium (`None`: the bytes do not leave the process, or the medium is
    /// unknown), at an estimate of so many 1e9 bytes a second.
    ///
    /// # Errors
    ///
    /// The reason against it.
    pub fn check(
        &self,
        kind: PathKind,
        medium: Option<Medium>,
        gbps: Option<f64>,
    ) -> Result<(), Cow<'static, str>> {
        if let Some(required) = self.required
            && required.index() != kind.index()
        {
            return Err(format!("the policy requires {}", required.class()).into());
        }
        if self.forbidden & (1 << kind.index()) != 0 {
            return Err("the policy forbids it".into());
        }
        if let Some(required) = self.required_medium
            && medium.is_some_and(|medium| medium != required)
        {
            return Err(format!("the policy requires {required}").into());
        }
        if let Some(medium) = medium
            && self.forbidden_media & (1 << medium.index()) != 0
        {
            return Err(format!("the policy forbids {medium}").into());
        }
        match (self.floor_gbps, gbps) {
            (Some(floor), Some(gbps)) if gbps < floor => {
                Err(format!("estimated at {gbps:.1} GB/s, below the policy's {floor:.1}").into())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_required_kind_leaves_only_itself() {
        let policy = PathPolicy::auto().require(PathKind::GpuDirect);
        for kind in PathKind::ALL {
            let verdict = policy.check(kind, None, None);
            assert_eq!(verdict.is_ok(), kind == PathKind::GpuDirect, "{kind}");
            if let Err(reason) = verdict {
                assert!(reason.contains("gpu-direct"), "{reason}");
            }
        }
    }

    #[test]
    fn any_strategy_counts_as_local() {
        let policy = PathPolicy::auto().require(PathKind::Local("any"));
        assert_eq!(policy.check(PathKind::Local("kernel"), None, None), Ok(()));
        let policy = PathPolicy::auto().forbid(PathKind::Local("copies"));
        assert!(policy.check(PathKind::Local("kernel"), None, None).is_err());
    }

    #[test]
    fn kinds_and_media_have_bits_of_their_own() {
        for forbidden in PathKind::ALL {
            let policy = PathPolicy::auto().forbid(forbidden);
            let allowed = PathKind::ALL.iter().filter(|k| policy.check(**k, None, None).is_ok());
            assert_eq!(allowed.count(), PathKind::ALL.len() - 1);
        }
        for forbidden in Medium::ALL {
            let policy = PathPolicy::auto().forbid_medium(forbidden);
            let direct = |c: &&Medium| policy.check(PathKind::Direct, Some(**c), None).is_ok();
            assert_eq!(Medium::ALL.iter().filter(direct).count(), Medium::ALL.len() - 1);
        }
    }

    #[test]
    fn what_stays_in_the_process_needs_no_medium() {
        let policy = PathPolicy::auto().require_medium(Medium::Rdma);
        assert_eq!(policy.check(PathKind::SameProcessCopy, None, None), Ok(()));
        assert!(policy.check(PathKind::Direct, Some(Medium::Tcp), None).is_err());
    }
}
