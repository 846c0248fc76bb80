//! The addresses of this host.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::{fs, io};

/// Whether an address, that of the other side of a connection say, is of this host: of this network namespace, to be exact,
/// so not that of a container with a network of its own. `None` if the system does not say: without room for a socket, where a
/// sandbox refuses one, and of link-local addresses of IPv6, which are not known without their interface.
///
/// The kernel is asked by binding a socket to it, which counts every address that it would deliver here, on whichever
/// interface and by whichever route. Takes some microseconds.
#[must_use]
pub fn is_this_host(address: IpAddr) -> Option<bool> {
    let address = address.to_canonical();
    if address.is_loopback() || address.is_unspecified() {
        return Some(true);
    }
    if address.is_multicast() {
        return Some(false);
    }
    let socket = match UdpSocket::bind(SocketAddr::new(address, 0)) {
        Ok(socket) => socket,
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => return Some(false),
        Err(_) => return None,
    };
    if !binds_any(address) {
        return Some(true);
    }
    // From here, such an address is reached from the very same. A second one of an interface may not be seen so.
    drop(socket);
    let unspecified = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(unspecified).ok()?;
    let connected = socket.connect(SocketAddr::new(address, 1));
    Some(connected.is_ok() && socket.local_addr().ok()?.ip() == address)
}

/// Whether the administrator lets processes bind to addresses that are not there, as load balancers need.
fn binds_any(address: IpAddr) -> bool {
    let version = if address.is_ipv4() { "ipv4" } else { "ipv6" };
    let setting = fs::read_to_string(format!("/proc/sys/net/{version}/ip_nonlocal_bind"));
    setting.is_ok_and(|setting| setting.trim() != "0")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_here_and_documentation_is_elsewhere() {
        for here in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(is_this_host(here.parse().unwrap()), Some(true), "{here}");
        }
        assert_eq!(is_this_host("fe80::1".parse().unwrap()), None);
        for elsewhere in ["192.0.2.1", "224.0.0.1", "2001:db8::1", "ff02::1", "::ffff:192.0.2.1"] {
            assert_eq!(is_this_host(elsewhere.parse().unwrap()), Some(false), "{elsewhere}");
        }
    }
}
