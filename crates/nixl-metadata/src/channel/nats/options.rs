//! Options of a client of NATS.

use std::fmt;
use std::time::Duration;

use async_nats::ConnectOptions;

use crate::channel::ChannelError;

/// Options of a client. `Debug` shows no credentials and no key.
#[derive(Clone, Default)]
pub struct NatsOptions {
    pub(super) prefix: Option<String>,
    credentials: Credentials,
    tls: Option<rustls::ClientConfig>,
}

#[derive(Clone, Default)]
enum Credentials {
    #[default]
    None,
    User(String, String),
    Token(String),
    Nkey(String),
    /// The text of a `.creds` file.
    File(String),
}

impl NatsOptions {
    /// The bucket and the subjects `nixl`, no credentials, no TLS.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the name of the bucket, and the first token of the subjects: letters, digits, `-` and `_`.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = Some(prefix.into());
        self
    }

    /// Authenticates as this user.
    #[must_use]
    pub fn user(mut self, name: impl Into<String>, password: impl Into<String>) -> Self {
        self.credentials = Credentials::User(name.into(), password.into());
        self
    }

    /// Authenticates by a token.
    #[must_use]
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.credentials = Credentials::Token(token.into());
        self
    }

    /// Authenticates by the seed of an NKEY.
    #[must_use]
    pub fn nkey(mut self, seed: impl Into<String>) -> Self {
        self.credentials = Credentials::Nkey(seed.into());
        self
    }

    /// Authenticates by the text of a file of credentials: a JWT and a seed.
    #[must_use]
    pub fn credentials(mut self, text: impl Into<String>) -> Self {
        self.credentials = Credentials::File(text.into());
        self
    }

    /// Requires TLS. A client certificate is part of the configuration.
    #[must_use]
    pub fn tls(mut self, config: rustls::ClientConfig) -> Self {
        self.tls = Some(config);
        self
    }

    pub(super) const fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// The options of the library, and the bucket's name.
    pub(super) fn build(self) -> Result<(ConnectOptions, String), ChannelError> {
        let prefix = self.prefix.unwrap_or_else(|| "nixl".to_owned());
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if prefix.is_empty() || prefix.len() > 64 || !prefix.chars().all(is_plain) {
            return Err(ChannelError::refused(
                "the prefix of a channel over NATS is 1 to 64 letters, digits, `-` and `_`",
            ));
        }
        let options = ConnectOptions::new()
            .retry_on_initial_connect()
            .connection_timeout(Duration::from_secs(2))
            .request_timeout(None)
            // Each is at most as long as the server's limit, and taken at once.
            .subscription_capacity(64)
            .client_capacity(64)
            .reconnect_delay_callback(|attempts| {
                let attempts = u64::try_from(attempts).unwrap_or(u64::MAX);
                Duration::from_millis(attempts.saturating_mul(50).min(500))
            });
        let options = match self.credentials {
            Credentials::None => options,
            Credentials::User(name, password) => options.user_and_password(name, password),
            Credentials::Token(token) => options.token(token),
            Credentials::Nkey(seed) => options.nkey(seed),
            Credentials::File(text) => options.credentials(&text).map_err(|_| {
                ChannelError::refused("the credentials are no JWT and seed of NATS")
            })?,
        };
        let options = match self.tls {
            Some(config) => options.tls_client_config(config).require_tls(true),
            None => options,
        };
        Ok((options, prefix))
    }
}

impl fmt::Debug for NatsOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsOptions")
            .field("prefix", &self.prefix)
            .field("is_tls", &self.is_tls())
            .finish_non_exhaustive()
    }
}
