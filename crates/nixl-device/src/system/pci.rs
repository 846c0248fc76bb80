//! PCI functions and how far apart two of them are.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use super::tree::{Tree, parse_hex, parse_thousandths};

/// The address of a PCI function: domain, bus, device and function.
///
/// Printed and serialised as the kernel does, for example `0000:3b:00.0`. Parsing ignores case and takes a domain of
/// four to eight hexadecimal digits, so it also reads NVML's `00000000:3B:00.0`.
///
/// ```
/// use nixl_device::PciAddress;
///
/// let address: PciAddress = "00000000:3B:00.0".parse()?;
/// assert_eq!(address.to_string(), "0000:3b:00.0");
/// # Ok::<(), nixl_device::ParsePciAddressError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciAddress {
    domain: u32,
    bus: u8,
    device: u8,
    function: u8,
}

impl PciAddress {
    /// The domain (segment).
    #[must_use]
    pub const fn domain(self) -> u32 {
        self.domain
    }

    /// The bus within the domain.
    #[must_use]
    pub const fn bus(self) -> u8 {
        self.bus
    }

    /// The device on the bus, 0 to 31.
    #[must_use]
    pub const fn device(self) -> u8 {
        self.device
    }

    /// The function of the device, 0 to 7.
    #[must_use]
    pub const fn function(self) -> u8 {
        self.function
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.{:x}", self.domain, self.bus, self.device, self.function)
    }
}

impl Serialize for PciAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromStr for PciAddress {
    type Err = ParsePciAddressError;

    fn from_str(text: &str) -> Result<Self, ParsePciAddressError> {
        parse_address(text)
            .ok_or_else(|| ParsePciAddressError { input: text.chars().take(40).collect() })
    }
}

fn parse_address(text: &str) -> Option<PciAddress> {
    let (domain, rest) = text.split_once(':')?;
    let (bus, rest) = rest.split_once(':')?;
    let (device, function) = rest.split_once('.')?;
    let field = |digits: &str, lengths: std::ops::RangeInclusive<usize>, max: u32| {
        let plain = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        let value = u32::from_str_radix(digits, 16).ok()?;
        (plain && lengths.contains(&digits.len()) && value <= max).then_some(value)
    };
    Some(PciAddress {
        domain: field(domain, 4..=8, u32::MAX)?,
        bus: u8::try_from(field(bus, 2..=2, 0xff)?).ok()?,
        device: u8::try_from(field(device, 2..=2, 0x1f)?).ok()?,
        function: u8::try_from(field(function, 1..=1, 7)?).ok()?,
    })
}

/// A text is no PCI address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid PCI address {input:?}: expected the form `0000:3b:00.0`")]
pub struct ParsePciAddressError {
    input: String,
}

impl ParsePciAddressError {
    /// The text that was given, cut after 40 characters.
    #[must_use]
    pub fn input(&self) -> &str {
        &self.input
    }
}

/// Speed and width of a PCI Express link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PcieLink {
    pub(crate) speed_mt_s: Option<u32>,
    pub(crate) lanes: Option<u8>,
}

/// A PCI function and its place in the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PciFunction {
    pub(crate) address: PciAddress,
    pub(crate) host_bridge: String,
    pub(crate) bridges: Vec<PciAddress>,
    pub(crate) numa_node: Option<u32>,
    pub(crate) vendor: Option<u16>,
    pub(crate) device: Option<u16>,
    pub(crate) class: Option<u32>,
    pub(crate) driver: Option<String>,
    pub(crate) link: PcieLink,
    pub(crate) max_link: PcieLink,
}

/// How far apart two PCI functions are: what their traffic to each other has to cross.
///
/// Named as in the legend of `nvidia-smi topo`; less is nearer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "UPPERCASE")]
#[non_exhaustive]
pub enum Distance {
    /// They are the same function.
    Same,
    /// At most one PCIe switch.
    Pix,
    /// Several PCIe switches, but no host bridge.
    Pxb,
    /// One host bridge.
    Phb,
    /// Several host bridges of one NUMA node.
    Node,
    /// The interconnect between NUMA nodes, or an unknown one.
    Sys,
}

impl fmt::Display for Distance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Same => "SAME",
            Self::Pix => "PIX",
            Self::Pxb => "PXB",
            Self::Phb => "PHB",
            Self::Node => "NODE",
            Self::Sys => "SYS",
        })
    }
}

