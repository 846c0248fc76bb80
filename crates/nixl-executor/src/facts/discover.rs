//! Discovery of this process's own facts: host, GPUs, NICs and UCX settings.

use std::sync::Arc;

use nixl_device::cuda::{GpuDirectSupport, NicLink, devices, gpu_links, nic_links};
use nixl_device::{MachineIdentity, NodeAccess, PerProcess, PortState, RdmaNic, Topology};
use nixl_metadata::HostIdentity;

use super::sides::NO_NIC;
use super::{Fact, LocalFacts, LocalGpu, UcxTransports};

impl LocalFacts {
    /// The facts of this process. The first call reads files and queries the driver, for milliseconds, so make it off async
    /// threads; the result is kept. Never fails and never panics: without CUDA there are no GPUs.
    #[must_use]
    pub fn discover() -> Arc<Self> {
        static FOUND: PerProcess<Arc<LocalFacts>> = PerProcess::new(|| Arc::new(told(find())));
        Arc::clone(FOUND.get())
    }
}

/// Logs the facts for the choice of paths.
fn told(facts: LocalFacts) -> LocalFacts {
    let reason = |fact: &Fact| fact.as_ref().err().map(ToString::to_string);
    let with_gpu_direct = facts.gpus.iter().filter(|gpu| gpu.gpu_direct.is_ok()).count();
    tracing::info!(
        gpus = facts.gpus.len(),
        with_gpu_direct,
        gpu_pairs = facts.peer_access.len(),
        without_cuda = reason(&facts.cuda),
        without_rdma = reason(&facts.rdma),
        "facts for the choice of paths"
    );
    facts
}

fn find() -> LocalFacts {
    let topology = Topology::discover();
    let mut facts = LocalFacts {
        host: identity(topology.host()),
        ucx: UcxTransports::of_this_process(),
        rdma: any_nic(topology.nics()),
        ..LocalFacts::default()
    };
    let devices = match devices() {
        Ok(devices) => devices,
        Err(reason) => {
            facts.cuda = Err(format!("this process has no CUDA: {reason}").into());
            return facts;
        }
    };
    facts.cuda = Ok(());
    let nics = nic_links(&devices, &topology);
    facts.gpus = devices
        .iter()
        .map(|device| LocalGpu {
            ordinal: device.ordinal(),
            uuid: Some(device.uuid().to_bytes()).filter(|uuid| *uuid != [0; 16]),
            gpu_direct: gpu_direct(device.ordinal(), &nics, topology.nics()),
        })
        .collect();
    // None, if the driver cannot report them.
    let links = gpu_links(&devices).unwrap_or_default();
    let reaches =
        |from, to| links.iter().any(|l| l.peer_access() && (l.from(), l.to()) == (from, to));
    facts.peer_access = links
        .iter()
        .filter(|link| {
            link.from() < link.to() && link.peer_access() && reaches(link.to(), link.from())
        })
        .map(|link| (link.from(), link.to()))
        .collect();
    facts
}

fn identity(machine: &MachineIdentity) -> Option<HostIdentity> {
    let hostname = machine.hostname().unwrap_or("unknown");
    let boot_id = machine.boot_id().unwrap_or_default();
    let identity = HostIdentity::new(hostname, boot_id, std::process::id()).ok()?;
    Some(
        identity
            .with_pid_namespace(machine.pid_namespace())
            .with_ipc_namespace(machine.ipc_namespace()),
    )
}

/// A usable NIC of this process, or the missing condition of the first.
fn any_nic(nics: &[RdmaNic]) -> Fact {
    let mut verdicts = nics.iter().map(usable);
    match verdicts.next() {
        None => Err(NO_NIC.into()),
        Some(Ok(())) => Ok(()),
        Some(Err(why)) if !verdicts.any(|verdict| verdict.is_ok()) => Err(why),
        Some(Err(_)) => Ok(()),
    }
}

fn usable(nic: &RdmaNic) -> Fact {
    let name = nic.name();
    match &nic.verbs() {
        None => return Err(format!("{name} has no verbs device").into()),
        Some(verbs) if verbs.access() == NodeAccess::Missing => {
            let node = verbs.name();
            return Err(format!("{name}: there is no /dev/infiniband/{node} here").into());
        }
        Some(verbs) if verbs.access() == NodeAccess::Denied => {
            let node = verbs.name();
            return Err(format!("this process may not open /dev/infiniband/{node}").into());
        }
        Some(_) => {}
    }
    if nic.ports().iter().any(|port| port.state() == Some(PortState::Active)) {
        return Ok(());
    }
    Err(format!("{name} has no active port").into())
}

/// Whether a usable NIC reaches the GPU's memory, or the missing condition of the nearest.
fn gpu_direct(gpu: u32, links: &[NicLink], nics: &[RdmaNic]) -> Fact {
    any_nic(nics)?;
    let usable =
        |link: &&NicLink| nics.iter().any(|nic| nic.name() == link.nic() && usable(nic).is_ok());
    let mut nearest = None;
    for link in links.iter().filter(|link| link.gpu() == gpu).filter(usable) {
        match (link.rdma_by_peer_memory(), link.rdma_by_dma_buf()) {
            (
                GpuDirectSupport::Impossible { reason },
                GpuDirectSupport::Impossible { reason: other },
            ) => {
                nearest.get_or_insert_with(|| format!("{}: {reason}; {other}", link.nic()));
            }
            // A possible one is enough for a try: use proves it.
            _ => return Ok(()),
        }
    }
    Err(nearest.map_or_else(|| NO_NIC.into(), Into::into))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_described_without_a_panic() {
        let facts = LocalFacts::discover();
        assert!(facts.host.is_some());
        assert_eq!(facts.cuda.is_ok(), !facts.gpus.is_empty());
        assert!(Arc::ptr_eq(&facts, &LocalFacts::discover()));
    }

    #[test]
    fn without_a_nic_nothing_reaches_gpu_memory() {
        assert_eq!(any_nic(&[]), Err(NO_NIC.into()));
        assert_eq!(gpu_direct(0, &[], &[]), Err(NO_NIC.into()));
    }
}
