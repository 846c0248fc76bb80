//! Addresses of servers on sockets.

use std::fmt;
use std::path::PathBuf;

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TcpAddress {
    /// A host and a port, as `metadata.example.org:7700` or `[::1]:7700`.
    Tcp(String),
    /// The path of a Unix socket. Its file permissions say who may connect.
    Unix(PathBuf),
}

impl TcpAddress {
    /// The host of a TCP address.
    pub(super) fn host(&self) -> Option<&str> {
        match self {
            Self::Tcp(address) => {
                Some(address.rsplit_once(':').map_or(&**address, |(host, _)| host))
            }
            Self::Unix(_) => None,
        }
    }
}

/// `unix:` and a path are a Unix socket, everything else a host and a port.
impl From<&str> for TcpAddress {
    fn from(text: &str) -> Self {
        match text.strip_prefix("unix:") {
            Some(path) => Self::Unix(path.into()),
            None => Self::Tcp(text.to_owned()),
        }
    }
}

impl fmt::Display for TcpAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
