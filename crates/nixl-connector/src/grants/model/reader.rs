//! A reader of the model, and its reads.

use std::ops::Range;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use nixl_descriptor::Region;
use nixl_descriptor::layout::Layout;
use nixl_ops::{Completion, EndedOffer, OperationError, TransportError};

use super::super::{BlockReadError, BlockTransferOptions, RemoteExport, TicketError};
use super::Random;
use super::owner::{BLOCKS, Granted, LAYERS, content, geometry};
use crate::{Connector, ConnectorError};

/// A process that reads.
pub(super) struct Reader {
    pub(super) connector: Connector,
    pub(super) import: RemoteExport,
    /// Until that step nothing of it moves.
    pub(super) stopped_until: usize,
    /// Nor do its messages arrive.
    pub(super) is_cut_off: bool,
    /// Destinations that no read uses.
    pub(super) rooms: Vec<(Layout, Region)>,
}

impl Reader {
    pub(super) fn new(connector: Connector, import: RemoteExport) -> Self {
        Self { connector, import, stopped_until: 0, is_cut_off: false, rooms: Vec::new() }
    }
}

/// One that has begun.
pub(super) struct Read {
    /// The agent that reads.
    pub(super) agent: String,
    pub(super) granted: Rc<Granted>,
    future: Pin<Box<dyn Future<Output = Result<Completion, BlockReadError>>>>,
    flag: Arc<Flag>,
    room: (Layout, Region),
    to: Vec<usize>,
    layers: Range<usize>,
    was_over: bool,
}

/// How a read ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Ended {
    Right,
    Stale,
    Expired,
    /// A process is dead, or the ticket is of an owner that is.
    Gone,
}

impl Ended {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Right => "right",
            Self::Stale => "stale",
            Self::Expired => "expired",
            Self::Gone => "gone",
        }
    }
}

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

impl Read {
    pub(super) fn begin(reader: &mut Reader, granted: &Rc<Granted>, random: &mut Random) -> Self {
        let room = reader.rooms.pop().unwrap_or_else(|| {
            let region = Region::zeroed(geometry().bytes()).unwrap();
            (Layout::fully_contiguous(geometry(), region.clone()).unwrap(), region)
        });
        let first = random.below(BLOCKS);
        let to: Vec<_> =
            (0..granted.ticket.blocks().len()).map(|at| (first + at) % BLOCKS).collect();
        let layers = if random.one_in(3) { 1..1 + random.below(LAYERS) } else { 0..LAYERS };
        let layers = if layers.is_empty() { 0..LAYERS } else { layers };
        let options = BlockTransferOptions::new().layers(layers.clone());
        let (import, ticket) = (reader.import.clone(), granted.ticket.clone());
        let (layout, blocks) = (room.0.clone(), to.clone());
        let future =
            Box::pin(
                async move { import.read_blocks_with(&ticket, &layout, &blocks, options).await },
            );
        Self {
            agent: reader.connector.name().to_owned(),
            granted: Rc::clone(granted),
            future,
            flag: Arc::new(Flag(AtomicBool::new(true))),
            room,
            to,
            layers,
            was_over: granted.is_over.get(),
        }
    }

    /// Looks at it if it was woken.
    ///
    /// # Panics
    ///
    /// If it ended as it must not.
    pub(super) fn poll(&mut self, now: impl Fn() -> Duration) -> Poll<Ended> {
        if !self.flag.0.swap(false, Ordering::Acquire) {
            return Poll::Pending;
        }
        let waker = Waker::from(Arc::clone(&self.flag));
        let Poll::Ready(result) = self.future.as_mut().poll(&mut Context::from_waker(&waker))
        else {
            return Poll::Pending;
        };
        Poll::Ready(match result {
            Ok(_) => {
                self.check_bytes();
                assert!(!self.was_over, "a read of an ended grant succeeded");
                Ended::Right
            }
            Err(error) => {
                let ended = class(error.cause()).unwrap_or_else(|| panic!("{error}"));
                let granted = &self.granted;
                match ended {
                    Ended::Stale => assert!(granted.may_be_over(now()), "it is not stale"),
                    Ended::Expired => assert!(granted.has_expired(now()), "it has not expired"),
                    Ended::Right | Ended::Gone => {}
                }
                ended
            }
        })
    }

    fn check_bytes(&self) {
        let Granted { ticket, versions, .. } = &*self.granted;
        let bytes = self.room.1.to_vec().unwrap();
        let len = geometry().layer_len();
        for ((&block, versions), &to) in ticket.blocks().iter().zip(versions).zip(&self.to) {
            for layer in self.layers.clone() {
                let found = &bytes[(to * LAYERS + layer) * len..][..len];
                let expected = content(block as usize, layer, versions[layer]);
                assert!(found == expected, "wrong bytes of block {block}, layer {layer}");
            }
        }
    }

    /// Its destination, once it has ended.
    pub(super) fn into_room(self) -> (Layout, Region) {
        self.room
    }
}

/// `None` for an error that no reader should meet.
fn class(error: &ConnectorError) -> Option<Ended> {
    match error {
        ConnectorError::Transport(error)
        | ConnectorError::Operation(OperationError::Transport(error)) => match error {
            TransportError::Stale => Some(Ended::Stale),
            TransportError::PeerGone { .. }
            | TransportError::UnknownPeer { .. }
            // Of an owner that was killed while its bytes were read.
            | TransportError::OfferEnded { why: EndedOffer::OwnerGone }
            | TransportError::Closed => Some(Ended::Gone),
            _ => None,
        },
        ConnectorError::Ticket(TicketError::Expired) => Some(Ended::Expired),
        // Memory cannot be registered with an agent that is dead.
        ConnectorError::Ticket(TicketError::OtherExport { .. })
        | ConnectorError::Register(_)
        | ConnectorError::ExportClosed { .. } => Some(Ended::Gone),
        _ => None,
    }
}
