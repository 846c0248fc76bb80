//! The names that most programs use: `use nixl_executor::prelude::*`.
//!
//! What is less common, and the errors below [`ConnectorError`], is at the [top level](crate).

pub use crate::{
    Advice, Completion, Connector, ConnectorBuilder, ConnectorError, DescriptorList, Device,
    OperationError, OperationOptions, PathPolicy, RdmaMetadata, Region,
};