impl PciFunction {
    /// How far it is to another function of the same machine. The same in both directions.
    ///
    /// Functions below different host bridges of which one has no known NUMA node are [`Distance::Sys`] apart.
    #[must_use]
    pub fn distance(&self, other: &Self) -> Distance {
        if self.address == other.address {
            return Distance::Same;
        }
        if self.host_bridge != other.host_bridge {
            return match (self.numa_node, other.numa_node) {
                (Some(a), Some(b)) if a == b => Distance::Node,
                _ => Distance::Sys,
            };
        }
        let shared = self.bridges.iter().zip(&other.bridges).take_while(|(a, b)| a == b).count();
        if shared == 0 {
            return Distance::Phb;
        }
        // A switch shows as two bridges in a row: its upstream port, which functions below it share, and one
        // downstream port for each. So a single switch leaves at most one bridge to each function.
        let deepest = self.bridges.len().max(other.bridges.len());
        if deepest - shared <= 1 { Distance::Pix } else { Distance::Pxb }
    }

    /// The function that a link in sysfs leads to, or the nearest one above where it leads (network functions may
    /// sit on the auxiliary bus below their PCI function). `None` if there is no PCI function there.
    pub(crate) fn read(tree: &Tree, link: &str, only_node: Option<u32>) -> Option<Self> {
        let path = tree.resolve(link)?;
        let bridge_at = path.iter().rposition(|name| is_host_bridge(name))?;
        let mut chain: Vec<PciAddress> =
            path[bridge_at + 1..].iter().map_while(|name| name.parse().ok()).collect();
        let folder = path[..=bridge_at + chain.len()].join("/");
        let address = chain.pop()?;
        let id = |name: &str| {
            tree.value(&format!("{folder}/{name}"), "a 16-bit number", |text| {
                u16::try_from(parse_hex(text)?).ok()
            })
        };
        Some(Self {
            address,
            host_bridge: host_bridge_name(&path[..=bridge_at]),
            bridges: chain,
            numa_node: numa_node(tree, &folder).or(only_node),
            vendor: id("vendor"),
            device: id("device"),
            class: tree.value(&format!("{folder}/class"), "a PCI class", parse_hex),
            driver: tree.resolve(&format!("{folder}/driver")).and_then(|path| path.last().cloned()),
            link: PcieLink::read(tree, &folder, "current"),
            max_link: PcieLink::read(tree, &folder, "max"),
        })
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> PciAddress {
        self.address
    }

    /// The host bridge it hangs below, as a path below `/sys/devices`: usually just `pci0000:00`.
    #[must_use]
    pub fn host_bridge(&self) -> &str {
        &self.host_bridge
    }

    /// The bridges between the host bridge and the function, root port first.
    #[must_use]
    pub fn bridges(&self) -> &[PciAddress] {
        &self.bridges
    }

    /// The NUMA node it is attached to. The machine's only node where there is but one and the firmware is silent.
    #[must_use]
    pub fn numa_node(&self) -> Option<u32> {
        self.numa_node
    }

    /// The vendor: 0x10de is NVIDIA, 0x15b3 Mellanox.
    #[must_use]
    pub fn vendor(&self) -> Option<u16> {
        self.vendor
    }

    /// The vendor's number for the device.
    #[must_use]
    pub fn device(&self) -> Option<u16> {
        self.device
    }

    /// Class, subclass and programming interface, as in `0x030200`.
    #[must_use]
    pub fn class(&self) -> Option<u32> {
        self.class
    }

    /// The kernel driver bound to it. `None` if there is none.
    #[must_use]
    pub fn driver(&self) -> Option<&str> {
        self.driver.as_deref()
    }

    /// The link as it is now. Idle GPUs lower the speed to save power.
    #[must_use]
    pub fn link(&self) -> PcieLink {
        self.link
    }

    /// The best link that the function can have.
    #[must_use]
    pub fn max_link(&self) -> PcieLink {
        self.max_link
    }
}

/// `pci` and a domain and bus, as in `pci0000:3a`.
fn is_host_bridge(name: &str) -> bool {
    name.strip_prefix("pci").and_then(|rest| rest.split_once(':')).is_some_and(|(domain, bus)| {
        let hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
        domain.len() >= 4 && hex(domain) && bus.len() == 2 && hex(bus)
    })
}

fn host_bridge_name(path: &[String]) -> String {
    path.strip_prefix(["sys".to_owned(), "devices".to_owned()].as_slice()).unwrap_or(path).join("/")
}

/// The kernel prints -1 for a device whose node the firmware does not report.
fn numa_node(tree: &Tree, folder: &str) -> Option<u32> {
    let node: i32 = tree.value(&format!("{folder}/numa_node"), "a NUMA node or -1", |text| {
        text.parse().ok().filter(|node| *node >= -1)
    })?;
    u32::try_from(node).ok()
}

impl PcieLink {
    fn read(tree: &Tree, folder: &str, which: &str) -> Self {
        let speed =
            tree.value(&format!("{folder}/{which}_link_speed"), "a speed in GT/s", parse_speed);
        let lanes =
            tree.value(&format!("{folder}/{which}_link_width"), "a number of lanes", |text| {
                text.parse::<u8>().ok()
            });
        Self {
            speed_mt_s: speed.flatten(),
            // 0 stands for no link, 255 for a link that cannot be read.
            lanes: lanes.filter(|lanes| !matches!(lanes, 0 | 255)),
        }
    }

