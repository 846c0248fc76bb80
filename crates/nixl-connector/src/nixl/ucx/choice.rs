//! The settings of UCX that the connector chooses for a machine, and its network devices if it has more than UCX takes.
//!
//! `cargo xtask doctor` compiles this file too, so it prints and tries the choice of connectors.

use std::env;
use std::fs;
use std::path::Path;

use nixl_device::{InterfaceReach, NetworkInterface, RdmaNic, Topology};

const NICS: &str = "/sys/class/infiniband";

/// The most names of a list: UCX ends the process at more.
pub(super) const MOST_NAMES: usize = 64;

/// The largest number of pairs of transport and device in UCX.
const RESOURCES: usize = 128;
/// The pairs of shared memory, CUDA and UCX itself, at most.
const APART_FROM_NETWORKS: usize = 16;
/// The pairs of a NIC's port: reliable, datagram and dynamic connections, with verbs and with the NIC's own.
const OF_A_PORT: usize = 8;
/// So many interfaces without a known route out of this machine are added to the others.
const MOST_VIRTUAL: usize = 8;
/// The longest list in UCX's configuration files.
pub(super) const LONGEST_LIST: usize = 180;

/// The relevant facts of the machine.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    pub(super) has_cuda: bool,
    pub(super) has_rdma: bool,
    pub(super) has_efa: bool,
    /// The network devices to name to UCX, if it does not take all.
    pub(super) chosen: Option<Vec<String>>,
    /// The transports of this machine's processes that the system refuses.
    pub(super) refused: Vec<&'static str>,
}

impl Machine {
    pub(super) fn of_these(devices: &UcxDevices) -> Self {
        Self {
            has_cuda: nixl_device::cuda::is_available(),
            has_rdma: may_use_rdma(),
            has_efa: has_efa(Path::new(NICS)),
            chosen: devices.chosen(),
            refused: refused(),
        }
    }

    /// Settings by their names without `UCX_`, for those that neither the environment nor an option sets.
    pub(super) fn settings(&self) -> Vec<(&'static str, String)> {
        // UCX would block until its connections are accepted, for minutes without a process there, and hold its locks.
        let mut settings = vec![("TCP_CONN_NB", "y".to_owned())];
        if self.has_cuda {
            // By default UCX keeps a list of observed allocations, and treats all other memory as the host's: GPU memory too,
            // if UCX did not observe its allocation.
            settings.push(("MEMTYPE_CACHE", "n".to_owned()));
        }
        if !self.has_rdma && !self.has_cuda {
            // UCX's registration cache saves calls to NICs, and has no use for other host memory. Each unmapping thread
            // notifies it, through hooks that UCX puts in the place of the C library's functions, and spins on its lock: for
            // ever in the child of a fork, if a thread of the parent held it. UCX's CUDA transports register memory through it,
            // so it stays enabled if they may be used.
            settings.push(("RCACHE_ENABLE", "n".to_owned()));
        }
        if !self.has_efa {
            // The module needs the system's libefa, and with it the system's netlink libraries, whose symbols then bind to those
            // of NIXL's wheel: their destructors end the process in SIGSEGV.
            settings.push(("MODULES", "^efa".to_owned()));
        }
        if !self.refused.is_empty() {
            // UCX takes cma where it may write to another process, and fails each read where it may do that alone. It makes no
            // engine where its transports of shared memory cannot make theirs.
            settings.push(("TLS", format!("^{}", self.refused.join(","))));
        }
        if let Some(chosen) = &self.chosen {
            settings.push(("NET_DEVICES", chosen.join(",")));
        }
        settings
    }
}

/// UCX's names for the transports that the system refuses to this process.
fn refused() -> Vec<&'static str> {
    let folder = env::var_os("UCX_POSIX_DIR").unwrap_or_else(|| "/dev/shm".into());
    [
        ("cma", nixl_device::permits_cross_memory_attach()),
        ("posix", nixl_device::takes_shared_files(Path::new(&folder))),
        ("sysv", nixl_device::has_system_v_memory()),
    ]
    .into_iter()
    .filter_map(|(name, is_permitted)| (!is_permitted).then_some(name))
    .collect()
}

/// Whether UCX may use a NIC of this machine that writes memory.
pub(crate) fn may_use_rdma() -> bool {
    fs::read_dir(NICS).is_ok_and(|mut devices| devices.next().is_some())
}

