//! The names that most programs use: `use nixl_executor::prelude::*`.
//!
//! Less common names, and the errors below [`ConnectorError`], are at the [top level](crate).

pub use crate::{
    Advice, Completion, Connector, ConnectorBuilder, ConnectorError, DescriptorList, Device,
    Export, ExportMetadata, Grant, GrantOptions, OperationError, OperationOptions, PathPolicy,
    RdmaMetadata, Region, RemoteExport, Ticket, TransportError,
};
