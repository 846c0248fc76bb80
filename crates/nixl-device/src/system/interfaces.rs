//! Network interfaces that sockets can use.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use serde::Serialize;

/// A network interface of this network namespace that is up and has an address. Bridges are left out: what is behind them has
/// interfaces of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NetworkInterface {
    name: String,
    reach: InterfaceReach,
}

/// What a network interface leads to, the widest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum InterfaceReach {
    /// A default route goes over it.
    Default,
    /// It is hardware, or stands on hardware, as a bond or a VLAN does.
    Hardware,
    /// This machine alone.
    Loopback,
    /// Neither is known of it: one end of a virtual cable, for instance.
    Virtual,
}

impl NetworkInterface {
    /// An interface of this name and reach.
    pub fn new(name: impl Into<String>, reach: InterfaceReach) -> Self {
        Self { name: name.into(), reach }
    }

    /// All of this network namespace, the widest reach first, and otherwise in the order in which they were made. Empty if the
    /// system does not tell.
    pub fn all() -> Vec<Self> {
        read(Path::new("/"), up())
    }

    /// Whether interfaces are up that `/sys/class/net` does not show: it is not mounted, or of another network namespace.
    #[must_use]
    pub fn are_hidden() -> bool {
        are_hidden(Path::new("/"), &up())
    }

    /// The error by which the system refuses to list interfaces, as a filter of system calls does.
    #[must_use]
    pub fn listing_error() -> Option<io::Error> {
        getifaddrs().err().map(io::Error::from)
    }

    /// Its name, such as `eth0`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it leads to.
    #[must_use]
    pub fn reach(&self) -> InterfaceReach {
        self.reach
    }
}

/// The interfaces that are up and have an address, in the order in which the system lists them.
fn up() -> Vec<String> {
    let mut up = Vec::new();
    for address in getifaddrs().into_iter().flatten() {
        let is_ip = address
            .address
            .is_some_and(|a| a.as_sockaddr_in().is_some() || a.as_sockaddr_in6().is_some());
        let flags = InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING;
        if is_ip && address.flags.contains(flags) && !up.contains(&address.interface_name) {
            up.push(address.interface_name);
        }
    }
    up
}

fn are_hidden(root: &Path, up: &[String]) -> bool {
    up.iter().any(|name| !root.join("sys/class/net").join(name).is_dir())
}

fn read(root: &Path, up: Vec<String>) -> Vec<NetworkInterface> {
    let defaults = default_routes(root);
    let mut found: Vec<_> = up
        .into_iter()
        .filter_map(|name| {
            let folder = root.join("sys/class/net").join(&name);
            if !folder.is_dir() || folder.join("bridge").is_dir() {
                return None;
            }
            let index = fs::read_to_string(folder.join("ifindex")).ok();
            let index: u32 = index.and_then(|i| i.trim().parse().ok()).unwrap_or(u32::MAX);
            let reach = if defaults.contains(&name) {
                InterfaceReach::Default
            } else if name == "lo" {
                InterfaceReach::Loopback
            } else if folder.join("device").exists() || stands_on_another(&folder) {
                InterfaceReach::Hardware
            } else {
                InterfaceReach::Virtual
            };
            Some((index, NetworkInterface::new(name, reach)))
        })
        .collect();
    found.sort_by_key(|(index, interface)| (interface.reach, *index));
    found.into_iter().map(|(_, interface)| interface).collect()
}

/// As a bond or a VLAN does.
fn stands_on_another(folder: &Path) -> bool {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name()).any(|name| name.to_string_lossy().starts_with("lower_"))
}

/// The interfaces over which default routes go.
fn default_routes(root: &Path) -> Vec<String> {
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
    let mut names = Vec::new();
    for line in read("proc/net/route").lines().skip(1) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let any = |field: usize| {
            let number = fields.get(field).and_then(|hex| u32::from_str_radix(hex, 16).ok());
            number.map(Ipv4Addr::from) == Some(Ipv4Addr::UNSPECIFIED)
        };
        // Destination and mask.
        if let Some(name) = fields.first().filter(|_| any(1) && any(7)) {
            names.push((*name).to_owned());
        }
    }
    for line in read("proc/net/ipv6_route").lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let to_any = fields.first().is_some_and(|to| to.bytes().all(|digit| digit == b'0'));
        // The kernel lists a route that refuses all, over `lo`.
        if let Some(name) = fields.last().filter(|name| to_any && **name != "lo")
            && fields.get(1) == Some(&"00")
        {
            names.push((*name).to_owned());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_widest_reach_comes_first_and_bridges_are_left_out() {
        let root = tempfile::tempdir().unwrap();
        let add = |name: &str, index: u32| {
            let folder = root.path().join("sys/class/net").join(name);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("ifindex"), format!("{index}\n")).unwrap();
            folder
        };
        add("lo", 1);
        symlink("/", add("eth0", 2).join("device")).unwrap();
        fs::create_dir(add("br0", 3).join("bridge")).unwrap();
        add("veth9", 4);
        add("veth10", 5);
        fs::write(add("bond0", 6).join("lower_eth0"), "").unwrap();
        add("tun0", 7);
        add("wg0", 8);
        let net = root.path().join("proc/net");
        fs::create_dir_all(&net).unwrap();
        let header = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT";
        let routes = "tun0 00000000 0100000A 0003 0 0 0 00000000 0 0 0\n\
            veth9 000010AC 00000000 0001 0 0 0 0000FFFF 0 0 0\n";
        fs::write(net.join("route"), format!("{header}\n{routes}")).unwrap();
        let zero = "0".repeat(32);
        let line = |to: &str, bits: &str, name: &str| {
            format!("{to} {bits} {zero} 00 {zero} 00000400 00000001 00000000 00000001 {name}\n")
        };
        let routes =
            line(&zero, "00", "wg0") + &line(&zero, "00", "lo") + &line(&zero, "60", "veth10");
        fs::write(net.join("ipv6_route"), routes).unwrap();

        let up = ["veth10", "lo", "br0", "eth0", "wg0", "veth9", "bond0", "tun0", "gone"];
        let found = read(root.path(), up.map(str::to_owned).to_vec());
        let found: Vec<_> = found.iter().map(|i| (i.name.as_str(), i.reach)).collect();
        assert_eq!(
            found,
            [
                ("tun0", InterfaceReach::Default),
                ("wg0", InterfaceReach::Default),
                ("eth0", InterfaceReach::Hardware),
                ("bond0", InterfaceReach::Hardware),
                ("lo", InterfaceReach::Loopback),
                ("veth9", InterfaceReach::Virtual),
                ("veth10", InterfaceReach::Virtual),
            ]
        );
    }

    #[test]
    fn interfaces_that_sysfs_does_not_show_are_hidden() {
        let root = tempfile::tempdir().unwrap();
        let up = ["lo".to_owned(), "eth0".to_owned()];
        assert!(are_hidden(root.path(), &up));
        let folder = root.path().join("sys/class/net");
        fs::create_dir_all(folder.join("lo")).unwrap();
        assert!(are_hidden(root.path(), &up));
        fs::create_dir(folder.join("eth0")).unwrap();
        assert!(!are_hidden(root.path(), &up) && !are_hidden(root.path(), &[]));
    }

    #[test]
    fn the_loopback_interface_is_there() {
        // Without sysfs there is nothing to tell.
        let expected = Path::new("/sys/class/net/lo").is_dir();
        let is_loopback = |i: &NetworkInterface| i.reach == InterfaceReach::Loopback;
        assert_eq!(NetworkInterface::all().iter().any(is_loopback), expected);
    }
}
