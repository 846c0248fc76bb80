//! Requests of the engine's for the words of a grant, and the memory that they bring them to.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nixl_descriptor::{
    Descriptor, DescriptorList, LeaseMode, Leased, Leases, Registration, copy_range_to_slice,
};
use nixl_device::Device;
use nixl_metadata::{OperationKind, SerializedDescriptor, WordsLocation};
use nixl_ops::{PeerId, Transfer, TransferSpec, Transport, TransportError};

use crate::{Connector, ConnectorError};

/// Room for the words of one slot: registered, and leased for writing.
struct Room {
    registrations: Vec<Registration>,
    local: Descriptor,
    leased: Leased,
}

/// Rooms that no request uses.
#[derive(Default)]
pub(super) struct Rooms {
    free: Mutex<Vec<Room>>,
}

impl Rooms {
    /// How many are kept: as many reads end at one time.
    const KEPT: usize = 64;

    fn lock(&self) -> MutexGuard<'_, Vec<Room>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn take(&self, connector: &Connector) -> Result<Room, ConnectorError> {
        if let Some(room) = self.lock().pop() {
            return Ok(room);
        }
        let region = connector.buffer(WordsLocation::SLOT_BYTES as usize)?;
        let list = DescriptorList::from(region.whole());
        let registrations = connector.connection().register(&list).await?;
        let leased = Leases::acquire_list(list, LeaseMode::Write)?;
        Ok(Room { registrations, local: region.whole(), leased })
    }
}

/// Reads one slot's words through the engine.
pub(super) struct WordRequest {
    transport: Arc<dyn Transport>,
    peer: PeerId,
    /// The words of the slot at the owner.
    remote: SerializedDescriptor,
    room: Option<Room>,
    rooms: Arc<Rooms>,
}

impl WordRequest {
    /// For a slot that the export has.
    pub(super) async fn new(
        connector: &Connector,
        (words, slot): (&WordsLocation, u32),
        peer: PeerId,
        rooms: &Arc<Rooms>,
    ) -> Result<Self, ConnectorError> {
        let bytes = WordsLocation::SLOT_BYTES;
        // Inside the address space, as the metadata was checked.
        let address = words.address + bytes * u64::from(slot);
        let remote = SerializedDescriptor::new(Device::HOST, address, bytes)?;
        let room = Some(rooms.take(connector).await?);
        let transport = Arc::clone(connector.connection().transport());
        Ok(Self { transport, peer, remote, room, rooms: Arc::clone(rooms) })
    }

    pub(super) fn prepare(&self) -> Result<Box<dyn Transfer>, TransportError> {
        let Some(room) = &self.room else { return Err(TransportError::Closed) };
        self.transport.prepare(TransferSpec::new(
            OperationKind::Read,
            &self.peer,
            (std::slice::from_ref(&room.local), &room.leased),
            std::slice::from_ref(&self.remote),
            None,
            room.registrations.clone(),
        )?)
    }

    /// The slot's words, once they have arrived and the request was released.
    pub(super) fn arrived(&self) -> Result<[u64; 2], TransportError> {
        let failed = |reason: String| TransportError::Engine {
            engine: "grant",
            call: "read a word",
            reason: reason.into(),
        };
        let Some(room) = &self.room else { return Err(TransportError::Closed) };
        let held = room.leased.begin_use().map_err(|error| failed(error.to_string()))?;
        let mut bytes = [0; 16];
        copy_range_to_slice(&room.local, 0, &mut bytes, &[&held])
            .map_err(|error| failed(error.to_string()))?;
        let [a, b, c, d, e, f, g, h, rest @ ..] = bytes;
        // In the owner's byte order: engines reach peers of one architecture only.
        Ok([u64::from_ne_bytes([a, b, c, d, e, f, g, h]), u64::from_ne_bytes(rest)])
    }

    /// Another request may use the room: that of this one has ended, and what it brought was read.
    pub(super) fn give_back(&mut self) {
        let mut free = self.rooms.lock();
        if free.len() < Rooms::KEPT {
            free.extend(self.room.take());
        }
    }
}
