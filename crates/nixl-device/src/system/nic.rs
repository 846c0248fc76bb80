//! RDMA NICs and their ports.

use serde::Serialize;

use super::node::{NodeAccess, node_access};
use super::pci::PciFunction;
use super::tree::{Tree, parse_thousandths};

const FOLDER: &str = "sys/class/infiniband";
const VERBS_FOLDER: &str = "sys/class/infiniband_verbs";

/// An RDMA device: a host channel adapter or a NIC with RDMA.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RdmaNic {
    pub(crate) name: String,
    pub(crate) pci: Option<PciFunction>,
    verbs: Option<VerbsDevice>,
    ports: Vec<RdmaPort>,
    pub(crate) dma_buf: DmaBufSupport,
}

impl RdmaNic {
    /// Its name for verbs and UCX, such as `mlx5_0`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its PCI function. `None` for a device in software, such as `rxe0`.
    #[must_use]
    pub fn pci(&self) -> Option<&PciFunction> {
        self.pci.as_ref()
    }

    /// The device through which programs reach it. `None` if the kernel offers none (is `ib_uverbs` loaded?).
    #[must_use]
    pub fn verbs(&self) -> Option<&VerbsDevice> {
        self.verbs.as_ref()
    }

    /// Its ports, ascending.
    #[must_use]
    pub fn ports(&self) -> &[RdmaPort] {
        &self.ports
    }

    /// Whether it can register memory that another device exports as a DMA-BUF.
    #[must_use]
    pub fn dma_buf(&self) -> &DmaBufSupport {
        &self.dma_buf
    }
}

/// The character device of an RDMA NIC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VerbsDevice {
    name: String,
    access: NodeAccess,
}

impl VerbsDevice {
    /// Its name below `/dev/infiniband`, such as `uverbs0`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether this process can open it.
    #[must_use]
    pub fn access(&self) -> NodeAccess {
        self.access
    }
}

/// A port of an RDMA NIC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RdmaPort {
    number: u32,
    state: Option<PortState>,
    link_layer: Option<LinkLayer>,
    rate_mbit_s: Option<u64>,
    netdevs: Vec<String>,
}

impl RdmaPort {
    /// Its number on the NIC, from 1.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Whether traffic can flow. `None` if that could not be read.
    #[must_use]
    pub fn state(&self) -> Option<PortState> {
        self.state
    }

    /// What it speaks. `None` if that could not be read.
    #[must_use]
    pub fn link_layer(&self) -> Option<LinkLayer> {
        self.link_layer
    }

    /// The signalling rate in Mbit/s: 400000 for NDR. `None` if that could not be read.
    #[must_use]
    pub fn rate_mbit_s(&self) -> Option<u64> {
        self.rate_mbit_s
    }

    /// The network interfaces on this port, sorted by name.
    #[must_use]
    pub fn netdevs(&self) -> &[String] {
        &self.netdevs
    }
}

/// The logical state of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PortState {
    /// No change requested.
    Nop,
    /// No link.
    Down,
    /// A link, which the subnet manager has not configured yet.
    Init,
    /// Configured, but not for traffic yet.
    Armed,
    /// Ready for traffic.
    Active,
    /// Active, with the link lost a moment ago.
    ActiveDefer,
}

/// What a port speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LinkLayer {
    /// InfiniBand.
    #[serde(rename = "infiniband")]
    InfiniBand,
    /// Ethernet: RoCE or iWARP.
    Ethernet,
    /// Neither, as on AWS EFA.
    Unspecified,
}

/// Whether a NIC can register memory exported as a DMA-BUF, as far as the file system shows.
///
/// Certainty takes a call: `ibv_reg_dmabuf_mr` with the file descriptor -1 fails with `EBADF` on a NIC that can, with
/// `EOPNOTSUPP` on one that cannot. So discovery rules support out, or leaves it open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DmaBufSupport {
    /// It cannot.
    Unsupported {
        /// Why not.
        reason: String,
    },
    /// It may or may not.
    Unknown {
        /// What is known, and what would settle it.
        reason: String,
    },
}

