//! Advice on the errors of a connector (retry, ask again, give up), and their causes as labels of metrics.

use nixl_ops::{Advice, GrantError};
use nixl_ops::{OperationError, TransportError};

use crate::{BlockReadError, BlockWriteError, ConnectorError, ExportedLayoutError, TicketError};

impl ConnectorError {
    /// The remedy, found at any depth of the chain of sources.
    ///
    /// ```
    /// use nixl_connector::{Advice, Completion, Connector, ConnectorError};
    /// use nixl_descriptor::Region;
    /// use nixl_metadata::RdmaMetadata;
    ///
    /// /// Reads what the peer offers, with as many offers as it takes; `ask` gets one from it.
    /// async fn read(
    ///     connector: &Connector,
    ///     ask: impl AsyncFn() -> RdmaMetadata,
    ///     local: &Region,
    /// ) -> Result<Completion, ConnectorError> {
    ///     let mut remote = ask().await;
    ///     for _ in 0..3 {
    ///         match connector.read(&remote, local.clone()).await {
    ///             Err(error) if error.advice() == Advice::AskAgain => remote = ask().await,
    ///             ended => return ended,
    ///         }
    ///     }
    ///     connector.read(&remote, local.clone()).await
    /// }
    /// ```
    #[must_use]
    pub fn advice(&self) -> Advice {
        match self {
            Self::Pairing(error) => error.advice(),
            Self::Metadata(error) => error.advice(),
            Self::Operation(error) => error.advice(),
            Self::Transport(error) => error.advice(),
            Self::Lease(error) => error.advice(),
            Self::Access(error) => error.advice(),
            Self::Memory(error) => error.advice(),
            Self::Tensor(error) => error.advice(),
            Self::Descriptor(error) => error.advice(),
            Self::Register(error) | Self::ExportedMemory { error, .. } => error.advice(),
            Self::ExportedLayout(error) => error.advice(),
            Self::WorkQueue(error) => error.advice(),
            #[cfg(feature = "nixl")]
            Self::Nixl(error) => error.advice(),
            Self::Grant(error) => error.advice(),
            Self::Ticket(error) => error.advice(),
            Self::ExportClosed { .. } | Self::ContentHash { .. } => Advice::AskAgain,
            Self::Thread { .. } | Self::WouldBlock { .. } => Advice::Retry,
            Self::NoSuchLayout { .. }
            | Self::NoTensor
            | Self::MediaType { .. }
            | Self::UnknownElement { .. }
            | Self::OtherTensor { .. }
            | Self::OverLimit { .. }
            | Self::NotificationTooLarge { .. }
            | Self::NoNotifications { .. }
            | Self::ReadOnly { .. }
            | Self::ForeignMemory { .. }
            | Self::ChecksumOfWritable
            | Self::ChecksumOfDevice { .. }
            | Self::ChecksumIntoDevice { .. }
            | Self::NoChecksum
            | Self::NoOfferWord { .. }
            | Self::ForkedAmidThreads
            | Self::Draining
            | Self::BadName { .. }
            | Self::NoRandomness { .. }
            | Self::NoTransport => Advice::GiveUp,
        }
    }
}

impl ConnectorError {
    /// The engine's error, before or in an operation.
    pub(crate) fn as_transport(&self) -> Option<&TransportError> {
        match self {
            Self::Transport(error) | Self::Operation(OperationError::Transport(error)) => {
                Some(error)
            }
            _ => None,
        }
    }

    /// The cause, one word of a closed set, as a label of metrics.
    #[must_use]
    pub fn cause(&self) -> &'static str {
        match self {
            Self::Operation(error) => error.cause(),
            Self::Transport(error) => error.cause(),
            Self::Metadata(_) => "bad-metadata",
            Self::Draining | Self::ExportClosed { .. } => "closed",
            Self::WouldBlock { .. } => "queue-full",
            Self::Ticket(error) => error.cause(),
            Self::Grant(error) => of_grant(error),
            _ => "failed",
        }
    }
}

/// The cause of a refused call on a grant of this process, in the words for a peer's.
fn of_grant(error: &GrantError) -> &'static str {
    match error {
        GrantError::Over => "stale",
        GrantError::NotReady { .. } | GrantError::Unpublished => "not-ready",
        GrantError::NotGranted { .. }
        | GrantError::WrongToken { .. }
        | GrantError::NoSlot { .. }
        | GrantError::NoLayout { .. } => "not-granted",
        GrantError::Closed => "closed",
        _ => "failed",
    }
}

