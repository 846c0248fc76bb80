//! The claims in a seal, and their checks.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::SealError;
use crate::channel::{Incarnation, WorkerName};

/// The place to which a seal is bound.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Binding<'a> {
    Entry(&'a WorkerName, Incarnation),
    /// To a worker; with the id, or to be opened with any.
    Request(&'a WorkerName, Option<&'a str>),
    /// From a worker, to the request of this id.
    Reply(&'a WorkerName, &'a str),
}

impl<'a> Binding<'a> {
    const fn usage(self) -> &'static str {
        match self {
            Self::Entry(..) => "entry",
            Self::Request(..) => "request",
            Self::Reply(..) => "reply",
        }
    }

    const fn worker(self) -> &'a WorkerName {
        match self {
            Self::Entry(name, _) | Self::Request(name, _) | Self::Reply(name, _) => name,
        }
    }

    /// Whether it may be sealed by this worker: requests are sealed by others.
    pub(super) fn may_be_of(self, worker: &WorkerName) -> bool {
        matches!(self, Self::Request(..)) || self.worker() == worker
    }

    const fn incarnation(self) -> Option<u64> {
        match self {
            Self::Entry(_, incarnation) => Some(incarnation.value()),
            _ => None,
        }
    }

    const fn id(self) -> Option<&'a str> {
        match self {
            Self::Entry(..) => None,
            Self::Request(_, id) => id,
            Self::Reply(_, id) => Some(id),
        }
    }
}

/// The claims, with their names in PASETO.
#[derive(Serialize, Deserialize)]
pub(super) struct Claims {
    aud: String,
    sub: String,
    exp: String,
    iat: String,
    #[serde(rename = "use")]
    usage: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    inc: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    jti: Option<String>,
    data: String,
}

/// Differences of the hosts' clocks that are no error.
pub(super) const SKEW: Duration = Duration::from_secs(5);

/// What a seal held.
pub(super) struct Opened {
    pub(super) data: Bytes,
    pub(super) id: Option<String>,
    /// How long the seal holds from now on.
    pub(super) left: Duration,
}

fn written(time: OffsetDateTime, claim: &'static str) -> Result<String, SealError> {
    time.format(&Rfc3339).map_err(|_| SealError::BadClaim { claim })
}

fn read(text: &str, claim: &'static str) -> Result<OffsetDateTime, SealError> {
    OffsetDateTime::parse(text, &Rfc3339).map_err(|_| SealError::BadClaim { claim })
}

impl Claims {
    pub(super) fn new(
        binding: Binding<'_>,
        audience: &str,
        now: SystemTime,
        valid: Duration,
        data: &[u8],
    ) -> Result<Self, SealError> {
        let now = OffsetDateTime::from(now);
        let valid = time::Duration::try_from(valid).ok();
        let ends = valid.and_then(|valid| now.checked_add(valid));
        let ends = ends.ok_or(SealError::BadClaim { claim: "exp" })?;
        Ok(Self {
            aud: audience.to_owned(),
            sub: binding.worker().as_str().to_owned(),
            exp: written(ends, "exp")?,
            iat: written(now, "iat")?,
            usage: binding.usage().to_owned(),
            inc: binding.incarnation(),
            jti: binding.id().map(str::to_owned),
            data: URL_SAFE_NO_PAD.encode(data),
        })
    }

    /// What the seal holds, if the claims are those of the place, the audience and the time.
    pub(super) fn check(
        self,
        binding: Binding<'_>,
        audience: &str,
        now: SystemTime,
    ) -> Result<Opened, SealError> {
        let now = OffsetDateTime::from(now);
        if self.aud != audience {
            return Err(SealError::OtherAudience);
        }
        let left = Duration::try_from(read(&self.exp, "exp")? - now).unwrap_or_default();
        if left.is_zero() {
            return Err(SealError::Expired);
        }
        if read(&self.iat, "iat")?
            > now.saturating_add(time::Duration::new(SKEW.as_secs() as i64, 0))
        {
            return Err(SealError::NotYet);
        }
        let other = |what| Err(SealError::OtherPlace { what });
        if self.usage != binding.usage() {
            return other("kind of message");
        }
        if self.sub != binding.worker().as_str() {
            return other("worker");
        }
        if self.inc != binding.incarnation() {
            return other("start of the worker");
        }
        match (binding, &self.jti) {
            (Binding::Request(_, None), None) => return Err(SealError::BadClaim { claim: "jti" }),
            (Binding::Request(_, None), Some(_)) => {}
            (binding, found) if found.as_deref() != binding.id() => return other("request"),
            _ => {}
        }
        let data = URL_SAFE_NO_PAD.decode(&self.data);
        let data = data.map_err(|_| SealError::BadClaim { claim: "data" })?.into();
        Ok(Opened { data, id: self.jti, left })
    }
}
