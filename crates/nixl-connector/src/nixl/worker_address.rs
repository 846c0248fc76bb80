//! Strict parser of UCX's worker addresses, run before UCX's own.
//!
//! UCX gets the start of an address and not its end: it trusts the lengths inside, ends the process on an unknown version, and
//! passes each transport's part on without its length. So an address passes here only if every part is in bounds, no bytes
//! follow, and the parts of transports of this process have the length that UCX reads. Figures that rank transports must be
//! numbers. Not checked: whether a well-formed address leads to its sender.
//!
//! The layout is that of `ucp_address.c`, which UCX keeps for peers of other releases: a header, then devices, each with its
//! transports. Two versions are in use.
//!
//! | part | version 1 | version 2 |
//! |---|---|---|
//! | header | 1: version 0, flags | 2: version 1, release; flags |
//! | | 8: worker; if the flags say so, 8: client, and a name after its length | the same |
//! | device | 1: index, top bit: has no transports | the same, or 127 and 1 |
//! | | 1: length, flags | the same, or 31 and 1 |
//! | | 1: paths, 1: device of the system, if the flags say so; address | the same |
//! | transport | 2: checksum of its name | the same |
//! | | 16: figures and flags | 8: the same, less exact |
//! | | 1: length, flags; address | the same, or 63 and 1 |

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;

/// The reference for addresses of peers.
#[derive(Debug)]
pub(super) struct WorkerAddresses {
    /// The transports of this process.
    own: Vec<Interface>,
    /// The machine and network namespace of the loopback devices of this process.
    loopback: Vec<Box<[u8]>>,
    worker: u64,
}

/// One transport's part of an address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Interface {
    /// The checksum of its name.
    transport: u16,
    device_len: usize,
    interface_len: usize,
}

/// A whole address.
struct Address<'a> {
    worker: u64,
    parts: Vec<Part<'a>>,
}

/// The part of one transport.
struct Part<'a> {
    transport: u16,
    device: &'a [u8],
    interface: &'a [u8],
}

impl Part<'_> {
    fn interface(&self) -> Interface {
        Interface {
            transport: self.transport,
            device_len: self.device.len(),
            interface_len: self.interface.len(),
        }
    }

    /// The machine and network namespace, for TCP over a loopback device.
    fn loopback(&self) -> Option<&[u8]> {
        match self.device {
            [flags, _, place @ ..] if self.is_tcp() && flags & LOOPBACK != 0 => Some(place),
            _ => None,
        }
    }

    fn is_tcp(&self) -> bool {
        matches!(Known::of(self.transport), Some(Known::Tcp))
    }
}

/// UCX's limit.
const MAX_INTERFACES: usize = 128;
const MAX_MEMORY_DOMAINS: u8 = 64;
const LAST: u8 = 0x80;
/// In the flags of a TCP device.
const LOOPBACK: u8 = 1;
const INET: u8 = 2;
const INET6: u8 = 10;

impl WorkerAddresses {
    /// Made from this process's own address. `None` if that cannot be parsed: UCX has an unknown layout, and no address is
    /// checked.
    pub(super) fn beside(own: &[u8]) -> Option<Self> {
        let address = Address::parse(own)
            .inspect_err(|error| {
                tracing::warn!(error, "UCX's addresses have an unknown layout, so peers' addresses are not checked; use the UCX of NIXL's wheel");
            })
            .ok()?;
        let own = address.parts.iter().map(Part::interface).collect();
        let loopback = address.parts.iter().filter_map(Part::loopback).map(Box::from).collect();
        Some(Self { own, loopback, worker: address.worker })
    }

    /// Checks a peer's address.
    ///
    /// # Errors
    ///
    /// The fault that would end the process in UCX.
    pub(super) fn check(&self, address: &[u8]) -> Result<(), String> {
        let address = Address::parse(address)?;
        if address.worker == self.worker {
            return Err("it is this process's own".to_owned());
        }
        address.parts.iter().try_for_each(|part| self.check_part(part))
    }

