//! Links between devices: peer access and interconnect.

use serde::Serialize;

use super::device::CudaDevice;
use super::driver::Driver;
use super::error::{CudaError, DeviceError};
use super::nvml::{LinkKind, Nvml};
use super::probe::loaded;
use crate::system::pci::PciAddress;

/// The way from one device to the memory of another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GpuLink {
    from: u32,
    to: u32,
    peer_access: bool,
    native_atomics: bool,
    performance_rank: Option<u32>,
    interconnect: Interconnect,
}

impl GpuLink {
    /// Ordinal of the device whose copies and kernels reach out.
    #[must_use]
    pub fn from(&self) -> u32 {
        self.from
    }

    /// Ordinal of the device whose memory is reached.
    #[must_use]
    pub fn to(&self) -> u32 {
        self.to
    }

    /// Whether it can be reached directly: see [`Context::enable_peer_access`](super::Context::enable_peer_access).
    /// If not, copies go through host memory.
    #[must_use]
    pub fn peer_access(&self) -> bool {
        self.peer_access
    }

    /// Whether atomic operations work across the link.
    #[must_use]
    pub fn native_atomics(&self) -> bool {
        self.native_atomics
    }

    /// How the link ranks among those of the machine; less is faster. `None` if the driver does not report it.
    #[must_use]
    pub fn performance_rank(&self) -> Option<u32> {
        self.performance_rank
    }

    /// What it is made of.
    #[must_use]
    pub fn interconnect(&self) -> &Interconnect {
        &self.interconnect
    }
}

/// The type of link between two devices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Interconnect {
    /// NVLink, directly or through NVSwitch.
    NvLink,
    /// PCI Express, peer to peer.
    Pcie,
    /// No link without the host.
    None,
    /// The type of link is unknown.
    Unknown {
        /// The reason.
        reason: String,
    },
}

/// The links from every device to every other: the matrix without its diagonal, row by row.
///
/// # Errors
///
/// [`DeviceError`]. Without NVML only [`GpuLink::interconnect`] is unknown.
pub fn gpu_links(devices: &[CudaDevice]) -> Result<Vec<GpuLink>, DeviceError> {
    links(loaded()?, devices, interconnect)
}

fn links(
    driver: &Driver,
    devices: &[CudaDevice],
    interconnect: impl Fn(Option<PciAddress>, Option<PciAddress>) -> Interconnect,
) -> Result<Vec<GpuLink>, DeviceError> {
    const PERFORMANCE_RANK: i32 = 1;
    const NATIVE_ATOMICS: i32 = 3;
    let mut links = Vec::new();
    for from in devices {
        for to in devices.iter().filter(|to| to.ordinal != from.ordinal) {
            let (a, b) = (driver.device(from.ordinal)?, driver.device(to.ordinal)?);
            let attribute = |which| {
                let mut value = 0;
                // SAFETY: the pointer is to a live integer, written during the call only.
                let code = driver.functions.call(|api| unsafe {
                    (api.device_get_p2p_attribute)(&raw mut value, which, a, b)
                });
                (code == 0).then_some(value)
            };
            links.push(GpuLink {
                from: from.ordinal,
                to: to.ordinal,
                peer_access: can_access(driver, a, b)?,
                native_atomics: attribute(NATIVE_ATOMICS).is_some_and(|value| value != 0),
                performance_rank: attribute(PERFORMANCE_RANK)
                    .and_then(|rank| u32::try_from(rank).ok()),
                interconnect: interconnect(from.pci, to.pci),
            });
        }
    }
    Ok(links)
}

fn can_access(driver: &Driver, from: i32, to: i32) -> Result<bool, CudaError> {
    let mut possible = 0;
    // SAFETY: the pointer is to a live integer, written during the call only.
    let code = driver
        .functions
        .call(|api| unsafe { (api.device_can_access_peer)(&raw mut possible, from, to) });
    driver.check("cuDeviceCanAccessPeer", code)?;
    Ok(possible != 0)
}

fn interconnect(from: Option<PciAddress>, to: Option<PciAddress>) -> Interconnect {
    let unknown = |reason: &str| Interconnect::Unknown { reason: reason.to_owned() };
    let nvml = match Nvml::get() {
        Ok(nvml) => nvml,
        Err(reason) => return unknown(reason),
    };
    let (Some(from), Some(to)) = (from, to) else {
        return unknown("a device has no known PCI address");
    };
    match nvml.link(from, to) {
        Some(LinkKind::Nvidia) => Interconnect::NvLink,
        Some(LinkKind::Pcie) => Interconnect::Pcie,
        Some(LinkKind::None) => Interconnect::None,
        None => unknown("NVML does not tell for these devices"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::device::describe_all;
    use super::super::fake::Fake;
    use super::*;
    use crate::Topology;

    fn matrix(fake: &Fake) -> Vec<GpuLink> {
        let root = tempfile::tempdir().unwrap();
        let topology = Topology::discover_in(root.path());
        let devices = describe_all(fake.driver(), &topology).unwrap();
        links(fake.driver(), &devices, |_, _| Interconnect::Pcie).unwrap()
    }

    #[test]
    fn every_ordered_pair_has_a_link() {
        let pairs: Vec<_> = matrix(&Fake::new())
            .iter()
            .map(|link| (link.from, link.to, link.peer_access, link.performance_rank))
            .collect();
        assert_eq!(pairs, [(0, 1, true, Some(0)), (1, 0, true, Some(0))]);
    }

    #[test]
    fn devices_without_a_way_are_told_apart() {
        let fake = Fake::new();
        fake.refuse_peers();
        assert!(matrix(&fake).iter().all(|link| !link.peer_access));
    }

    #[test]
    fn without_an_address_the_interconnect_is_unknown() {
        assert!(matches!(interconnect(None, None), Interconnect::Unknown { .. }));
    }
}