    /// Transfers a second on each lane, in MT/s: 32000 for generation 5. `None` if the kernel does not know.
    #[must_use]
    pub fn speed_mt_s(&self) -> Option<u32> {
        self.speed_mt_s
    }

    /// Lanes. `None` if the kernel does not know, as for functions inside the root complex.
    #[must_use]
    pub fn lanes(&self) -> Option<u8> {
        self.lanes
    }
}

/// Parses `32.0 GT/s PCIe` into MT/s; `Some(None)` where the kernel reports an unknown speed.
fn parse_speed(text: &str) -> Option<Option<u32>> {
    if text.starts_with("Unknown") {
        return Some(None);
    }
    let (number, unit) = text.split_once(' ')?;
    if unit.starts_with("GT/s") { parse_thousandths(number).map(Some) } else { None }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_address() -> impl Strategy<Value = PciAddress> {
        (any::<u32>(), any::<u8>(), 0..32_u8, 0..8_u8).prop_map(
            |(domain, bus, device, function)| PciAddress { domain, bus, device, function },
        )
    }

    /// Few enough bridges and nodes that all distances occur.
    fn any_function() -> impl Strategy<Value = PciFunction> {
        let few = (0..2_u8).prop_map(|bus| PciAddress { domain: 0, bus, device: 0, function: 0 });
        (
            any_address(),
            0..3_u8,
            proptest::collection::vec(few, 0..4),
            proptest::option::of(0..2_u32),
        )
            .prop_map(|(address, bridge, bridges, numa_node)| PciFunction {
                address,
                host_bridge: format!("pci0000:0{bridge}"),
                bridges,
                numa_node,
                vendor: None,
                device: None,
                class: None,
                driver: None,
                link: PcieLink { speed_mt_s: None, lanes: None },
                max_link: PcieLink { speed_mt_s: None, lanes: None },
            })
    }

    proptest! {
        #[test]
        fn addresses_round_trip(address in any_address()) {
            let text = address.to_string();
            prop_assert_eq!(text.parse(), Ok(address));
            prop_assert_eq!(text.to_uppercase().parse(), Ok(address));
        }

        #[test]
        fn any_text_is_an_address_or_an_error(text in any::<String>()) {
            if let Ok(address) = text.parse::<PciAddress>() {
                prop_assert_eq!(address.to_string().parse(), Ok(address));
            }
        }

        #[test]
        fn distance_is_symmetric(a in any_function(), b in any_function()) {
            prop_assert_eq!(a.distance(&b), b.distance(&a));
            prop_assert_eq!(a.distance(&a), Distance::Same);
            if a.address != b.address {
                let below_one_host_bridge = a.distance(&b) <= Distance::Phb;
                prop_assert_eq!(below_one_host_bridge, a.host_bridge == b.host_bridge);
            }
        }
    }

    #[test]
    fn malformed_addresses_are_refused() {
        for text in [
            "",
            "3b:00.0",
            "0000:3b:00",
            "0000:3b:20.0",
            "0000:3b:00.8",
            "000:3b:00.0",
            "0000:+b:00.0",
            "123456789:00:00.0",
            "0000:3b:00.0 ",
            "0000:3b:00.00",
        ] {
            assert!(text.parse::<PciAddress>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn speeds_parse_in_all_forms_of_the_kernel() {
        assert_eq!(parse_speed("32.0 GT/s PCIe"), Some(Some(32_000)));
        assert_eq!(parse_speed("2.5 GT/s"), Some(Some(2_500)));
        assert_eq!(parse_speed("Unknown"), Some(None));
        assert_eq!(parse_speed("Unknown speed"), Some(None));
        assert_eq!(parse_speed("32.0 Gb/s"), None);
        assert_eq!(parse_speed("fast"), None);
    }

    #[test]
    fn host_bridges_are_told_from_other_folders() {
        assert!(is_host_bridge("pci0000:3a"));
        assert!(is_host_bridge("pci10000:e0"));
        assert!(!is_host_bridge("pci"));
        assert!(!is_host_bridge("pci0000:00:00.0"));
        assert!(!is_host_bridge("pci_bus"));
        assert!(!is_host_bridge("0000:00:01.0"));
    }
}
