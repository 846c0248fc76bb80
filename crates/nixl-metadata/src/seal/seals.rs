//! Sealers and openers.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, RwLock};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use nixl_device::locks::{read, write};
use pasetors::token::UntrustedToken;
use pasetors::version4::{LocalToken, PublicToken, V4};
use pasetors::{Local, Public};

use super::claims::{Binding, Claims, Opened, SKEW};
use super::key::{Opening, Sealing};
use super::{OpenKey, SealError, SealKey};
use crate::channel::WorkerName;

/// The longest token, in bytes.
const MAX_TOKEN: usize = 64 << 20;

/// The longest footer, in bytes in base64: a key id and a little.
const MAX_FOOTER: usize = 256;

/// The time of day.
type Now = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// Seals messages by one key, for an audience, with an expiry.
#[derive(Clone)]
pub struct Sealer {
    key: SealKey,
    footer: String,
    audience: String,
    valid: Duration,
    now: Now,
}

impl Sealer {
    /// Seals for an audience. A seal holds for `valid`; the seal of an entry is made anew after a third of that.
    ///
    /// # Errors
    ///
    /// [`SealError::BadKey`] for a key that has no id.
    pub fn new(
        key: SealKey,
        audience: impl Into<String>,
        valid: Duration,
    ) -> Result<Self, SealError> {
        // Ids of PASERK have nothing to escape.
        let footer = format!("{{\"kid\":\"{}\"}}", key.id()?);
        Ok(Self { key, footer, audience: audience.into(), valid, now: Arc::new(SystemTime::now) })
    }

    /// Takes the time from this clock.
    #[must_use]
    pub fn clock(mut self, now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        self.now = Arc::new(now);
        self
    }

    const fn is_encrypted(&self) -> bool {
        matches!(self.key.0, Sealing::Local(_))
    }

    fn seal(
        &self,
        within: Duration,
        binding: Binding<'_>,
        data: &[u8],
    ) -> Result<String, SealError> {
        if data.len() > MAX_TOKEN / 2 {
            return Err(SealError::TooLarge { len: data.len(), limit: MAX_TOKEN / 2 });
        }
        let valid = self.valid.min(within.saturating_add(SKEW));
        let claims = Claims::new(binding, &self.audience, (self.now)(), valid, data)?;
        let claims =
            serde_json::to_vec(&claims).map_err(|_| SealError::BadClaim { claim: "data" })?;
        let footer = Some(self.footer.as_bytes());
        let sealed = match &self.key.0 {
            Sealing::Local(key) => LocalToken::encrypt(key, &claims, footer, None),
            Sealing::Secret(key) => PublicToken::sign(key, &claims, footer, None),
        };
        sealed.map_err(|_| SealError::BadKey)
    }
}

/// Opens seals that were made for its audience by one of its keys.
#[derive(Clone)]
pub struct Opener {
    keys: HashMap<String, OpenKey>,
    audience: String,
    now: Now,
}

impl Opener {
    /// Opens what was sealed for an audience by any of these keys.
    ///
    /// # Errors
    ///
    /// [`SealError::BadKey`] for a key that has no id.
    pub fn new(
        keys: impl IntoIterator<Item = OpenKey>,
        audience: impl Into<String>,
    ) -> Result<Self, SealError> {
        let keys = keys.into_iter().map(|key| Ok((key.id()?, key)));
        let keys = keys.collect::<Result<_, _>>()?;
        Ok(Self { keys, audience: audience.into(), now: Arc::new(SystemTime::now) })
    }

    /// Takes the time from this clock.
    #[must_use]
    pub fn clock(mut self, now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        self.now = Arc::new(now);
        self
    }

    fn open(&self, binding: Binding<'_>, token: &[u8]) -> Result<Opened, SealError> {
        if token.len() > MAX_TOKEN {
            return Err(SealError::TooLarge { len: token.len(), limit: MAX_TOKEN });
        }
        let token = std::str::from_utf8(token).map_err(|_| SealError::NotSealed)?;
        let key = self.key(token)?;
        if key.worker.as_ref().is_some_and(|worker| !binding.may_be_of(worker)) {
            return Err(SealError::OtherPlace { what: "worker" });
        }
        let opened = match &key.opening {
            Opening::Local(key) => {
                let untrusted = UntrustedToken::<Local, V4>::try_from(token);
                let untrusted = untrusted.map_err(|_| SealError::NotSealed)?;
                LocalToken::decrypt(key, &untrusted, None, None)
            }
            Opening::Public(key) => {
                let untrusted = UntrustedToken::<Public, V4>::try_from(token);
                let untrusted = untrusted.map_err(|_| SealError::NotSealed)?;
                PublicToken::verify(key, &untrusted, None, None)
            }
        };
        let opened = opened.map_err(|_| SealError::Forged)?;
        let claims: Claims = serde_json::from_str(opened.payload())
            .map_err(|_| SealError::BadClaim { claim: "any" })?;
        claims.check(binding, &self.audience, (self.now)())
    }