    /// The listening addresses in a peer's address that this process can reach by TCP; so many at most.
    pub(super) fn listeners(&self, address: &[u8], most: usize) -> Vec<SocketAddr> {
        let Ok(address) = Address::parse(address) else { return Vec::new() };
        let listener = |part: &Part<'_>| {
            let port = u16::from_be_bytes(part.interface.try_into().ok()?);
            let ip: IpAddr = match (part.loopback(), part.device) {
                (Some(place), _) if !self.loopback.iter().any(|own| **own == *place) => {
                    return None;
                }
                (Some(_), [_, INET, ..]) => Ipv4Addr::LOCALHOST.into(),
                (Some(_), _) => Ipv6Addr::LOCALHOST.into(),
                (None, [_, INET, ip @ ..]) => <[u8; 4]>::try_from(ip).ok()?.into(),
                (None, [_, INET6, ip @ ..]) => <[u8; 16]>::try_from(ip).ok()?.into(),
                _ => return None,
            };
            Some(SocketAddr::new(ip, port))
        };
        address.parts.iter().filter(|part| part.is_tcp()).filter_map(listener).take(most).collect()
    }

    /// UCX parses only the parts of its own transports.
    fn check_part(&self, part: &Part<'_>) -> Result<(), String> {
        let interface = part.interface();
        let same = |own: &&Interface| own.transport == interface.transport;
        if !self.own.iter().any(|own| same(&own)) {
            return Ok(());
        }
        let refuse = |what: &str| {
            let transport = interface.transport;
            Err(format!("its part for the transport {transport:#06x} {what}"))
        };
        match Known::of(interface.transport) {
            Some(known) => {
                if !known.device_is_whole(part.device) {
                    return refuse("has a device address that is too short, or of no known kind");
                }
                if !known.interface_len().contains(&interface.interface_len) {
                    return refuse("has an address that is too short or too long");
                }
            }
            None => {
                let shortest = |len: fn(&Interface) -> usize| {
                    self.own.iter().filter(same).map(len).min().unwrap_or(0)
                };
                let device = shortest(|own| own.device_len);
                let address = shortest(|own| own.interface_len);
                if interface.device_len < device || interface.interface_len < address {
                    return refuse("is shorter than this process's own");
                }
            }
        }
        Ok(())
    }
}

/// Transports with an address of known layout.
#[derive(Clone, Copy)]
enum Known {
    Tcp,
    Itself,
    /// The transports of shared memory.
    SysV,
    Posix,
    Xpmem,
    Cma,
    Knem,
    /// All transports of InfiniBand and RoCE.
    Infiniband,
}

impl Known {
    fn of(transport: u16) -> Option<Self> {
        const NAMES: [(&str, Known); 14] = [
            ("tcp", Known::Tcp),
            ("self", Known::Itself),
            ("sysv", Known::SysV),
            ("posix", Known::Posix),
            ("xpmem", Known::Xpmem),
            ("cma", Known::Cma),
            ("knem", Known::Knem),
            ("rc_verbs", Known::Infiniband),
            ("rc_mlx5", Known::Infiniband),
            ("dc_mlx5", Known::Infiniband),
            ("ud_verbs", Known::Infiniband),
            ("ud_mlx5", Known::Infiniband),
            ("gga_mlx5", Known::Infiniband),
            ("srd", Known::Infiniband),
        ];
        let known = NAMES.iter().find(|(name, _)| checksum(name) == transport);
        known.map(|(_, known)| *known)
    }

    /// Whether the address of a device has all bytes that UCX reads.
    fn device_is_whole(self, device: &[u8]) -> bool {
        match self {
            Self::Tcp => {
                // A machine and a network namespace, or an address.
                match device {
                    [flags, INET | INET6, place @ ..] if flags & LOOPBACK != 0 => {
                        is_in_namespace(place)
                    }
                    [_, INET, place @ ..] => place.len() == 4,
                    [_, INET6, place @ ..] => place.len() == 16,
                    _ => false,
                }
            }
            Self::Itself => device.is_empty(),
            Self::SysV | Self::Posix | Self::Xpmem | Self::Cma | Self::Knem => {
                const IN_NAMESPACE: u8 = 0x80;
                // UCX reads the namespace if the flag is set.
                match device.get(MACHINE - 1) {
                    Some(top) if top & IN_NAMESPACE != 0 => is_in_namespace(device),
                    Some(_) => device.len() == MACHINE || is_in_namespace(device),
                    None => false,
                }
            }
            Self::Infiniband => infiniband_len(device).is_some_and(|len| len <= device.len()),
        }
    }

