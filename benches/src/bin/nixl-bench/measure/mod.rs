//! The measurements, one file each.

mod idle;
mod metadata;
mod registration;
mod round_trip;
mod transfer;

pub(crate) use idle::idle;
pub(crate) use metadata::metadata;
pub(crate) use registration::registration;
pub(crate) use round_trip::round_trip;
pub(crate) use transfer::{in_flight, passive, transfer};
