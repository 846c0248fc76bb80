//! Keys of seals, as PASERK writes them.

use std::fmt;

use pasetors::keys::{AsymmetricPublicKey, AsymmetricSecretKey, Generate as _, SymmetricKey};
use pasetors::paserk::{FormatAsPaserk, Id};
use pasetors::version4::V4;

use super::SealError;
use crate::channel::WorkerName;

/// A key that seals. `Debug` shows its kind and its id.
#[derive(Clone)]
pub struct SealKey(pub(super) Sealing);

/// The kinds of keys that seal.
#[derive(Clone)]
pub(super) enum Sealing {
    Local(SymmetricKey<V4>),
    Secret(AsymmetricSecretKey<V4>),
}

/// A key that opens seals. `Debug` shows its kind and its id.
#[derive(Clone)]
pub struct OpenKey {
    pub(super) opening: Opening,
    /// The only worker whose entries and replies it opens.
    pub(super) worker: Option<WorkerName>,
}

/// The kinds of keys that open.
#[derive(Clone)]
pub(super) enum Opening {
    Local(SymmetricKey<V4>),
    Public(AsymmetricPublicKey<V4>),
}

impl SealKey {
    /// Reads a key: `k4.local.…` encrypts, `k4.secret.…` signs.
    ///
    /// # Errors
    ///
    /// [`SealError::BadKey`].
    pub fn from_paserk(text: &str) -> Result<Self, SealError> {
        let text = text.trim();
        if text.starts_with("k4.local.") {
            return SymmetricKey::try_from(text)
                .map(|key| Self(Sealing::Local(key)))
                .map_err(|_| SealError::BadKey);
        }
        AsymmetricSecretKey::try_from(text)
            .map(|key| Self(Sealing::Secret(key)))
            .map_err(|_| SealError::BadKey)
    }

    /// A new key that encrypts, as text: `k4.local.…`.
    ///
    /// # Errors
    ///
    /// [`SealError::BadKey`] if the system has no random numbers.
    pub fn generate_local() -> Result<String, SealError> {
        let key = SymmetricKey::<V4>::generate().map_err(|_| SealError::BadKey)?;
        written(&key)
    }

    /// A new pair of keys, as text: `k4.secret.…` signs, `k4.public.…` verifies.
    ///
    /// # Errors
    ///
    /// [`SealError::BadKey`] if the system has no random numbers.
    pub fn generate_pair() -> Result<(String, String), SealError> {
        let pair = pasetors::keys::AsymmetricKeyPair::<V4>::generate();
        let pair = pair.map_err(|_| SealError::BadKey)?;
        Ok((written(&pair.secret)?, written(&pair.public)?))
    }

    /// The id by which openers find their key: `k4.lid.…`, or `k4.pid.…` of the public key.
    pub(super) fn id(&self) -> Result<String, SealError> {
        match &self.0 {
            Sealing::Local(key) => written(&Id::from(key)),
            Sealing::Secret(key) => {
                let public = AsymmetricPublicKey::try_from(key).map_err(|_| SealError::BadKey)?;
                written(&Id::from(&public))
            }
        }
    }
}

impl OpenKey {
    /// Reads a key: `k4.local.…` decrypts, `k4.public.…` verifies.
    ///
    /// # Errors
    ///
    /// [`SealError::BadKey`].
    pub fn from_paserk(text: &str) -> Result<Self, SealError> {
        let text = text.trim();
        if text.starts_with("k4.local.") {
            return SymmetricKey::try_from(text)
                .map(|key| Self { opening: Opening::Local(key), worker: None })
                .map_err(|_| SealError::BadKey);
        }
        AsymmetricPublicKey::try_from(text)
            .map(|key| Self { opening: Opening::Public(key), worker: None })
            .map_err(|_| SealError::BadKey)
    }

    /// Opens entries and replies of this worker alone: otherwise each holder of a key of an opener can speak for all workers.
    #[must_use]
    pub fn of_worker(mut self, name: WorkerName) -> Self {
        self.worker = Some(name);
        self
    }

    pub(super) fn id(&self) -> Result<String, SealError> {
        match &self.opening {
            Opening::Local(key) => written(&Id::from(key)),
            Opening::Public(key) => written(&Id::from(key)),
        }
    }
}

fn written(key: &impl FormatAsPaserk) -> Result<String, SealError> {
    let mut text = String::new();
    key.fmt(&mut text).map_err(|_| SealError::BadKey)?;
    Ok(text)
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SealKey").field(&self.id().unwrap_or_default()).finish()
    }
}

impl fmt::Debug for OpenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OpenKey").field(&self.id().unwrap_or_default()).finish()
    }
}
