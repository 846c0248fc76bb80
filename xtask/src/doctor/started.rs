//! UCX, started in a child as a connector would start it: what it is given, and what it finds.

use std::collections::BTreeSet;
use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use nixl_device::Topology;

use super::probe;
use super::report::Report;
use choice::{Machine, UcxDevices};
use configured::Configured;
use folders::{folder_of_library, folders};

/// What connectors choose: their own source, so that the same is printed and tried.
#[path = "../../../crates/nixl-connector/src/nixl/ucx/choice.rs"]
mod choice;
#[path = "../../../crates/nixl-connector/src/nixl/ucx/configured.rs"]
mod configured;
#[path = "../../../crates/nixl-connector/src/nixl/ucx/fatal.rs"]
mod fatal;
#[path = "../../../crates/nixl-connector/src/nixl/ucx/folders.rs"]
mod folders;

const SECTION: &str = "UCX";

/// Where a setting of a connector's plan comes from.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Source {
    Environment,
    File(PathBuf),
    Chosen,
}

/// What a connector without options gives to UCX on this machine, by the variables' names.
fn plan(
    machine: &Machine,
    environment: impl Iterator<Item = (String, String)>,
    configured: Configured,
) -> Vec<(String, String, Source)> {
    let mut plan: Vec<_> = environment
        .filter(|(name, _)| name.starts_with("UCX_"))
        .map(|(name, value)| (name, value, Source::Environment))
        .collect();
    let of_files =
        configured.into_iter().map(|(name, (value, file))| (name, value, Source::File(file)));
    let chosen = machine
        .settings()
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value, Source::Chosen));
    for (name, value, source) in of_files.chain(chosen) {
        let name = format!("UCX_{name}");
        if plan.iter().all(|(other, ..)| *other != name) {
            plan.push((name, value, source));
        }
    }
    plan.sort();
    plan
}

fn environment() -> impl Iterator<Item = (String, String)> {
    env::vars_os().filter_map(|(name, value)| {
        Some((name.to_str()?.to_owned(), value.to_string_lossy().into_owned()))
    })
}

/// The folders of the files of settings that UCX reads.
fn folders_of(library: &Path) -> Vec<PathBuf> {
    folders(|name| env::var_os(name), folder_of_library(&[library.to_owned()]).as_deref())
}

/// Looks at what UCX reads as it is loaded by this NIXL. Returns whether that ends well.
pub(super) fn check_files(report: &mut Report, library: &Path) -> bool {
    match refusal(|name| env::var_os(name), &folders_of(library)) {
        Some((name, found)) => {
            report.missing(SECTION, name, found, "change it: connectors refuse it, too");
            false
        }
        None => true,
    }
}

/// The first setting, or file of settings, at which UCX would wait or end the process, and why.
fn refusal(
    variable: impl Fn(&str) -> Option<OsString>,
    folders: &[PathBuf],
) -> Option<(String, String)> {
    if let Some(reason) = configured::hindrance(folders) {
        return Some(("settings".to_owned(), reason));
    }
    let configured = configured::read(folders);
    let in_force = |name: &str| match variable(&format!("UCX_{name}")) {
        Some(value) => Some((value.to_string_lossy().into_owned(), "the environment".to_owned())),
        None => {
            configured.get(name).map(|(value, file)| (value.clone(), file.display().to_string()))
        }
    };
    let ends = |name: &String| {
        let (value, from) = in_force(name)?;
        let reason = match &**name {
            "LOG_FILE_SIZE" => {
                fatal::reason_of_size(&value, in_force("LOG_BUFFER").map(|(len, _)| len).as_deref())
            }
            _ => fatal::reason(name, &value),
        };
        Some((format!("UCX_{name}"), format!("{value} in {from}: {}", reason?)))
    };
    configured.keys().find_map(ends)
}