    /// The key that the footer names.
    fn key(&self, token: &str) -> Result<&OpenKey, SealError> {
        use base64::Engine as _;

        #[derive(serde::Deserialize)]
        struct Footer<'a> {
            kid: &'a str,
        }

        let (_, footer) = token.rsplit_once('.').ok_or(SealError::NotSealed)?;
        let is_token =
            token.starts_with(LocalToken::HEADER) || token.starts_with(PublicToken::HEADER);
        if !is_token || footer.len() > MAX_FOOTER {
            return Err(SealError::NotSealed);
        }
        let footer = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(footer);
        let footer = footer.map_err(|_| SealError::NotSealed)?;
        let footer: Footer<'_> =
            serde_json::from_slice(&footer).map_err(|_| SealError::UnknownKey)?;
        self.keys.get(footer.kid).ok_or(SealError::UnknownKey)
    }
}

/// The seals of a channel: one key for what it sends, any number for what it receives. Clones share them.
#[derive(Clone, Debug)]
pub struct Seals(Arc<RwLock<Arc<Keys>>>);

#[derive(Debug)]
struct Keys {
    /// How often they were replaced.
    number: u64,
    sealer: Sealer,
    opener: Opener,
}

impl Seals {
    /// Seals what a channel sends, and opens what it receives.
    #[must_use]
    pub fn new(sealer: Sealer, opener: Opener) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(Keys { number: 0, sealer, opener }))))
    }

    /// Replaces the keys of all channels that have these seals. Published entries are sealed anew by their next renewal.
    ///
    /// # Errors
    ///
    /// [`SealError::NotSecret`] if the seals are encrypted and the new sealer only signs: the channels may be in the clear.
    pub fn replace(&self, sealer: Sealer, opener: Opener) -> Result<(), SealError> {
        let mut keys = write(&self.0);
        if keys.sealer.is_encrypted() && !sealer.is_encrypted() {
            return Err(SealError::NotSecret);
        }
        *keys = Arc::new(Keys { number: keys.number.wrapping_add(1), sealer, opener });
        Ok(())
    }

    /// Whether the seals are encrypted: signed metadata can be read by others.
    #[must_use]
    pub fn are_encrypted(&self) -> bool {
        self.keys().sealer.is_encrypted()
    }

    fn keys(&self) -> Arc<Keys> {
        Arc::clone(&read(&self.0))
    }

    /// The number of the keys, and how long a seal holds.
    pub(crate) fn terms(&self) -> (u64, Duration) {
        let keys = self.keys();
        (keys.number, keys.sealer.valid)
    }

    pub(crate) fn seal(&self, binding: Binding<'_>, data: &[u8]) -> Result<Bytes, SealError> {
        self.seal_for(Duration::MAX, binding, data)
    }

    /// Seals what is of no use to its receiver later.
    pub(crate) fn seal_for(
        &self,
        within: Duration,
        binding: Binding<'_>,
        data: &[u8],
    ) -> Result<Bytes, SealError> {
        self.keys().sealer.seal(within, binding, data).map(Bytes::from)
    }

    pub(crate) fn open(&self, binding: Binding<'_>, token: &[u8]) -> Result<Bytes, SealError> {
        self.keys().opener.open(binding, token).map(|opened| opened.data)
    }

    /// Seals bytes that should be claims.
    #[cfg(any(test, fuzzing))]
    pub(super) fn sealed_claims(&self, claims: &[u8]) -> Result<Vec<u8>, SealError> {
        let keys = self.keys();
        let Sealing::Local(key) = &keys.sealer.key.0 else { return Err(SealError::BadKey) };
        let sealed = LocalToken::encrypt(key, claims, Some(keys.sealer.footer.as_bytes()), None);
        sealed.map(String::into_bytes).map_err(|_| SealError::BadKey)
    }

    /// Opens a request of any id, and returns that, and how long the seal holds from now on.
    pub(crate) fn open_request(
        &self,
        to: &WorkerName,
        token: &[u8],
    ) -> Result<(Bytes, String, Duration), SealError> {
        let Opened { data, id, left } =
            self.keys().opener.open(Binding::Request(to, None), token)?;
        Ok((data, id.ok_or(SealError::BadClaim { claim: "jti" })?, left))
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer")
            .field("key", &self.key)
            .field("audience", &self.audience)
            .field("valid", &self.valid)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opener")
            .field("keys", &self.keys.keys())
            .field("audience", &self.audience)
            .finish_non_exhaustive()
    }
}
