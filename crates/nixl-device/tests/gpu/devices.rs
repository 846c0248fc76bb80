//! Descriptions of devices.

use nixl_device::Topology;
use nixl_device::cuda::{
    Context, DeviceError, Interconnect, devices, gpu_links, local_gpu_direct, nic_links, probe,
};

use crate::support::{one_gpu, two_gpus};

#[test]
fn devices_are_described() {
    let Some(context) = one_gpu("devices::devices_are_described") else {
        return;
    };
    let topology = Topology::discover();
    let all = devices().unwrap();
    println!("{all:#?}");
    assert_eq!(all.len(), probe().as_ref().unwrap().device_count() as usize);
    let first = &all[0];
    assert!(!first.name().is_empty() && first.multiprocessors() > 0);
    assert!(first.compute_capability() >= (5, 0));
    assert!(topology.gpus().iter().any(|gpu| Some(gpu.address()) == first.pci()));
    let info = context.memory_info().unwrap();
    println!("{info:?}");
    assert!(info.free() <= info.total() && info.total() <= first.total_memory());
    for device in &all {
        assert!(all.iter().filter(|other| other.uuid() == device.uuid()).count() == 1);
    }
    println!("{:#?}", nic_links(&all, &topology));
    println!("{:#?}", local_gpu_direct(&all, &topology));
}

#[test]
fn there_is_no_device_beyond_the_last() {
    if one_gpu("devices::there_is_no_device_beyond_the_last").is_none() {
        return;
    }
    let count = probe().as_ref().unwrap().device_count();
    for ordinal in [count, u32::MAX] {
        assert_eq!(Context::primary(ordinal), Err(DeviceError::NoSuchDevice { ordinal, count }));
    }
}

#[test]
fn links_are_the_same_both_ways() {
    if two_gpus("devices::links_are_the_same_both_ways").is_none() {
        return;
    }
    let links = gpu_links(&devices().unwrap()).unwrap();
    println!("{links:#?}");
    for link in &links {
        let back =
            links.iter().find(|back| (back.from(), back.to()) == (link.to(), link.from())).unwrap();
        assert_eq!(link.interconnect(), back.interconnect());
        assert!(*link.interconnect() != Interconnect::NvLink || link.peer_access());
    }
}

#[test]
fn without_cuda_everything_says_why() {
    let Err(reason) = probe() else { return };
    let expected = DeviceError::Unavailable(reason.clone());
    assert_eq!(Context::primary(0), Err(expected.clone()));
    assert_eq!(devices(), Err(expected.clone()));
    assert_eq!(gpu_links(&[]), Err(expected));
}