/// All NICs in natural order of their names.
pub(crate) fn read_nics(tree: &Tree, kernel: Option<&str>, only_node: Option<u32>) -> Vec<RdmaNic> {
    let verbs = read_verbs(tree);
    tree.names(FOLDER)
        .into_iter()
        .map(|name| {
            let verbs = verbs
                .iter()
                .find(|(nic, _)| nic.as_deref() == Some(&name))
                .map(|(_, device)| device.clone());
            let pci = PciFunction::read(tree, &format!("{FOLDER}/{name}/device"), only_node);
            let dma_buf = dma_buf_support(kernel, verbs.is_some(), pci.as_ref());
            RdmaNic { ports: read_ports(tree, &name), name, pci, verbs, dma_buf }
        })
        .collect()
}

/// The verbs devices that the kernel or `/dev` lists, with the NIC of each.
fn read_verbs(tree: &Tree) -> Vec<(Option<String>, VerbsDevice)> {
    const NODES: &str = "dev/infiniband";
    let is_verbs = |name: &String| {
        name.strip_prefix("uverbs").is_some_and(|number| number.parse::<u32>().is_ok())
    };
    let known = tree.names(VERBS_FOLDER);
    for name in tree.names(NODES).iter().filter(|name| is_verbs(name)) {
        if !known.contains(name) {
            tree.note(&format!("{NODES}/{name}"), "belongs to no NIC that sysfs shows");
        }
    }
    known
        .into_iter()
        .filter(is_verbs)
        .map(|name| {
            let nic = tree.text(&format!("{VERBS_FOLDER}/{name}/ibdev"));
            let access = node_access(tree, &format!("{NODES}/{name}"));
            (nic, VerbsDevice { name, access })
        })
        .collect()
}

fn read_ports(tree: &Tree, nic: &str) -> Vec<RdmaPort> {
    let folder = format!("{FOLDER}/{nic}/ports");
    let mut numbers: Vec<u32> = Vec::new();
    for name in tree.names(&folder) {
        match name.parse() {
            Ok(number) => numbers.push(number),
            Err(_) => tree.note(&format!("{folder}/{name}"), "is not named by a port's number"),
        }
    }
    numbers.sort_unstable();
    numbers
        .iter()
        .map(|&number| {
            let file = |name: &str| format!("{folder}/{number}/{name}");
            RdmaPort {
                number,
                state: tree.value(&file("state"), "a state such as `4: ACTIVE`", parse_state),
                link_layer: tree.value(
                    &file("link_layer"),
                    "`InfiniBand`, `Ethernet` or `Unspecified`",
                    parse_link_layer,
                ),
                rate_mbit_s: tree.value(&file("rate"), "a rate such as `400 Gb/sec`", parse_rate),
                netdevs: read_netdevs(tree, nic, number, numbers.len() == 1),
            }
        })
        .collect()
}

/// RoCE ports name their interfaces in the table of GIDs. InfiniBand ports do not; there the interfaces of the PCI
/// function say which port they are on, counted from 0.
fn read_netdevs(tree: &Tree, nic: &str, port: u32, is_only_port: bool) -> Vec<String> {
    let table = format!("{FOLDER}/{nic}/ports/{port}/gid_attrs/ndevs");
    let mut netdevs: Vec<String> = tree
        .names(&table)
        .iter()
        // Reading an unused entry is an error by design.
        .filter_map(|entry| tree.optional_text(&format!("{table}/{entry}")))
        .collect();
    if netdevs.is_empty() {
        let folder = format!("{FOLDER}/{nic}/device/net");
        netdevs = tree.names(&folder);
        netdevs.retain(|name| {
            is_only_port
                || tree
                    .optional_text(&format!("{folder}/{name}/dev_port"))
                    .and_then(|text| text.parse::<u32>().ok()?.checked_add(1))
                    == Some(port)
        });
    }
    netdevs.sort_unstable();
    netdevs.dedup();
    netdevs
}

/// Parses `4: ACTIVE` by its number.
fn parse_state(text: &str) -> Option<PortState> {
    Some(match text.split_once(':')?.0.trim() {
        "0" => PortState::Nop,
        "1" => PortState::Down,
        "2" => PortState::Init,
        "3" => PortState::Armed,
        "4" => PortState::Active,
        "5" => PortState::ActiveDefer,
        _ => return None,
    })
}

