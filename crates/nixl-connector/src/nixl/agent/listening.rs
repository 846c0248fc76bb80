//! The listening sockets of an agent, and the networks that are admitted to them.

use std::net::IpAddr;

use super::super::library::NixlUnavailable;
use super::super::listener::Listener;
use super::super::options::NixlOptions;

/// The listening sockets of the agent, kept from started programs and from networks that are not admitted.
pub(super) fn guarded(
    before: &[(u64, u16)],
    details: &[u8],
    options: &NixlOptions,
    devices: usize,
) -> Result<Listener, NixlUnavailable> {
    let listener = Listener::found(before, &Listener::open_now(), details);
    listener.keep_apart();
    let Some(networks) = options.admitted_networks() else { return Ok(listener) };
    let failed = |reason| NixlUnavailable::Start { what: "filter of networks", reason };
    let admitted = listener.admit(networks);
    let count = admitted.map_err(|error| failed(format!("the kernel refuses it: {error}")))?;
    if count == 0 && devices > 0 {
        return Err(failed("UCX's listening sockets are not found in /proc".to_owned()));
    }
    Ok(listener)
}

/// Refuses networks that are none.
pub(super) fn check_networks(options: &NixlOptions) -> Result<(), NixlUnavailable> {
    let bits_of = |address: &IpAddr| if address.is_ipv4() { 32 } else { 128 };
    let networks = options.admitted_networks().into_iter().flatten();
    match networks.into_iter().find(|(address, bits)| *bits > bits_of(address)) {
        None => Ok(()),
        Some((address, bits)) => Err(NixlUnavailable::Setting {
            name: "NixlOptions::admit_networks".to_owned(),
            value: format!("{address}/{bits}"),
            reason: format!("such an address has {} bits", bits_of(address)),
        }),
    }
}
