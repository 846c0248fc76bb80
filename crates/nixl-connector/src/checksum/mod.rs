//! Checksums of the bytes of readable offers: computed by the owner, verified by the initiator.

mod sum;
mod summing;
mod verified;

use nixl_descriptor::{DescriptorList, Leased};
use nixl_device::Device;
use nixl_metadata::Checksum;

pub(crate) use verified::Verification;

use self::sum::Sum;
use self::summing::Summing;
use crate::ConnectorError;
use crate::connection::Connection;

/// The checksum of offered memory.
///
/// Cancel safe.
pub(crate) async fn of(
    list: &DescriptorList,
    leased: &Leased,
    connection: &Connection,
) -> Result<Checksum, ConnectorError> {
    let sum = Sum::new(list.clone(), leased)?;
    if Sum::is_short(list) {
        return Ok(sum.finish()?);
    }
    Ok(Summing::start(sum, connection.work()?).await?)
}

/// Refuses to compute the checksum of an offer whose memory the processor cannot read.
pub(crate) fn check_source(list: &DescriptorList) -> Result<(), ConnectorError> {
    match first_not_of_host(list) {
        Some((index, device)) => Err(ConnectorError::ChecksumOfDevice { index, device }),
        None => Ok(()),
    }
}

/// The first descriptor of memory that the processor cannot read.
fn first_not_of_host(list: &DescriptorList) -> Option<(usize, Device)> {
    let mut devices = list.iter().map(|descriptor| descriptor.device()).enumerate();
    devices.find(|(_, device)| !device.is_host())
}
