//! Requests of HTTP, whose answers are bounded.
#![cfg_attr(
    not(feature = "channel-http"),
    allow(unreachable_pub, reason = "the module of HTTP exports the options")
)]

use std::fmt;

use reqwest::{Client, Response, StatusCode, Url};

use super::{ChannelError, Exposure};

/// Options of a client. `Debug` shows no token and no key.
#[derive(Clone, Default)]
pub struct HttpOptions {
    token: Option<String>,
    #[cfg(feature = "channel-tls")]
    tls: Option<rustls::ClientConfig>,
}

impl HttpOptions {
    /// Without a token, and without TLS.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Shows this bearer token.
    #[must_use]
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// The TLS of `https` addresses. A client certificate is part of the configuration.
    #[cfg(feature = "channel-tls")]
    #[must_use]
    pub fn tls(mut self, config: rustls::ClientConfig) -> Self {
        self.tls = Some(config);
        self
    }

    /// A client, and the exposure of its connections to an address.
    pub(crate) fn client(self, url: &Url) -> Result<(Client, Exposure), ChannelError> {
        let down = |error: reqwest::Error| ChannelError::down(&place(url), error);
        // Redirects would take the metadata elsewhere, and proxies of the environment too.
        let mut client = Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy();
        if let Some(token) = self.token {
            let mut value = reqwest::header::HeaderValue::try_from(format!("Bearer {token}"))
                .map_err(|_| {
                    ChannelError::refused("the token has characters that HTTP cannot carry")
                })?;
            value.set_sensitive(true);
            client = client
                .default_headers([(reqwest::header::AUTHORIZATION, value)].into_iter().collect());
        }
        let is_tls = url.scheme() == "https";
        #[cfg(feature = "channel-tls")]
        match self.tls {
            Some(config) => client = client.use_preconfigured_tls(config),
            None if is_tls => {
                return Err(ChannelError::refused("an https address needs a TLS configuration"));
            }
            None => client = client.use_preconfigured_tls(super::tls::none()?),
        }
        #[cfg(not(feature = "channel-tls"))]
        if is_tls {
            return Err(ChannelError::refused("an https address needs the feature `channel-tls`"));
        }
        let exposure = Exposure::of(url.host_str().unwrap_or_default(), is_tls);
        Ok((client.build().map_err(down)?, exposure))
    }
}

impl fmt::Debug for HttpOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpOptions")
            .field("has_token", &self.token.is_some())
            .finish_non_exhaustive()
    }
}

/// An address of HTTP, without a user and a password, which are no credentials here.
pub(crate) fn parse(text: &str) -> Result<Url, ChannelError> {
    let url = Url::parse(text).ok().filter(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
    });
    url.ok_or_else(|| {
        ChannelError::refused(
            "the address of a channel is http:// or https://, a host, and no password",
        )
    })
}

/// The address for errors: no query.
pub(crate) fn place(url: &Url) -> String {
    let mut shown = url.clone();
    shown.set_query(None);
    shown.set_fragment(None);
    shown.to_string().trim_end_matches('/').to_owned()
}

/// The response to a request, unless it failed or was refused.
pub(crate) fn accepted(
    sent: reqwest::Result<Response>,
    place: &str,
    limit: usize,
) -> Result<Response, ChannelError> {
    let response = match sent {
        Ok(response) => response,
        #[cfg(feature = "channel-tls")]
        Err(error) if super::tls::is_refusal(&error) => {
            return Err(ChannelError::Unauthorized { place: place.to_owned() });
        }
        Err(error) if error.is_connect() => {
            return Err(ChannelError::down(place, error.without_url()));
        }
        Err(error) => return Err(ChannelError::lost(place, error.without_url())),
    };
    match response.status() {
        StatusCode::OK => Ok(response),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            Err(ChannelError::Unauthorized { place: place.to_owned() })
        }
        StatusCode::PAYLOAD_TOO_LARGE => Err(ChannelError::TooLarge { len: limit, limit }),
        // Of proxies before a server that is down.
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
            Err(ChannelError::Lost { place: place.to_owned(), source: None })
        }
        status => Err(ChannelError::refused(&format!("{place} answered {status}"))),
    }
}

/// The body of a response, up to a limit.
pub(crate) async fn body(
    mut response: Response,
    place: &str,
    limit: usize,
) -> Result<Vec<u8>, ChannelError> {
    if let Some(len) = response.content_length().filter(|len| *len > limit as u64) {
        return Err(ChannelError::TooLarge {
            len: usize::try_from(len).unwrap_or(usize::MAX),
            limit,
        });
    }
    let mut bytes = Vec::new();
    let lost = |error: reqwest::Error| ChannelError::lost(place, error.without_url());
    while let Some(piece) = response.chunk().await.map_err(lost)? {
        let len = bytes.len() + piece.len();
        if len > limit {
            return Err(ChannelError::TooLarge { len, limit });
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}
