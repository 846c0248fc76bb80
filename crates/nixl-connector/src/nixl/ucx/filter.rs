//! Filters of the kernel on sockets of UCX: what does not pass is dropped before UCX reads it.
#![allow(unsafe_code, reason = "sets a filter of the kernel's on sockets of UCX")]

use std::io;
use std::net::IpAddr;
use std::os::fd::RawFd;

const LOAD: u16 = 0x20;
const LOAD_HALF: u16 = 0x28;
const LOAD_LENGTH: u16 = 0x80;
const AND: u16 = 0x54;
const JUMP_IF_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;
const ALL: u32 = u32::MAX;
/// Where a filter finds the packet's protocol, and its IP header.
const PROTOCOL: u32 = libc::SKF_AD_OFF.wrapping_add(libc::SKF_AD_PROTOCOL).cast_unsigned();
const IP_HEADER: u32 = libc::SKF_NET_OFF.cast_unsigned();

/// A filter's steps.
pub(in crate::nixl) struct Filter(Vec<libc::sock_filter>);

fn step(code: u16, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt: 0, jf, k }
}

impl Filter {
    /// All but empty datagrams.
    pub(super) fn not_empty() -> Self {
        Self(vec![
            step(LOAD_LENGTH, 0, 0),
            step(JUMP_IF_EQUAL, 1, 0),
            step(RETURN, 0, 0),
            step(RETURN, 0, ALL),
        ])
    }

    /// The packets of these networks: addresses of which so many leading bits count.
    pub(in crate::nixl) fn from_networks(networks: &[(IpAddr, u8)]) -> Self {
        let mut steps = Vec::new();
        for (address, bits) in networks {
            let (protocol, source, bytes) = match address {
                IpAddr::V4(address) => (libc::ETH_P_IP, 12, address.octets().to_vec()),
                IpAddr::V6(address) => (libc::ETH_P_IPV6, 8, address.octets().to_vec()),
            };
            let mut checks = vec![(LOAD_HALF, PROTOCOL), (JUMP_IF_EQUAL, protocol.cast_unsigned())];
            for (at, word) in bytes.chunks_exact(4).enumerate() {
                let left = u32::from(*bits).saturating_sub(32 * at as u32).min(32);
                let mask = u32::MAX.checked_shl(32 - left).unwrap_or(0);
                if mask != 0 {
                    let word = word.iter().fold(0, |word, byte| word << 8 | u32::from(*byte));
                    checks.push((LOAD, IP_HEADER.wrapping_add(source + 4 * at as u32)));
                    checks.push((AND, mask));
                    checks.push((JUMP_IF_EQUAL, word & mask));
                }
            }
            let len = checks.len();
            // A check that fails leads to the next network.
            let steps_of = checks.into_iter().enumerate().map(|(at, (code, k))| {
                let jump = if code == JUMP_IF_EQUAL { (len - at) as u8 } else { 0 };
                step(code, jump, k)
            });
            steps.extend(steps_of);
            steps.push(step(RETURN, 0, ALL));
        }
        steps.push(step(RETURN, 0, 0));
        Self(steps)
    }

    /// Has the kernel apply it to all that comes to the socket from now on.
    pub(in crate::nixl) fn attach(&mut self, socket: RawFd) -> io::Result<()> {
        let len = u16::try_from(self.0.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let filter = libc::sock_fprog { len, filter: self.0.as_mut_ptr() };
        // SAFETY: the filter and its steps outlive the call, which copies them.
        let set = unsafe {
            libc::setsockopt(
                socket,
                libc::SOL_SOCKET,
                libc::SO_ATTACH_FILTER,
                (&raw const filter).cast(),
                size_of_val(&filter) as libc::socklen_t,
            )
        };
        if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd as _;
    use std::time::Duration;

    use super::*;

    /// Whether a connection over loopback is accepted.
    fn accepts(networks: &[(&str, u8)], address: &str) -> bool {
        let networks: Vec<_> =
            networks.iter().map(|(address, bits)| (address.parse().unwrap(), *bits)).collect();
        let listener = TcpListener::bind((address, 0)).unwrap();
        Filter::from_networks(&networks).attach(listener.as_raw_fd()).unwrap();
        let limit = Duration::from_millis(300);
        TcpStream::connect_timeout(&listener.local_addr().unwrap(), limit).is_ok()
    }

    #[test]
    fn connections_of_networks_that_are_named_pass() {
        assert!(accepts(&[("127.0.0.1", 32)], "127.0.0.1"));
        assert!(accepts(&[("10.0.0.0", 8), ("127.9.9.9", 8)], "127.0.0.1"));
        assert!(accepts(&[("1.2.3.4", 0)], "127.0.0.1"));
        for others in [&[][..], &[("127.0.0.2", 32)], &[("10.0.0.0", 8), ("::", 0)]] {
            assert!(!accepts(others, "127.0.0.1"), "{others:?}");
        }
        if TcpListener::bind(("::1", 0)).is_ok() {
            assert!(accepts(&[("127.0.0.1", 8), ("::1", 128)], "::1"));
            assert!(accepts(&[("::", 0)], "::1") && accepts(&[("::2", 126)], "::1"));
            assert!(!accepts(&[("::2", 128), ("fd00::", 8), ("0.0.0.0", 0)], "::1"));
        }
    }
}