pub(super) fn check(report: &mut Report, topology: &Topology, library: &Path, ucx: &Path) {
    let devices = UcxDevices::of_this_machine();
    let machine = Machine::of_these(&devices);
    let found = format!("{} with an address", devices.interfaces());
    if machine.chosen.is_some() {
        report.note(
            SECTION,
            "interfaces",
            format!("{found}, more than UCX takes: connectors choose those that lead out"),
            Some("name those to use: NixlOptions::network_devices, or UCX_NET_DEVICES".to_owned()),
        );
    } else {
        report.ok_for(SECTION, "interfaces", found);
    }
    for transport in &machine.refused {
        report.note(
            SECTION,
            *transport,
            format!("the system refuses {}", needed(transport)),
            Some("permit it, or go without: processes of one machine are slower then".to_owned()),
        );
    }
    let plan = plan(&machine, environment(), configured::read(&folders_of(library)));
    for (name, value, source) in &plan {
        match source {
            Source::Chosen => {
                let found = format!("{value}, which connectors choose on this machine");
                report.ok_for(SECTION, name, found);
            }
            Source::File(file) => {
                let found = format!("{value} in {}", file.display());
                report.note(SECTION, name, found, None);
            }
            Source::Environment => {
                let found = format!("{value} in the environment, before any option");
                report.note(SECTION, name, found, None);
            }
        }
    }
    let given: Vec<_> = plan
        .iter()
        .filter(|(.., source)| *source == Source::Chosen)
        .map(|(name, value, _)| (&**name, &**value))
        .collect();
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
    let transports: BTreeSet<&str> = facts.transports().collect();
    report.ok_for(SECTION, "transports", joined(&transports));
    let devices: BTreeSet<&str> = facts.devices().collect();
    report.ok_for(SECTION, "devices", joined(&devices));
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

/// What a transport takes of the system.
fn needed(transport: &str) -> &'static str {
    match transport {
        "cma" => "process_vm_readv or process_vm_writev",
        "posix" => "a file in /dev/shm (UCX_POSIX_DIR)",
        _ => "shmget or shmat",
    }
}

/// UCX names the ports of a NIC.
fn is_used(nic: &str, devices: &BTreeSet<&str>) -> bool {
    devices.iter().any(|device| device.split_once(':').is_some_and(|(name, _)| name == nic))
}

fn joined(names: &BTreeSet<&str>) -> String {
    names.iter().copied().collect::<Vec<_>>().join(", ")
}

/// Whether AWS's adapter is there.
pub(super) fn has_efa() -> bool {
    Machine::of_these(&UcxDevices::of_this_machine()).has_efa
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nic_is_used_by_its_ports() {
        let devices = BTreeSet::from(["eth0", "lo", "memory", "mlx5_1:1"]);
        assert!(is_used("mlx5_1", &devices));
        assert!(
            !is_used("mlx5_0", &devices)
                && !is_used("mlx5_11", &devices)
                && !is_used("rxe0", &devices)
        );
    }

    #[test]
    fn a_file_at_which_ucx_would_wait_or_end_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ucx.conf");
        let refused = |set: &'static str| {
            let variable = move |name: &str| (name == set).then(|| "1M".into());
            refusal(variable, &[folder.path().to_owned()])
        };
        let write = |content: &str| std::fs::write(&file, content).unwrap();
        write("UCX_TLS=tcp\nUCX_LOG_FILE_SIZE=100");
        let (name, found) = refused("").unwrap();
        assert!(name == "UCX_LOG_FILE_SIZE" && found.contains("ucx.conf"), "{found}");
        assert_eq!(refused("UCX_LOG_FILE_SIZE"), None, "the environment counts");
        std::fs::remove_file(&file).unwrap();
        assert_eq!(refused(""), None);
        let pipe = std::process::Command::new("mkfifo").arg(&file).status().unwrap();
        assert!(pipe.success() && refused("").unwrap().1.contains("no regular file"));
    }

    #[test]
    fn the_plan_is_the_connectors_choice_below_the_environment() {
        let machine = Machine {
            has_cuda: true,
            has_rdma: false,
            has_efa: false,
            chosen: Some(vec!["eth0".to_owned(), "lo".to_owned()]),
            refused: vec!["cma"],
        };
        let set = [("UCX_MODULES", "all"), ("UCX_TLS", "tcp"), ("HOME", "/root")];
        let set = set.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let file = PathBuf::from("/etc/ucx/ucx.conf");
        let of_file = |value: &str| (value.to_owned(), file.clone());
        let configured = [("TLS", "all"), ("MEMTYPE_CACHE", "y")];
        let configured = configured.map(|(name, value)| (name.to_owned(), of_file(value)));
        let plan = plan(&machine, set.into_iter(), configured.into());
        let plan: Vec<_> =
            plan.iter().map(|(name, value, by)| (&**name, &**value, by.clone())).collect();
        assert_eq!(
            plan,
            [
                ("UCX_MEMTYPE_CACHE", "y", Source::File(file)),
                ("UCX_MODULES", "all", Source::Environment),
                ("UCX_NET_DEVICES", "eth0,lo", Source::Chosen),
                ("UCX_TCP_CONN_NB", "y", Source::Chosen),
                ("UCX_TLS", "tcp", Source::Environment),
            ]
        );
    }
}
