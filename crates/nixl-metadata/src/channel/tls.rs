//! TLS of clients.

#[cfg(any(feature = "channel-etcd", feature = "channel-http"))]
pub(crate) use http::{is_refusal, none};

/// Whether one side did not accept the other's certificate. Other errors are of a peer that speaks no TLS now, as a server at its limit
/// of connections, or a proxy.
pub(crate) const fn is_of_credentials(error: &rustls::Error) -> bool {
    matches!(
        error,
        rustls::Error::InvalidCertificate(_)
            | rustls::Error::AlertReceived(_)
            | rustls::Error::NoCertificatesPresented
    )
}

#[cfg(any(feature = "channel-etcd", feature = "channel-http"))]
mod http {
    use std::error::Error;
    use std::io;
    use std::sync::Arc;

    use crate::channel::ChannelError;

    /// A configuration that trusts no server, for a client of `http` addresses: without one, it would look for a provider of
    /// cryptography.
    pub(crate) fn none() -> Result<rustls::ClientConfig, ChannelError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| ChannelError::down("TLS", error))?;
        Ok(config.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth())
    }

    /// Whether a certificate was not accepted, rather than the connection failed.
    pub(crate) fn is_refusal(error: &(dyn Error + 'static)) -> bool {
        if let Some(error) = error.downcast_ref::<rustls::Error>() {
            return super::is_of_credentials(error);
        }
        // The source of an error of the system is that of the error inside it.
        match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inside) => is_refusal(inside),
            None => error.source().is_some_and(is_refusal),
        }
    }
}
