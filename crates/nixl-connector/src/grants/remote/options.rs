//! The options of transfers of blocks.

use std::ops::Range;

use nixl_descriptor::layout::BlockPart;
use nixl_ops::OperationOptions;

use crate::admission::TransferClass;

/// How blocks are read or written.
#[derive(Clone, Debug, Default)]
pub struct BlockTransferOptions {
    pub(super) layers: Option<Range<usize>>,
    pub(super) outer: Option<Range<usize>>,
    pub(super) tokens: Option<Range<usize>>,
    pub(super) class: TransferClass,
    pub(super) operation: OperationOptions,
    pub(super) when_ready: bool,
}

impl BlockTransferOptions {
    /// All layers of the ticket, of the interactive class, without a deadline, by the fastest path.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Only these layers, which the ticket must grant.
    #[must_use]
    pub fn layers(mut self, layers: Range<usize>) -> Self {
        self.layers = Some(layers);
        self
    }

    /// Only these outer parts of each layer: with K and V apart, `0..1` is K. For reads; a write is of whole layers.
    #[must_use]
    pub fn outer(mut self, outer: Range<usize>) -> Self {
        self.outer = Some(outer);
        self
    }

    /// Only these tokens of each block, by their position in it. For reads; a write is of whole layers.
    #[must_use]
    pub fn tokens(mut self, tokens: Range<usize>) -> Self {
        self.tokens = Some(tokens);
        self
    }

    /// The part of each block, of these layers.
    pub(super) fn part(&self, layers: Range<usize>) -> BlockPart {
        let part = BlockPart::of_layers(layers);
        let part = match &self.outer {
            Some(outer) => part.outer(outer.clone()),
            None => part,
        };
        match &self.tokens {
            Some(tokens) => part.tokens(tokens.clone()),
            None => part,
        }
    }

    /// A read waits, within its deadline, until its layers are [ready](crate::RemoteExport::wait_ready), and is not
    /// [`NotReady`](crate::TransportError::NotReady). Writes take no notice.
    #[must_use]
    pub fn when_ready(mut self) -> Self {
        self.when_ready = true;
        self
    }

    /// Which transfers of this connector's go first. Writes go in one piece, whichever class they are of, and what this process
    /// has exported itself is copied at once.
    #[must_use]
    pub fn class(mut self, class: TransferClass) -> Self {
        self.class = class;
        self
    }

    /// The deadline, which counts from the call, and the policy for paths.
    #[must_use]
    pub fn operation(mut self, options: OperationOptions) -> Self {
        self.operation = options;
        self
    }
}
