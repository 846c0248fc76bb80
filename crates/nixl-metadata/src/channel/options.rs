//! Options of channels, and the policy of unsealed metadata.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use super::ChannelError;
#[cfg(feature = "seal")]
use crate::seal::Seals;

/// Where the messages of a channel pass.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Exposure {
    /// Within this host: inside the process, over loopback or a Unix socket.
    ThisHost,
    /// Over TLS.
    Tls,
    /// In the clear, to the host of this name.
    Open(String),
}

impl Exposure {
    /// That of a connection to a host, by its name or address.
    pub(crate) fn of(host: &str, is_tls: bool) -> Self {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let is_loopback = bare.eq_ignore_ascii_case("localhost")
            || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        match (is_tls, is_loopback) {
            (true, _) => Self::Tls,
            (false, true) => Self::ThisHost,
            (false, false) => Self::Open(bare.to_owned()),
        }
    }
}

/// Limits and times of a channel. `Debug` shows no key.
#[derive(Clone)]
pub struct ChannelOptions {
    life_time: Duration,
    call_time: Duration,
    max_bytes: usize,
    inbox_depth: usize,
    unsealed: Vec<String>,
    #[cfg(feature = "seal")]
    seals: Option<std::sync::Arc<Seals>>,
}

impl Default for ChannelOptions {
    fn default() -> Self {
        Self {
            life_time: Duration::from_secs(10),
            call_time: Duration::from_secs(5),
            max_bytes: 1 << 20,
            inbox_depth: 64,
            unsealed: Vec::new(),
            #[cfg(feature = "seal")]
            seals: None,
        }
    }
}

impl ChannelOptions {
    /// Entries that live 10 s, calls of 5 s, messages of 1 MiB, 64 requests in an inbox, no seals.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets how long an entry lives that is not renewed; the owner renews it after a third of that. etcd has at least 2 s; NATS
    /// has that of the bucket, which its first user makes.
    #[must_use]
    pub const fn life_time(mut self, time: Duration) -> Self {
        self.life_time = time;
        self
    }

    /// Sets how long a call may take that is not a request, with its repetitions.
    #[must_use]
    pub const fn call_time(mut self, time: Duration) -> Self {
        self.call_time = time;
        self
    }

    /// Sets the longest payload, sent or received, in bytes, with its seal.
    #[must_use]
    pub const fn max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// Tokio's channels have a bound, beyond which they panic.
    const DEEPEST: usize = 1_000_000;

    /// Sets how many requests wait in an inbox; further ones are refused by [`ChannelError::Full`]. From 1 to a
    /// million; others count as the next of these.
    #[must_use]
    pub const fn inbox_depth(mut self, requests: usize) -> Self {
        self.inbox_depth = match requests {
            0 => 1,
            1..=Self::DEEPEST => requests,
            _ => Self::DEEPEST,
        };
        self
    }

    /// Allows unsealed metadata to travel to and from this host without TLS. The text is compared with the host of the channel's
    /// address.
    #[must_use]
    pub fn allow_unsealed(mut self, host: impl Into<String>) -> Self {
        self.unsealed.push(host.into());
        self
    }

    /// Seals what is sent, and refuses what has no seal that holds: entries, requests and replies.
    #[cfg(feature = "seal")]
    #[must_use]
    pub fn seals(mut self, seals: Seals) -> Self {
        self.seals = Some(std::sync::Arc::new(seals));
        self
    }

    /// The same, for one that neither seals nor opens.
    #[cfg_attr(not(feature = "seal"), expect(unused_mut, reason = "without seals it is the same"))]
    pub(crate) fn without_seals(mut self) -> Self {
        #[cfg(feature = "seal")]
        {
            self.seals = None;
        }
        self
    }

    pub(crate) const fn life(&self) -> Duration {
        self.life_time
    }

    pub(crate) const fn call(&self) -> Duration {
        self.call_time
    }

    pub(crate) const fn limit(&self) -> usize {
        self.max_bytes
    }

    pub(crate) const fn depth(&self) -> usize {
        self.inbox_depth
    }

    #[cfg(feature = "seal")]
    pub(crate) fn sealed_by(&self) -> Option<&Seals> {
        self.seals.as_deref()
    }

    /// Refuses a payload that is too long.
    pub(crate) const fn fits(&self, len: usize) -> Result<(), ChannelError> {
        if len > self.max_bytes {
            return Err(ChannelError::TooLarge { len, limit: self.max_bytes });
        }
        Ok(())
    }

    /// Refuses a channel over which metadata would travel in the clear.
    pub(crate) fn allows(&self, exposure: &Exposure) -> Result<(), ChannelError> {
        #[cfg(feature = "seal")]
        if self.seals.as_ref().is_some_and(|seals| seals.are_encrypted()) {
            return Ok(());
        }
        self.allows_unsealed(exposure)
    }

    /// Refuses unsealed metadata where it would travel in the clear. A server neither seals nor opens: seals in its options say nothing
    /// about what it passes on.
    pub(crate) fn allows_unsealed(&self, exposure: &Exposure) -> Result<(), ChannelError> {
        let Exposure::Open(host) = exposure else { return Ok(()) };
        if self.unsealed.iter().any(|allowed| allowed.eq_ignore_ascii_case(host)) {
            return Ok(());
        }
        Err(ChannelError::Unsealed { host: host.clone() })
    }
}

impl fmt::Debug for ChannelOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelOptions")
            .field("life_time", &self.life_time)
            .field("call_time", &self.call_time)
            .field("max_bytes", &self.max_bytes)
            .field("inbox_depth", &self.inbox_depth)
            .field("unsealed", &self.unsealed)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_this_host() {
        for host in ["127.0.0.1", "127.9.9.9", "[::1]", "::1", "localhost"] {
            assert_eq!(Exposure::of(host, false), Exposure::ThisHost, "{host}");
        }
        for host in ["10.0.0.1", "0.0.0.0", "::", "localhost.example.org", "metadata"] {
            assert_eq!(Exposure::of(host, false), Exposure::Open(host.to_owned()), "{host}");
            assert_eq!(Exposure::of(host, true), Exposure::Tls, "{host}");
        }
    }

    #[test]
    fn a_host_is_allowed_by_its_name_alone() {
        let open = Exposure::of("metadata", false);
        let refused = ChannelOptions::new().allow_unsealed("other").allows(&open);
        assert!(matches!(refused, Err(ChannelError::Unsealed { host }) if host == "metadata"));
        assert!(ChannelOptions::new().allow_unsealed("metadata").allows(&open).is_ok());
        assert!(ChannelOptions::new().allows(&Exposure::Tls).is_ok());
    }
}