impl TicketError {
    fn cause(&self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::OtherExport { .. }
            | Self::NoSuchLayout { .. }
            | Self::NoSuchSlot { .. }
            | Self::OtherRights { .. }
            | Self::Layers { .. } => "not-granted",
            Self::PartOfLayers
            | Self::Pairing(_)
            | Self::Selection(_)
            | Self::Lease(_)
            | Self::Local(_) => "failed",
        }
    }

    /// The remedy.
    #[must_use]
    pub fn advice(&self) -> Advice {
        match self {
            Self::OtherExport { .. }
            | Self::NoSuchLayout { .. }
            | Self::NoSuchSlot { .. }
            | Self::OtherRights { .. }
            | Self::Expired => Advice::AskAgain,
            Self::Lease(error) => error.advice(),
            Self::Local(error) => error.advice(),
            Self::Pairing(error) => error.advice(),
            Self::Selection(error) => error.advice(),
            Self::PartOfLayers | Self::Layers { .. } => Advice::GiveUp,
        }
    }
}

impl BlockReadError {
    /// The remedy, of its [cause](Self::cause).
    #[must_use]
    pub fn advice(&self) -> Advice {
        self.cause().advice()
    }
}

impl BlockWriteError {
    /// The remedy, of its [cause](Self::cause).
    #[must_use]
    pub fn advice(&self) -> Advice {
        self.cause().advice()
    }
}

