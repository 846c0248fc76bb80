//! The kernel's table of TCP sockets by `inet_diag`, over a netlink socket.
//!
//! The two structures that it takes have been the same since Linux 3.3, so they are written and read here by offsets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recvfrom, sendto, socket_with,
};

use super::tcp::Row;

/// Length of `struct nlmsghdr`: length, type, flags, sequence, port.
const HEADER: usize = 16;
/// Length of `struct inet_diag_req_v2`: family, protocol, extensions, padding, states, address.
const REQUEST: usize = 56;
/// Length of `struct inet_diag_msg`: family, state, timer, retransmits, address, expiry, queues, user, inode.
const ANSWER: usize = 72;
/// More than the kernel puts into one datagram.
const DATAGRAM: usize = 1 << 16;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_NOOP: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_DUMP_INTR: u16 = 0x10;
const IPPROTO_TCP: u8 = 6;
const ENOENT: i32 = 2;
/// All but the remains of connections that no process has open (TIME_WAIT).
const STATES: u32 = !(1 << 6);

/// All sockets of this network namespace, except those without a connection.
pub(super) fn dump() -> Result<Vec<Row>, String> {
    let mut rows = Vec::new();
    for family in [AddressFamily::INET, AddressFamily::INET6] {
        match exchange(&request(family, None), &mut rows)? {
            // Without IPv6 in the kernel.
            0 | ENOENT => {}
            error => return Err(message(error)),
        }
    }
    Ok(rows)
}

/// The socket of this network namespace that has a connection between these addresses, if there is one.
pub(super) fn find(local: SocketAddr, remote: SocketAddr) -> Result<Option<Row>, String> {
    let family = if local.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let mut rows = Vec::new();
    match exchange(&request(family, Some((local, remote))), &mut rows)? {
        // The kernel also takes a socket that listens at the address.
        0 => Ok(rows.into_iter().find(|row| row.local == local && row.remote == remote)),
        ENOENT => Ok(None),
        error => Err(message(error)),
    }
}

fn message(error: i32) -> String {
    std::io::Error::from_raw_os_error(error).to_string()
}

/// For all sockets, or the one between a local and a remote address.
fn request(family: AddressFamily, between: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
    let dump = if between.is_some() { 0 } else { NLM_F_DUMP };
    let mut bytes = Vec::with_capacity(HEADER + REQUEST);
    bytes.extend(((HEADER + REQUEST) as u32).to_ne_bytes());
    bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend((NLM_F_REQUEST | dump).to_ne_bytes());
    // Each exchange has a socket of its own, so one number and no port do.
    bytes.extend([0; 8]);
    bytes.extend([family.as_raw() as u8, IPPROTO_TCP, 0, 0]);
    bytes.extend(STATES.to_ne_bytes());
    if let Some((local, remote)) = between {
        bytes.extend(local.port().to_be_bytes());
        bytes.extend(remote.port().to_be_bytes());
        for address in [local.ip(), remote.ip()] {
            match address {
                IpAddr::V4(address) => {
                    bytes.extend(address.octets());
                    bytes.extend([0; 12]);
                }
                IpAddr::V6(address) => bytes.extend(address.octets()),
            }
        }
        // Any interface, any socket.
        bytes.extend([0; 4]);
        bytes.extend([0xFF; 8]);
    }
    bytes.resize(HEADER + REQUEST, 0);
    bytes
}

/// Sends the kernel a query and reads the answer. Returns the error that it reports, or 0.
fn exchange(request: &[u8], rows: &mut Vec<Row>) -> Result<i32, String> {
    let say = |errno: rustix::io::Errno| errno.to_string();
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(SOCK_DIAG));
    let socket: OwnedFd = socket.map_err(say)?;
    let kernel = SocketAddrNetlink::new(0, 0);
    sendto(&socket, request, SendFlags::empty(), &kernel).map_err(say)?;
    let mut datagram = vec![0; DATAGRAM];
    loop {
        let (_, len, from) = recvfrom(&socket, &mut datagram[..], RecvFlags::TRUNC).map_err(say)?;
        // Other processes can write to it too.
        let from = from.and_then(|from| SocketAddrNetlink::try_from(from).ok());
        if from.is_none_or(|from| from.pid() != 0) {
            continue;
        }
        let bytes = datagram.get(..len).ok_or("a datagram that is too long")?;
        let dump = u16_at(request, 6).is_some_and(|flags| flags & NLM_F_DUMP != 0);
        if let Some(end) = take(bytes, dump, rows).ok_or("an answer that is cut off")?? {
            return Ok(end);
        }
    }
}

