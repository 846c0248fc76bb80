//! Addresses on which peers' engines listen, checked before UCX connects.
//!
//! UCX leaks a file with each attempt to reach a peer that refuses, and a peer that cannot be reached now may be reachable in a
//! second. A connection of our own tells without leaking.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use nixl_device::TcpSocket;

/// The addresses to which UCX has connected for one peer.
#[derive(Clone, Debug, Default)]
pub(super) struct Endpoints(Vec<SocketAddr>);

/// The sockets of this process at one moment.
#[derive(Debug, Default)]
pub(super) struct Sockets(HashSet<u64>);

impl Sockets {
    pub(super) fn open_now() -> Self {
        let sockets = TcpSocket::all_of_this_process().unwrap_or_default();
        Self(sockets.into_iter().map(|socket| socket.inode).collect())
    }
}

impl Endpoints {
    /// How long a peer may take to accept a connection.
    const PATIENCE: Duration = Duration::from_millis(100);

    /// Where sockets that were opened since `before` lead, of those that the connection details name.
    pub(super) fn opened_since(before: &Sockets, details: &[&[u8]]) -> Self {
        let sockets = TcpSocket::all_of_this_process().unwrap_or_default();
        let new = sockets.into_iter().filter(|socket| !before.0.contains(&socket.inode));
        let named = |remote: &SocketAddr| details.iter().any(|details| names(details, remote));
        let mut remotes: Vec<_> = new.filter_map(|socket| socket.remote).filter(named).collect();
        remotes.sort_unstable();
        remotes.dedup();
        Self(remotes)
    }

    /// Whether it is known that nothing accepts connections there now. **Blocks** for a moment.
    pub(super) fn refuse(&self) -> bool {
        let accepts = |remote| TcpStream::connect_timeout(remote, Self::PATIENCE).is_ok();
        !self.0.is_empty() && !self.0.iter().any(accepts)
    }
}

/// Whether the bytes have the address and the port in them, in the order of the network.
fn names(details: &[u8], remote: &SocketAddr) -> bool {
    let has = |bytes: &[u8]| details.windows(bytes.len()).any(|window| window == bytes);
    let has_address = match remote.ip() {
        IpAddr::V4(address) => has(&address.octets()),
        IpAddr::V6(address) => has(&address.octets()),
    };
    has_address && has(&remote.port().to_be_bytes())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_peer_that_listens_no_more_refuses() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let before = Sockets::open_now();
        let _connection = TcpStream::connect(address).unwrap();
        let details = [&[127, 0, 0, 1, 9][..], &address.port().to_be_bytes()].concat();
        let endpoints = Endpoints::opened_since(&before, &[&details]);
        assert_eq!(endpoints.0, [address]);
        assert!(!endpoints.refuse());
        drop(listener);
        assert!(endpoints.refuse());
    }

    #[test]
    fn sockets_of_others_are_no_endpoints_and_unknown_ones_refuse_nothing() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let before = Sockets::open_now();
        let _connection = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let endpoints = Endpoints::opened_since(&before, &[&[1; 40]]);
        assert!(endpoints.0.is_empty() && !endpoints.refuse());
    }
}
