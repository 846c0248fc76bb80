//! Which memories and links a machine has.
//!
//! ```
//! use nixl_device::Device;
//!
//! assert_eq!("gpu:1".parse(), Ok(Device::cuda(1)));
//! assert_eq!(Device::HOST.to_string(), "cpu");
//! ```

mod device;

pub use device::{Device, DeviceKind, ParseDeviceError};