/// Takes the messages of one datagram. Returns the error that the last one reports, or 0, if it was the last.
#[allow(clippy::type_complexity, reason = "cut off, failed, or at an end or not")]
fn take(mut bytes: &[u8], dump: bool, rows: &mut Vec<Row>) -> Option<Result<Option<i32>, String>> {
    while !bytes.is_empty() {
        let len = usize::try_from(u32_at(bytes, 0)?).ok()?;
        let (kind, flags) = (u16_at(bytes, 4)?, u16_at(bytes, 6)?);
        let body = bytes.get(HEADER..len)?;
        if flags & NLM_F_DUMP_INTR != 0 {
            return Some(Err("that its table changed too much meanwhile".into()));
        }
        match kind {
            NLMSG_NOOP => {}
            // Their number is negative.
            NLMSG_ERROR => return Some(Ok(Some(i32_at(body, 0)?.checked_neg()?))),
            NLMSG_DONE => return Some(Ok(Some(i32_at(body, 0).map_or(0, i32::wrapping_neg)))),
            SOCK_DIAG_BY_FAMILY => {
                rows.push(row(body.get(..ANSWER)?)?);
                if !dump {
                    return Some(Ok(Some(0)));
                }
            }
            _ => return Some(Err(format!("a message of unknown type {kind}"))),
        }
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(Ok(None))
}

fn row(body: &[u8]) -> Option<Row> {
    let family = AddressFamily::from_raw(u16::from(*body.first()?));
    let address = |port: usize, at: usize| {
        let port = u16::from_be_bytes(array(body, port)?);
        let address = if family == AddressFamily::INET {
            IpAddr::from(Ipv4Addr::from(array::<4>(body, at)?))
        } else {
            IpAddr::from(Ipv6Addr::from(array::<16>(body, at)?)).to_canonical()
        };
        Some(SocketAddr::new(address, port))
    };
    Some(Row {
        local: address(4, 8)?,
        remote: address(6, 24)?,
        state: *body.get(1)?,
        receive_queue: u32_at(body, 56)?,
        send_queue: u32_at(body, 60)?,
        inode: u32_at(body, 68)?.into(),
    })
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_ne_bytes)
}

fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    array(bytes, at).map(i32::from_ne_bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend(body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn answers_end_with_an_error_or_not() {
        let mut rows = Vec::new();
        let mut body = [0; ANSWER + 6];
        body[0] = 2;
        let one = message(SOCK_DIAG_BY_FAMILY, 2, &body);
        let two = [one.clone(), one.clone()].concat();
        assert_eq!(take(&two, true, &mut rows), Some(Ok(None)));
        assert_eq!((rows.len(), rows[0].local), (2, "0.0.0.0:0".parse().unwrap()));
        assert_eq!(take(&one, false, &mut rows), Some(Ok(Some(0))));
        let done = message(NLMSG_DONE, 2, &0_i32.to_ne_bytes());
        assert_eq!(take(&[one.clone(), done].concat(), true, &mut rows), Some(Ok(Some(0))));
        let none = message(NLMSG_ERROR, 0, &(-ENOENT).to_ne_bytes());
        assert_eq!(take(&none, false, &mut rows), Some(Ok(Some(ENOENT))));
        let late = message(NLMSG_DONE, 2, &(-12_i32).to_ne_bytes());
        assert_eq!(take(&late, true, &mut rows), Some(Ok(Some(12))));
        let torn = message(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP_INTR, &body);
        assert!(take(&torn, true, &mut rows).unwrap().is_err());
        assert!(take(&message(99, 0, &[]), true, &mut rows).unwrap().is_err());
        let least = message(NLMSG_ERROR, 0, &i32::MIN.to_ne_bytes());
        assert_eq!(take(&least, true, &mut rows), None);
        assert_eq!(take(&message(SOCK_DIAG_BY_FAMILY, 0, &[2; 71]), true, &mut rows), None);
        assert_eq!(take(&one[..40], true, &mut rows), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_rows_or_an_error(bytes: Vec<u8>, dump: bool) {
            let mut rows = Vec::new();
            let _ = take(&bytes, dump, &mut rows);
            prop_assert!(rows.len() <= bytes.len() / ANSWER);
        }
    }
}
