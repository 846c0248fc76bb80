//! Devices, links and limits.

use std::fs;

use nixl_device::{Limit, NodeAccess, PortState, RdmaNic, Topology, cuda};

use super::report::Report;

pub(super) fn check(report: &mut Report, topology: &Topology) {
    check_cuda(report, topology);
    check_numa(report, topology);
    check_nics(report, topology);
    check_memlock(report, topology);
    check_ptrace(report);
    for note in topology.notes() {
        report.note("devices", note.path(), note.message(), None);
    }
}

fn check_cuda(report: &mut Report, topology: &Topology) {
    const SECTION: &str = "devices";
    match cuda::probe() {
        Ok(driver) => report.ok_for(
            SECTION,
            "CUDA",
            format!(
                "{} device(s), the driver supports CUDA {}.{}",
                driver.device_count(),
                driver.driver_version() / 1000,
                driver.driver_version() % 1000 / 10
            ),
        ),
        Err(error) if topology.gpus().is_empty() => {
            report.note(SECTION, "CUDA", "no GPU: host memory only", Some(error.to_string()));
        }
        Err(error) => report.note(
            SECTION,
            "CUDA",
            format!("{} GPU(s), but CUDA cannot use them", topology.gpus().len()),
            Some(error.to_string()),
        ),
    }
}

fn check_numa(report: &mut Report, topology: &Topology) {
    let found = match topology.numa_nodes().len() {
        0 => "the kernel knows none".to_owned(),
        1 => "1 node".to_owned(),
        count => format!("{count} nodes"),
    };
    report.ok_for("devices", "NUMA", found);
}

fn check_nics(report: &mut Report, topology: &Topology) {
    const SECTION: &str = "devices";
    if topology.nics().is_empty() {
        report.note(SECTION, "RDMA NICs", "none: TCP between machines", None);
    }
    for nic in topology.nics() {
        match obstacle(nic) {
            None => report.ok_for(SECTION, nic.name(), ports(nic)),
            Some((obstacle, advice)) => {
                let found = format!("{}; {obstacle}", ports(nic));
                report.note(SECTION, nic.name(), found, Some(advice.to_owned()));
            }
        }
    }
}

fn ports(nic: &RdmaNic) -> String {
    let ports: Vec<String> = nic
        .ports()
        .iter()
        .map(|port| {
            let rate = port.rate_mbit_s().map_or_else(
                || "unknown rate".to_owned(),
                |rate| format!("{} Gbit/s", rate / 1000),
            );
            format!("port {} {rate}", port.number())
        })
        .collect();
    ports.join(", ")
}

/// Why the NIC cannot be used, and what to do.
fn obstacle(nic: &RdmaNic) -> Option<(&'static str, &'static str)> {
    let Some(verbs) = &nic.verbs() else {
        return Some(("no verbs device", "load the kernel module ib_uverbs"));
    };
    match verbs.access() {
        NodeAccess::Missing => {
            Some(("its device node is missing", "give the container /dev/infiniband"))
        }
        NodeAccess::Denied => {
            Some(("its device node may not be opened", "give this user access to /dev/infiniband"))
        }
        _ if nic.ports().iter().all(|port| port.state() != Some(PortState::Active)) => {
            Some(("no port is active", "check the cable and, on InfiniBand, the subnet manager"))
        }
        _ => None,
    }
}

fn check_memlock(report: &mut Report, topology: &Topology) {
    const SECTION: &str = "limits";
    let Some(memlock) = topology.memlock() else {
        report.note(SECTION, "memlock", "unknown", None);
        return;
    };
    match memlock.soft() {
        Limit::Bytes(bytes) => {
            let found = format!("{} KiB", bytes / 1024);
            if topology.nics().is_empty() {
                // Only NICs need locked memory.
                report.ok_for(SECTION, "memlock", found);
            } else {
                report.note(
                    SECTION,
                    "memlock",
                    format!("{found}: NICs can register no more than that"),
                    Some(
                        "raise it: `ulimit -l unlimited`, LimitMEMLOCK=infinity, or \
                         `docker run --ulimit memlock=-1`"
                            .to_owned(),
                    ),
                );
            }
        }
        _ => report.ok_for(SECTION, "memlock", "unlimited"),
    }
}

/// Whether processes may read each other's memory, which UCX's cma needs.
fn check_ptrace(report: &mut Report) {
    const SECTION: &str = "limits";
    let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
    match scope.trim() {
        "2" | "3" => report.note(
            SECTION,
            "ptrace",
            "restricted: no cma, so processes of one machine are slower",
            Some("set kernel.yama.ptrace_scope to 0 or 1 with sysctl".to_owned()),
        ),
        _ => report.ok_for(SECTION, "ptrace", "not restricted"),
    }
}
