//! Probes of the addresses on which peers' engines listen, made before UCX connects.
//!
//! UCX leaks a file with each refused connection, and a peer that refuses now may listen in a second. A probe connection finds
//! out without a leak.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt};

/// The listening addresses that a peer reports.
#[derive(Clone, Debug, Default)]
pub(super) struct Endpoints(Vec<SocketAddr>);

impl FromIterator<SocketAddr> for Endpoints {
    fn from_iter<T: IntoIterator<Item = SocketAddr>>(addresses: T) -> Self {
        Self(addresses.into_iter().take(Self::MOST).collect())
    }
}

impl Endpoints {
    /// The longest wait for a peer to accept a connection.
    const PATIENCE: Duration = Duration::from_millis(100);
    /// Bound on the addresses probed, all at the same time.
    pub(super) const MOST: usize = 16;

    /// Whether certainly no process accepts connections there now. **Blocks** briefly.
    pub(super) fn refuse(&self) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let mut waiting = Vec::new();
        for address in &self.0 {
            match attempt(*address) {
                Attempt::Accepted => return false,
                Attempt::Refused => {}
                Attempt::Waiting(socket) => waiting.push(socket),
            }
        }
        let until = Instant::now() + Self::PATIENCE;
        while !waiting.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            let mut sockets: Vec<_> =
                waiting.iter().map(|socket| PollFd::new(socket, PollFlags::OUT)).collect();
            match poll(&mut sockets, Timespec::try_from(left).ok().as_ref()) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                // Not known.
                Err(_) => return false,
            }
            let is_over: Vec<_> = sockets.iter().map(|s| !s.revents().is_empty()).collect();
            let mut is_over = is_over.into_iter();
            let (over, others) = waiting.into_iter().partition(|_| is_over.next() == Some(true));
            let over: Vec<OwnedFd> = over;
            if over.iter().any(|socket| matches!(sockopt::socket_error(socket), Ok(Ok(())))) {
                return false;
            }
            waiting = others;
        }
        true
    }
}

enum Attempt {
    Accepted,
    Refused,
    Waiting(OwnedFd),
}

fn attempt(address: SocketAddr) -> Attempt {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let Ok(socket) = socket_with(family, SocketType::STREAM, flags, None) else {
        // Not known, for example for lack of files.
        return Attempt::Accepted;
    };
    match connect(&socket, &address) {
        Ok(()) => Attempt::Accepted,
        Err(Errno::INPROGRESS) => Attempt::Waiting(socket),
        Err(_) => Attempt::Refused,
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_peer_that_listens_no_more_refuses() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let endpoints = Endpoints::from_iter([address]);
        assert!(!endpoints.refuse());
        drop(listener);
        assert!(endpoints.refuse());
        assert!(!Endpoints::default().refuse(), "nothing is known of it");
    }

    #[test]
    fn one_address_that_accepts_is_enough_and_those_that_are_silent_take_no_longer_together() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        // A network for documentation, which leads nowhere.
        let silent = (1..99).map(|host| SocketAddr::from(([192, 0, 2, host], 9)));
        let began = Instant::now();
        let endpoints: Endpoints = silent.clone().collect();
        assert!(endpoints.refuse());
        assert!(began.elapsed() < 10 * Endpoints::PATIENCE, "{:?}", began.elapsed());
        let with: Endpoints = silent.take(3).chain(listener.local_addr()).collect();
        assert!(!with.refuse());
    }
}
