//! A peer's export, as an import reaches it.

mod admit;
mod check;
mod connected;
mod import;
mod messages;
mod notifications;
mod options;
mod paths;
mod pieces;
mod prefault;
mod prepared;
mod probe;
mod reads;
mod ready;
mod silent;
mod under_way;
mod waits;
mod writes;

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use nixl_descriptor::DescriptorList;
use nixl_descriptor::layout::RemoteLayout;
use nixl_descriptor::tensor::TensorLayout;
use nixl_device::LeakInChild;
use nixl_metadata::{ExportMetadata, NotificationKey};
use nixl_ops::{Mailbox, OperationOptions, PathReport, PeerId};

use self::check::Words;
use self::connected::LastConnection;
pub use self::import::ImportOptions;
use self::notifications::NotificationNumbers;
pub use self::options::BlockTransferOptions;
use self::prepared::PreparedBlocks;
use self::ready::ReadyLayers;
use self::under_way::ReadsUnderWay;
use self::waits::WatchedGrants;
use crate::admission::{Permit, TransferClass};
use crate::grants::metrics::BlockMetrics;
use crate::{Connector, ConnectorError, tensors};

/// A peer's export, reached: its blocks can be read by tickets. Cheap to clone.
///
/// The engine is connected and the path to each layout has moved some bytes when [`Connector::import`] returns it. A restarted
/// owner is another export: its old tickets and this import end with errors.
///
/// It belongs to the process that imported it. In a forked child, every call is an error at once
/// ([`TransportError::Forked`](nixl_ops::TransportError::Forked)).
#[derive(Clone)]
pub struct RemoteExport(Handle);

/// The import, which a forked child does not drop.
#[derive(Clone)]
struct Handle(LeakInChild<Arc<Imported>>);

impl Deref for Handle {
    type Target = Imported;

    fn deref(&self) -> &Imported {
        &self.0
    }
}

struct Imported {
    connector: Connector,
    metadata: ExportMetadata,
    layouts: Arc<[RemoteLayout]>,
    words: Words,
    /// Of each layout into host memory of this process.
    paths: Vec<Option<PathReport>>,
    /// Bytes whose pages were mapped when it was imported.
    prefaulted: u64,
    /// The owner; `None` if that is this process.
    peer: Option<PeerId>,
    /// Identifies this import to the owner.
    reader: [u8; 16],
    notified: NotificationNumbers,
    /// The owner's mailbox, if this import's messages do not go through the engine.
    mailbox: Option<Mailbox>,
    prepared: Arc<PreparedBlocks>,
    ready: ReadyLayers,
    /// The grants whose layers are waited for.
    watched: WatchedGrants,
    under_way: Arc<ReadsUnderWay>,
    looked: LastConnection,
    metrics: BlockMetrics,
    /// Stands for that of an offer where executors need one. No owner has it.
    key: NotificationKey,
}

impl RemoteExport {
    fn new(imported: Imported) -> Self {
        Self(Handle(LeakInChild::new(Arc::new(imported))))
    }

    /// Runs that are listed on the caller's thread.
    pub(super) const LISTED_HERE: usize = 64;

    /// What was imported.
    #[must_use]
    pub fn metadata(&self) -> &ExportMetadata {
        &self.0.metadata
    }

    /// A layout by its name, and its position among those of the export.
    #[must_use]
    pub fn layout(&self, name: &str) -> Option<(usize, &RemoteLayout)> {
        let at = self.0.metadata.layouts().iter().position(|layout| layout.name == name)?;
        Some((at, self.0.layouts.get(at)?))
    }

    /// The tensor that each block of a layout is, without gaps: what a reader of blocks allocates for each.
    ///
    /// # Errors
    ///
    /// [`ConnectorError::NoSuchLayout`]; [`ConnectorError::NoTensor`] if the owner stated none,
    /// [`ConnectorError::UnknownElement`] for a type of a later release, and [`ConnectorError::Tensor`] for a shape that is no
    /// tensor's here.
    pub fn block_tensor(&self, layout: &str) -> Result<TensorLayout, ConnectorError> {
        let missing = || ConnectorError::NoSuchLayout { layout: layout.to_owned() };
        let (at, _) = self.layout(layout).ok_or_else(missing)?;
        tensors::layout_of(self.0.metadata.tensor(at).ok_or(ConnectorError::NoTensor)?)
    }

    /// Bytes of the export whose pages were mapped when it was imported: see [`ImportOptions::prefault`].
    #[must_use]
    pub fn prefaulted(&self) -> u64 {
        self.0.prefaulted
    }

    /// Whether the words of the grants are mapped here, so that checking a read takes no request of the engine's.
    #[must_use]
    pub fn words_are_mapped(&self) -> bool {
        !matches!(self.0.words, Words::Engine(_))
    }

    /// A layout that a ticket was admitted for.
    fn remote(&self, layout: usize) -> &RemoteLayout {
        &self.0.layouts[layout]
    }

    fn default_options(&self) -> BlockTransferOptions {
        BlockTransferOptions::new().operation(self.0.connector.default_options())
    }

    /// Waits until it is the turn of a transfer.
    async fn turn(
        &self,
        class: TransferClass,
        (peer, local): (&PeerId, &DescriptorList),
        options: OperationOptions,
    ) -> Result<(Permit, OperationOptions), ConnectorError> {
        let connection = self.0.connector.connection();
        let (admission, bytes) = (connection.admission(), local.total_bytes());
        if let Some(permit) = admission.try_admit(class, peer, bytes) {
            return Ok((permit, options));
        }
        let turn = admission.admit(class, peer, bytes);
        let (permit, options) = connection.driver().with_timeout(options, turn).await?;
        Ok((permit?, options))
    }
}

impl fmt::Debug for RemoteExport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteExport")
            .field("metadata", &self.0.metadata)
            .field("words_are_mapped", &self.words_are_mapped())
            .finish_non_exhaustive()
    }
}
