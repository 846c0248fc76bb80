//! TLS of clients of HTTP.

use std::error::Error;
use std::io;
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

/// Whether TLS itself failed, by a certificate for example, rather than the connection below it.
pub(crate) fn is_refusal(error: &(dyn Error + 'static)) -> bool {
    if error.is::<rustls::Error>() {
        return true;
    }
    // The source of an error of the system is that of the error inside it.
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(inside) => is_refusal(inside),
        None => error.source().is_some_and(is_refusal),
    }
}