fn parse_link_layer(text: &str) -> Option<LinkLayer> {
    Some(match text {
        "InfiniBand" => LinkLayer::InfiniBand,
        "Ethernet" => LinkLayer::Ethernet,
        // `Unknown` is what the kernel prints for a value that has no name.
        "Unspecified" | "Unknown" => LinkLayer::Unspecified,
        _ => return None,
    })
}

/// Parses `2.5 Gb/sec (1X SDR)` into Mbit/s.
fn parse_rate(text: &str) -> Option<u64> {
    let (number, unit) = text.split_once(' ')?;
    if unit.starts_with("Gb/sec") { parse_thousandths(number).map(u64::from) } else { None }
}

fn dma_buf_support(
    kernel: Option<&str>,
    has_verbs: bool,
    pci: Option<&PciFunction>,
) -> DmaBufSupport {
    // `ibv_reg_dmabuf_mr` and the kernel's side of it came with Linux 5.12.
    const FIRST: (u32, u32) = (5, 12);
    if !has_verbs {
        return DmaBufSupport::Unsupported {
            reason: "the kernel offers no verbs device for this NIC".to_owned(),
        };
    }
    let Some((release, version)) = kernel.and_then(|text| Some((text, kernel_version(text)?)))
    else {
        return DmaBufSupport::Unknown {
            reason: "the version of the kernel is not known".to_owned(),
        };
    };
    if version < FIRST {
        // Enterprise kernels keep the number and take newer drivers.
        return if release.contains(".el") {
            DmaBufSupport::Unknown {
                reason: format!(
                    "kernel {release} is older than 5.12, but this distribution backports drivers; \
                     only ibv_reg_dmabuf_mr can tell"
                ),
            }
        } else {
            DmaBufSupport::Unsupported { reason: format!("kernel {release} is older than 5.12") }
        };
    }
    let driver = match pci.and_then(|pci| pci.driver.as_deref()) {
        Some(driver) => format!("the driver {driver}"),
        None => "this NIC's driver".to_owned(),
    };
    DmaBufSupport::Unknown {
        reason: format!(
            "kernel {release} is recent enough; whether {driver} can, only ibv_reg_dmabuf_mr can tell"
        ),
    }
}

/// Parses the first two numbers of `6.8.0-45-generic`.
fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let (major, rest) = release.split_once('.')?;
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    Some((major.parse().ok()?, rest[..end].parse().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_text_is_understood_or_not(text in any::<String>()) {
            let _ = (parse_state(&text), parse_link_layer(&text), parse_rate(&text), kernel_version(&text));
        }

        #[test]
        fn kernel_versions_are_the_first_two_numbers(
            major in 0..100_u32,
            minor in 0..100_u32,
            rest in "([.+-][a-z0-9.-]{0,9})?",
        ) {
            prop_assert_eq!(kernel_version(&format!("{major}.{minor}{rest}")), Some((major, minor)));
        }
    }

    #[test]
    fn rates_of_all_generations_are_exact() {
        assert_eq!(parse_rate("2.5 Gb/sec (1X SDR)"), Some(2_500));
        assert_eq!(parse_rate("400 Gb/sec (4X NDR)"), Some(400_000));
        assert_eq!(parse_rate("800 Gb/sec"), Some(800_000));
        assert_eq!(parse_rate("100 Mb/sec"), None);
    }

    #[test]
    fn dma_buf_is_ruled_out_only_for_a_reason_that_holds() {
        let excluded = |kernel, has_verbs| {
            matches!(dma_buf_support(kernel, has_verbs, None), DmaBufSupport::Unsupported { .. })
        };
        assert!(excluded(Some("5.11.22"), true));
        assert!(excluded(Some("4.15.0-213-generic"), true));
        assert!(excluded(Some("6.8.0"), false));
        assert!(excluded(None, false));
        assert!(!excluded(Some("5.12.0"), true));
        assert!(!excluded(Some("6.8.0-45-generic"), true));
        assert!(!excluded(Some("4.18.0-553.el8_10.x86_64"), true));
        assert!(!excluded(Some("nonsense"), true));
        assert!(!excluded(None, true));
    }
}