    fn interface_len(self) -> RangeInclusive<usize> {
        match self {
            Self::Tcp => 2..=2,
            Self::Itself => 8..=8,
            Self::SysV => 8..=8,
            // A namespace, or the name of a directory, may follow.
            Self::Posix => 8..=usize::MAX,
            Self::Xpmem => 16..=16,
            // A process, and its namespace.
            Self::Cma => 4..=12,
            Self::Knem => 0..=0,
            Self::Infiniband => 0..=usize::MAX,
        }
    }
}

const MACHINE: usize = 8;

/// The identity of a machine, and a namespace: an inode's number in 4 bytes, or 8 in other releases.
fn is_in_namespace(place: &[u8]) -> bool {
    matches!(place.len().checked_sub(MACHINE), Some(4 | 8))
}

/// The length of an InfiniBand address, by its flags.
fn infiniband_len(address: &[u8]) -> Option<usize> {
    const GID: u8 = 1;
    const MTU: u8 = 1 << 1;
    const KEY: u8 = 1 << 2;
    const ETHERNET: u8 = 1 << 3;
    // Without Ethernet.
    const SUBNET16: u8 = 1 << 4;
    const SUBNET64: u8 = 1 << 5;
    const INTERFACE: u8 = 1 << 6;
    let flags = *address.first()?;
    let has = |flag: u8, len: usize| if flags & flag != 0 { len } else { 0 };
    let place = match flags & ETHERNET {
        0 => 2 + has(INTERFACE, 8) + has(SUBNET16, 2) + has(SUBNET64, 8),
        _ => 16,
    };
    Some(1 + place + has(MTU, 1) + has(GID, 1) + has(KEY, 2))
}

/// As `ucs_crc16_string`: CRC-16 of CCITT.
fn checksum(name: &str) -> u16 {
    !name.bytes().fold(u16::MAX, |crc, byte| {
        (0..8).fold(crc ^ u16::from(byte), |crc, _| {
            if crc & 1 == 0 { crc >> 1 } else { (crc >> 1) ^ 0x8408 }
        })
    })
}

