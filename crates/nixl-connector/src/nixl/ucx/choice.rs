//! The choice of network devices for UCX on a machine with more than UCX takes.

use nixl_device::{InterfaceReach, NetworkInterface, RdmaNic, Topology};

use super::fatal::MOST_NAMES;

/// The largest number of pairs of transport and device in UCX.
const RESOURCES: usize = 128;
/// The pairs of shared memory, CUDA and UCX itself, at most.
const APART_FROM_NETWORKS: usize = 16;
/// The pairs of a NIC's port: reliable, datagram and dynamic connections, with verbs and with the NIC's own.
const OF_A_PORT: usize = 8;
/// So many interfaces without a known route out of this machine are added to the others.
const MOST_VIRTUAL: usize = 8;
/// The longest list in UCX's configuration files.
const LONGEST_LIST: usize = 180;

/// The network devices of this machine that UCX finds.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(in crate::nixl) struct UcxDevices {
    /// Ports of NICs, as UCX names them.
    ports: Vec<String>,
    /// Interfaces, the widest reach first.
    interfaces: Vec<NetworkInterface>,
}

impl UcxDevices {
    pub(in crate::nixl) fn of_this_machine() -> Self {
        let ports =
            if super::may_use_rdma() { ports(Topology::discover().nics()) } else { Vec::new() };
        Self { ports, interfaces: NetworkInterface::all() }
    }

    /// The number of devices.
    pub(in crate::nixl) fn interfaces(&self) -> usize {
        self.interfaces.len()
    }

    /// The devices to name to UCX; `None` if it takes all.
    pub(in crate::nixl) fn chosen(&self) -> Option<Vec<String>> {
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
        assert!(super::super::lists::Lists::obstacle("NET_DEVICES", &chosen.join(",")).is_none());
    }
}