/// Whether AWS's adapter, which UCX's module serves, is present.
fn has_efa(folder: &Path) -> bool {
    const AMAZON: &str = "0x1d0f";
    let vendor = |device: fs::DirEntry| fs::read_to_string(device.path().join("device/vendor"));
    let mut devices = fs::read_dir(folder).into_iter().flatten().flatten();
    devices.any(|device| vendor(device).is_ok_and(|vendor| vendor.trim() == AMAZON))
}

/// The network devices of this machine that UCX finds.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct UcxDevices {
    /// Ports of NICs, as UCX names them.
    ports: Vec<String>,
    /// Interfaces, the widest reach first.
    interfaces: Vec<NetworkInterface>,
}

impl UcxDevices {
    pub(crate) fn of_this_machine() -> Self {
        let ports = if may_use_rdma() { ports(Topology::discover().nics()) } else { Vec::new() };
        Self { ports, interfaces: NetworkInterface::all() }
    }

    /// The number of devices.
    pub(crate) fn interfaces(&self) -> usize {
        self.interfaces.len()
    }

    /// The devices to name to UCX; `None` if it takes all.
    pub(crate) fn chosen(&self) -> Option<Vec<String>> {
        let others = APART_FROM_NETWORKS + OF_A_PORT * self.ports.len();
        if self.interfaces.len() <= RESOURCES.saturating_sub(others) {
            return None;
        }
        let is_virtual = |i: &&NetworkInterface| i.reach() == InterfaceReach::Virtual;
        let known = self.interfaces.iter().filter(|i| !is_virtual(i));
        let some = self.interfaces.iter().filter(is_virtual).take(MOST_VIRTUAL);
        let names = known.chain(some).map(NetworkInterface::name);
        let mut chosen: Vec<String> = Vec::new();
        let mut len = 0;
        for name in self.ports.iter().map(String::as_str).chain(names) {
            len += name.len() + 1;
            if chosen.len() == MOST_NAMES || len > LONGEST_LIST {
                break;
            }
            chosen.push(name.to_owned());
        }
        Some(chosen)
    }
}

fn ports(nics: &[RdmaNic]) -> Vec<String> {
    let ports =
        nics.iter().flat_map(|nic| nic.ports().iter().map(move |port| (nic, port.number())));
    ports.map(|(nic, port)| format!("{}:{port}", nic.name())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn devices(ports: usize, names: &[(&str, InterfaceReach)]) -> UcxDevices {
        let interfaces = names.iter().map(|(name, reach)| NetworkInterface::new(*name, *reach));
        UcxDevices {
            ports: (0..ports).map(|n| format!("mlx5_{n}:1")).collect(),
            interfaces: interfaces.collect(),
        }
    }

    #[test]
    fn the_efa_module_is_for_machines_with_such_a_device() {
        let folder = tempfile::tempdir().unwrap();
        let device = folder.path().join("rdmap0/device");
        assert!(!has_efa(folder.path()));
        fs::create_dir_all(&device).unwrap();
        assert!(!has_efa(folder.path()));
        fs::write(device.join("vendor"), "0x1d0f\n").unwrap();
        assert!(has_efa(folder.path()));
    }

    #[test]
    fn a_machine_with_few_is_left_alone() {
        let few: Vec<String> = (0..100).map(|n| format!("veth{n}")).collect();
        let few: Vec<_> = few.iter().map(|name| (&**name, InterfaceReach::Virtual)).collect();
        assert_eq!(devices(0, &few).chosen(), None);
        assert!(devices(8, &few).chosen().is_some(), "ports of NICs count, too");
    }

    #[test]
    fn of_many_those_are_chosen_that_lead_out() {
        let cables: Vec<String> = (0..200).map(|n| format!("veth{n}")).collect();
        let mut many = vec![
            ("eth0", InterfaceReach::Default),
            ("eth1", InterfaceReach::Hardware),
            ("lo", InterfaceReach::Loopback),
        ];
        many.extend(cables.iter().map(|name| (&**name, InterfaceReach::Virtual)));
        let chosen = devices(1, &many).chosen().unwrap();
        assert_eq!(chosen[..5], ["mlx5_0:1", "eth0", "eth1", "lo", "veth0"]);
        assert_eq!(chosen.len(), 4 + MOST_VIRTUAL);
    }

    #[test]
    fn a_choice_fits_into_what_ucx_reads() {
        let long: Vec<String> = (0..300).map(|n| format!("enp{n:04}s0f0np0")).collect();
        let long: Vec<_> = long.iter().map(|name| (&**name, InterfaceReach::Hardware)).collect();
        let chosen = devices(2, &long).chosen().unwrap();
        assert!(chosen.len() > 5 && chosen.len() <= MOST_NAMES);
        assert!(chosen.join(",").len() <= LONGEST_LIST);
    }
}