impl<'a> Address<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, String> {
        let mut reader = Reader { bytes, at: 0, is_second: false };
        let first = reader.u8()?;
        let flags = match first & 0xf {
            0 => first >> 4,
            1 => {
                reader.is_second = true;
                reader.u8()?
            }
            version => return Err(format!("its version is {version}, which is unknown to UCX")),
        };
        let (named, with_worker, with_client) = (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0);
        if !with_worker {
            return Err(reader.fault("it does not name its worker"));
        }
        let worker = u64::from_le_bytes(reader.array()?);
        if with_client {
            reader.take(8)?;
        }
        if named {
            let len = reader.u8()?;
            reader.take(len.into())?;
        }
        let parts = reader.devices()?;
        match reader.at == bytes.len() {
            true => Ok(Self { worker, parts }),
            false => Err(reader.fault("data follows the end")),
        }
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Whether the address is of version 2.
    is_second: bool,
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(len);
        let taken = end.and_then(|end| self.bytes.get(self.at..end));
        let taken = taken.ok_or_else(|| self.fault("it ends too early"))?;
        self.at += len;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let taken = self.take(N)?;
        taken.try_into().map_err(|_| self.fault("it ends too early"))
    }

    fn u8(&mut self) -> Result<u8, String> {
        self.array().map(|[byte]| byte)
    }

    /// A number in the bits of `mask`; in version 2 all of them mean that it follows. With the other bits.
    fn number(&mut self, mask: u8) -> Result<(u8, u8), String> {
        let byte = self.u8()?;
        let number = match byte & mask {
            all if all == mask && self.is_second => self.u8()?,
            number => number,
        };
        Ok((number, byte & !mask))
    }

    fn devices(&mut self) -> Result<Vec<Part<'a>>, String> {
        const NONE: u8 = 0xff;
        const PATHS: u8 = 0x40;
        const OF_SYSTEM: u8 = 0x20;
        let mut parts = Vec::new();
        if self.bytes.get(self.at) == Some(&NONE) {
            self.at += 1;
            return Ok(parts);
        }
        let mut count = 0;
        loop {
            count += 1;
            if count > MAX_INTERFACES {
                return Err(self.fault("it has more devices than UCX has room for"));
            }
            let (domain, is_empty) = self.number(0x7f)?;
            let (len, flags) = self.number(0x1f)?;
            if flags & PATHS != 0 && self.u8()? == 0 {
                return Err(self.fault("a device has no paths"));
            }
            if flags & OF_SYSTEM != 0 {
                self.u8()?;
            }
            let device = self.take(len.into())?;
            let is_last = flags & LAST != 0;
            if is_empty == 0 {
                // In version 1 there may be flags among the bits.
                if self.is_second && domain >= MAX_MEMORY_DOMAINS {
                    return Err(self.fault("a device is of a domain that UCX cannot count"));
                }
                self.transports(device, &mut parts)?;
            }
            if is_last {
                return Ok(parts);
            }
        }
    }

    fn transports(&mut self, device: &'a [u8], into: &mut Vec<Part<'a>>) -> Result<(), String> {
        const HAS_ENDPOINTS: u8 = 0x40;
        loop {
            if into.len() >= MAX_INTERFACES {
                return Err(self.fault("it has more transports than UCX has room for"));
            }
            let transport = u16::from_le_bytes(self.array()?);
            self.figures()?;
            let (len, flags) = self.number(0x3f)?;
            if flags & HAS_ENDPOINTS != 0 {
                return Err(self.fault("the address of a worker has one of an endpoint"));
            }
            into.push(Part { transport, device, interface: self.take(len.into())? });
            if flags & LAST != 0 {
                return Ok(());
            }
        }
    }

    /// How fast a transport is, and what it can.
    fn figures(&mut self) -> Result<(), String> {
        if self.is_second {
            const MESSAGES: u8 = 1 << 1;
            // In units of 64 bytes. UCX takes the room for its headers from it.
            const SHORTEST: u16 = 2;
            let [_, bandwidth, _, _, s0, s1, flags, _] = self.array()?;
            return match bandwidth {
                0 => Err(self.fault("a transport moves nothing")),
                _ if flags & MESSAGES != 0 && u16::from_le_bytes([s0, s1]) < SHORTEST => {
                    Err(self.fault("a transport has no room for a message"))
                }
                _ => Ok(()),
            };
        }
        let mut float = || self.array().map(f32::from_le_bytes);
        let (overhead, bandwidth, latency) = (float()?, float()?, float()?);
        let _flags: [u8; 4] = self.array()?;
        // A bandwidth below zero is one that is shared, to UCX before 1.12. Seconds, and bytes in a second.
        let is_time = |time: f32| (0.0..1e3).contains(&time);
        match is_time(overhead) && is_time(latency) && (1.0..1e15).contains(&bandwidth.abs()) {
            true => Ok(()),
            false => Err(self.fault("the figures of a transport cannot be")),
        }
    }

    fn fault(&self, what: &str) -> String {
        format!("{what} (at byte {} of {})", self.at, self.bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::super::agent::Agent;
    use super::super::blob::{Blob, UCX};
    use super::super::fuzz::{beside_another, sample_address as sample};
    use super::super::options::NixlOptions;
    use super::*;
    use crate::control::ControlThread;

    #[test]
    fn an_address_as_ucx_makes_it_passes() {
        let address = sample();
        assert_eq!(beside_another().check(&address), Ok(()));
        let parsed = Address::parse(&address).unwrap();
        let transports: Vec<_> = parsed.parts.iter().map(|part| part.transport).collect();
        assert_eq!(transports, ["self", "tcp", "tcp", "sysv", "posix", "cma"].map(checksum));
        let own = WorkerAddresses::beside(&address).unwrap();
        assert!(own.check(&address).unwrap_err().contains("own"));
    }

    #[test]
    fn it_is_known_where_a_peer_listens() {
        let (address, beside) = (sample(), beside_another());
        let expected: Vec<SocketAddr> =
            ["192.0.2.2:38023", "127.0.0.1:40367"].map(|at| at.parse().unwrap()).to_vec();
        assert_eq!(beside.listeners(&address, 9), expected);
        assert_eq!(beside.listeners(&address, 1), expected[..1]);
        // The loopback device of another machine is not this one's.
        let elsewhere = WorkerAddresses { loopback: vec![[0; 12].into()], ..beside };
        assert_eq!(elsewhere.listeners(&address, 9), expected[..1]);
        assert_eq!(elsewhere.listeners(b"no address", 9), []);
    }

    #[test]
    fn the_engine_in_use_makes_addresses_that_can_be_read() {
        let control = ControlThread::spawn().unwrap();
        let agent = Agent::start("worker-address", control, &NixlOptions::new()).unwrap();
        let mut entered = agent.enter();
        let details = entered.inside().unwrap().details.clone();
        let blob = Blob::parse(&details).unwrap();
        let (_, address) = blob.connections.iter().find(|(name, _)| *name == UCX).unwrap();
        Address::parse(address).map(|_| ()).unwrap();
        let mut other = address.to_vec();
        other[2] ^= 1;
        WorkerAddresses::beside(address).unwrap().check(&other).unwrap();
    }

    #[test]
    fn every_cut_and_every_extension_is_refused() {
        let (address, beside) = (sample(), beside_another());
        for len in 0..address.len() {
            assert!(beside.check(&address[..len]).is_err(), "{len}");
        }
        for more in [&b"\0"[..], &[0xff], &address] {
            assert!(beside.check(&[&address, more].concat()).is_err());
        }
    }

    #[test]
    fn versions_and_flags_that_ucx_aborts_on_are_refused() {
        let beside = beside_another();
        for first in 0..=u8::MAX {
            let mut address = sample();
            address[0] = first;
            assert!(
                first == 0x20 || first == 0xa0 || beside.check(&address).is_err(),
                "{first:#x}"
            );
        }
    }

    #[test]
    fn addresses_of_version_2_are_read() {
        let transport = |name: &str, len: u8, address: &[u8]| {
            let mut out = checksum(name).to_le_bytes().to_vec();
            out.extend([9, 9, 9, 0, 2, 0, 2, 0, len]);
            out.extend(address);
            out
        };
        let mut address = vec![0x71, 2];
        address.extend(7u64.to_le_bytes());
        // A domain in a byte of its own, a device address of 6 bytes, the last one.
        address.extend([0x7f, 33, 0x86, 0, 2, 192, 0, 2, 1]);
        address.extend(transport("unheard-of", 63, &[[64].as_slice(), &[5; 64]].concat()));
        address.extend(transport("tcp", 0x82, &[1, 2]));
        assert_eq!(beside_another().check(&address), Ok(()));
        for len in 0..address.len() {
            assert!(beside_another().check(&address[..len]).is_err(), "{len}");
        }
        let at = address.windows(2).position(|w| w == [0x7f, 33]).unwrap();
        address[at + 1] = 64;
        assert!(beside_another().check(&address).unwrap_err().contains("domain"));
    }

    #[test]
    fn endless_lists_end() {
        let mut address = vec![0x20; 9];
        address.extend([0x80, 0].repeat(100_000));
        assert!(beside_another().check(&address).unwrap_err().contains("more devices"));
    }

    #[test]
    fn infiniband_addresses_are_as_long_as_their_flags_say() {
        for (flags, len) in [(0, 3), (1 << 6, 11), (1 << 5 | 1 << 6, 19), (1 << 3, 17), (0x0f, 21)]
        {
            assert_eq!(infiniband_len(&[flags]), Some(len), "{flags:#x}");
        }
        assert_eq!(infiniband_len(&[]), None);
    }
}
