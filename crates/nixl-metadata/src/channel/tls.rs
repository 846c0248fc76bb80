//! The TLS of clients that make no use of it.

use std::sync::Arc;

use super::ChannelError;

/// A configuration that trusts no server, for a client of `http` addresses: without one, it would look for a provider of cryptography.
pub(crate) fn none() -> Result<rustls::ClientConfig, ChannelError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| ChannelError::down("TLS", error))?;
    Ok(config.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth())
}