impl ExportedLayoutError {
    /// The remedy: [`Advice::GiveUp`], since the layout stays as it is.
    #[must_use]
    pub fn advice(&self) -> Advice {
        match self {
            Self::TooLarge { .. } => Advice::GiveUp,
            Self::Geometry(error) => error.advice(),
            Self::Layout(error) => error.advice(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::mem::discriminant;

    use Advice::{AskAgain, GiveUp, Retry};
    use nixl_descriptor::layout::{ChunkPairError, GeometryError, LayoutError, SelectionError};
    use nixl_descriptor::tensor::{DType, TensorError, TensorLayout};
    use nixl_descriptor::{
        AccessError, DescriptorError, LeaseError, LeaseMode, Leases, Region, RegionError,
        RegisterError,
    };
    use nixl_device::{Device, SharedError};
    use nixl_metadata::{ExportId, MetadataError};
    use nixl_ops::{GrantError, OperationError, PairingError, TransportError};

    use super::*;

    fn conflict() -> LeaseError {
        let region = Region::zeroed(1).unwrap();
        let _held = Leases::acquire(&[region.whole()], LeaseMode::Write).unwrap();
        Leases::acquire(&[region.whole()], LeaseMode::Read).unwrap_err()
    }

    fn too_large() -> ExportedLayoutError {
        ExportedLayoutError::TooLarge { dimension: "number of layers", size: 70_000, most: 65_535 }
    }

    fn bytes(len: usize) -> Box<TensorLayout> {
        Box::new(TensorLayout::new(DType::U8, &[len]).unwrap())
    }

    fn table() -> Vec<(ConnectorError, Advice)> {
        use ConnectorError as E;
        let text = String::new;
        let (index, device) = (0, Device::cuda(0));
        let no_more = RegisterError::OutOfResources { what: text(), hint: text() };
        vec![
            (E::Pairing(PairingError::ReadOnly { index }), GiveUp),
            (E::Metadata(MetadataError::Checksum), AskAgain),
            (E::Metadata(MetadataError::Malformed), GiveUp),
            (E::Descriptor(DescriptorError::EmptyList), GiveUp),
            (E::Memory(RegionError::OutOfMemory { len: 1, message: text(), source: None }), Retry),
            (E::Memory(RegionError::Empty), GiveUp),
            (E::Memory(RegionError::AddressOverflow { address: 1, len: 1 }), GiveUp),
            (E::Lease(conflict()), Retry),
            (E::Lease(LeaseError::InUse), Retry),
            (E::Lease(LeaseError::Empty), GiveUp),
            (E::Lease(LeaseError::Overlap { region: Region::zeroed(1).unwrap().id() }), GiveUp),
            (E::Lease(LeaseError::ReadOnly { region: Region::zeroed(1).unwrap().id() }), GiveUp),
            (E::Access(AccessError::Leased { mode: LeaseMode::Read }), Retry),
            (E::Access(AccessError::OutOfMemory { len: 1 }), Retry),
            (E::Access(AccessError::OutOfBounds { offset: 1, len: 1, size: 1 }), GiveUp),
            (E::Access(AccessError::LengthMismatch { src: 1, dst: 2 }), GiveUp),
            (E::Access(AccessError::NotHost { device }), GiveUp),
            (E::Access(AccessError::ReadOnly), GiveUp),
            (E::Tensor(TensorError::Access(AccessError::OutOfMemory { len: 1 })), Retry),
            (E::Tensor(TensorError::Lease(conflict())), Retry),
            (E::Tensor(TensorError::TooManyRuns { limit: 1 }), GiveUp),
            (E::NoSuchLayout { layout: text() }, GiveUp),
            (E::NoTensor, GiveUp),
            (E::MediaType { dtype: text() }, GiveUp),
            (E::ContentHash { stated: 1, found: 2 }, AskAgain),
            (E::UnknownElement { code: 200, bits: 8 }, GiveUp),
            (E::OtherTensor { offered: bytes(1), local: bytes(2) }, GiveUp),
            (E::OverLimit { bytes: 2, limit: 1 }, GiveUp),
            (E::ReadOnly { index }, GiveUp),
            (E::ForeignMemory { index }, GiveUp),
            (E::ChecksumOfWritable, GiveUp),
            (E::ChecksumOfDevice { index, device }, GiveUp),
            (E::ChecksumIntoDevice { index, device }, GiveUp),
            (E::NoChecksum, GiveUp),
            (E::NoOfferWord { reason: "" }, GiveUp),
            (E::Register(RegisterError::OutOfResources { what: text(), hint: text() }), Retry),
            (E::Register(RegisterError::Unsupported { device }), GiveUp),
            (E::Register(RegisterError::ReadOnlyPages { len: 1 }), GiveUp),
            (
                E::Register(RegisterError::Engine { engine: "", error: SharedError::text("") }),
                GiveUp,
            ),
            (E::Operation(OperationError::QueueFull { limit: 1 }), Retry),
            (E::Operation(OperationError::Transport(TransportError::Stale)), AskAgain),
            (E::Transport(TransportError::Stale), AskAgain),
            (E::Transport(TransportError::Closed), GiveUp),
            (E::Grant(GrantError::Full { slots: 1 }), Retry),
            (E::Grant(GrantError::Over), AskAgain),
            (E::Grant(GrantError::Closed), GiveUp),
            (E::Ticket(TicketError::Expired), AskAgain),
            (E::Ticket(TicketError::Lease(conflict())), Retry),
            (E::NotificationTooLarge { bytes: 5000, limit: 4096 }, GiveUp),
            (E::NoNotifications { owner: text() }, GiveUp),
            (E::ExportClosed { export: ExportId::new(1) }, AskAgain),
            (E::ExportedLayout(too_large()), GiveUp),
            (E::ExportedMemory { layout: text(), part: 3, len: 1, error: no_more }, Retry),
            (E::ForkedAmidThreads, GiveUp),
            (E::Draining, GiveUp),
            (E::WouldBlock { queued: 4096 }, Retry),
            (E::Thread { error: std::io::Error::other("").into() }, Retry),
            (E::BadName { name: text(), reason: "it is empty" }, GiveUp),
            (E::NoTransport, GiveUp),
            #[cfg(feature = "nixl")]
            (E::Nixl(crate::nixl::NixlUnavailable::NoBackend), GiveUp),
        ]
    }

    #[test]
    fn every_error_is_decided() {
        for (error, advice) in table() {
            assert_eq!(error.advice(), advice, "{error:?}");
        }
    }

    #[test]
    fn every_error_of_a_ticket_is_decided() {
        use TicketError as E;
        let export = ExportId::new(1);
        let table = [
            (E::OtherExport { ticket: export, import: export }, AskAgain),
            (E::NoSuchLayout { layout: 1, layouts: 1 }, AskAgain),
            (E::NoSuchSlot { slot: 1, slots: 1 }, AskAgain),
            (E::OtherRights { writing: true }, AskAgain),
            (E::Layers { start: 0, end: 1, first: 1, last: 2 }, GiveUp),
            (E::PartOfLayers, GiveUp),
            (E::Expired, AskAgain),
            (E::Pairing(ChunkPairError::Count { src: 1, dst: 2 }), GiveUp),
            (E::Selection(SelectionError::NoBlocks), GiveUp),
            (E::Lease(conflict()), Retry),
            (E::Local(AccessError::OutOfMemory { len: 1 }), Retry),
        ];
        for (error, advice) in table {
            assert_eq!(error.advice(), advice, "{error:?}");
        }
    }

    #[test]
    fn every_error_of_an_exported_layout_is_decided() {
        let geometry = GeometryError::Outer { outer: 3 };
        let layout = LayoutError::Overflow { part: 0 };
        for error in [too_large(), geometry.into(), layout.into()] {
            assert_eq!(error.advice(), GiveUp, "{error:?}");
        }
    }

    /// As many as `ConnectorError` has: the match over them makes a new one show up, this makes it be tested.
    #[test]
    fn the_table_has_every_variant() {
        let table = table();
        let mut variants: Vec<_> = table.iter().map(|(error, _)| discriminant(error)).collect();
        variants.dedup();
        let expected = if cfg!(feature = "nixl") { 38 } else { 37 };
        assert_eq!(variants.len(), expected);
    }
}
