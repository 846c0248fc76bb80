//! UCX, started in a child as a connector would start it: what it is given, and what it finds.

use std::env;
use std::path::Path;

use nixl_device::{NetworkInterface, RdmaNic, Topology};

use super::probe;
use super::report::Report;

const SECTION: &str = "UCX";
/// Connectors choose some of more interfaces, and of fewer where there are NICs; see `nixl-connector`'s `ucx/choice.rs`.
const MOST_INTERFACES: usize = 112;
const OF_A_PORT: usize = 8;

pub(super) fn check(report: &mut Report, topology: &Topology, library: &Path, ucx: &Path) {
    let mut given = Vec::new();
    let is_set = |name: &str| env::var_os(name).is_some();
    if !has_efa(topology) && !is_set("UCX_MODULES") {
        given.push(("UCX_MODULES", "^efa"));
        report.ok_for(SECTION, "UCX_MODULES", "^efa, which connectors set where no EFA device is");
    }
    let interfaces = NetworkInterface::all().len();
    let found = format!("{interfaces} with an address");
    let ports: usize = topology.nics().iter().map(|nic| nic.ports().len()).sum();
    let most = MOST_INTERFACES.saturating_sub(OF_A_PORT * ports);
    if interfaces > most && !is_set("UCX_NET_DEVICES") && !is_set("UCX_TLS") {
        // NICs are looked at all the same.
        given.push(("UCX_TLS", "^tcp"));
        report.note(
            SECTION,
            "interfaces",
            format!("{found}, more than UCX takes: connectors choose those that lead out"),
            Some("name those to use: NixlOptions::network_devices, or UCX_NET_DEVICES".to_owned()),
        );
    } else {
        report.ok_for(SECTION, "interfaces", found);
    }
    for (name, value) in env::vars_os() {
        if let Some(name) = name.to_str().filter(|name| name.starts_with("UCX_")) {
            let found =
                format!("{} in the environment, before any option", value.to_string_lossy());
            report.note(SECTION, name, found, None);
        }
    }
    let facts = match probe::load_with(&[library, ucx], &given) {
        Ok(facts) => facts,
        Err(error) => {
            report.missing(
                SECTION,
                "start",
                error,
                "see UCX's messages: set UCX_LOG_LEVEL=info and run a test",
            );
            return;
        }
    };
    let mut devices: Vec<&str> = facts.devices().collect();
    devices.sort_unstable();
    devices.dedup();
    report.ok_for(SECTION, "devices", devices.join(", "));
    for nic in topology.nics().iter().filter(|nic| !is_used(nic.name(), &devices)) {
        report.note(
            SECTION,
            nic.name(),
            "this NIXL's UCX cannot use it: transfers between machines go over TCP",
            Some(
                "use a NIXL that is built with the system's rdma-core: a wheel's libibverbs has the driver of mlx5 alone; \
                 for EFA, choose the backend LIBFABRIC"
                    .to_owned(),
            ),
        );
    }
}

/// UCX names the ports of a NIC.
fn is_used(nic: &str, devices: &[&str]) -> bool {
    devices.iter().any(|device| device.split_once(':').is_some_and(|(name, _)| name == nic))
}

/// Whether AWS's adapter is there.
pub(super) fn has_efa(topology: &Topology) -> bool {
    const AMAZON: u16 = 0x1d0f;
    let is_efa = |nic: &RdmaNic| nic.pci().is_some_and(|pci| pci.vendor() == Some(AMAZON));
    topology.nics().iter().any(is_efa)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nic_is_used_by_its_ports() {
        let devices = ["eth0", "lo", "memory", "mlx5_1:1"];
        assert!(is_used("mlx5_1", &devices));
        assert!(
            !is_used("mlx5_0", &devices)
                && !is_used("mlx5_11", &devices)
                && !is_used("rxe0", &devices)
        );
    }
}
