//! The executor traits of a connection, implemented by `PathConnection`.

use std::sync::Arc;
use std::time::Duration;

use nixl_descriptor::DescriptorList;
use nixl_device::{Device, SharedError};
use nixl_metadata::{ExportId, NotificationKey, PeerInfo, RdmaMetadata, Share};
use nixl_ops::{
    ConnectionExecutor, Execution, GrantTable, Offer, OfferRegistry, PeerId, PeerService, Prefault,
    Preparation, Received, TransferRequest, TransportError,
};

use super::path_connection::{PathConnection, is_host_memory};
use super::path_transfer::PathTransfer;
use crate::local::{self, ProcessOffers, is_host};
use crate::remote_memory::{prefault, shares};

impl ConnectionExecutor for PathConnection {
    fn execute(&self, request: TransferRequest<'_>) -> Result<Box<dyn Execution>, TransportError> {
        let Some(route) = &request.route() else { return local::begin(&request, &self.context) };
        let mut devices = request.local().iter().map(|d| d.device());
        let first = devices.next();
        if devices.any(|device| Some(device) != first) {
            let reason = "the local memory is of several devices; use one operation for each";
            let (engine, call) = ("executor", "begin");
            return Err(TransportError::Engine { engine, call, reason: SharedError::text(reason) });
        }
        let info = request.remote().peer();
        let peer = self.watched(self.peers.of_id(route.peer()), info);
        self.ask_engine(&peer, &request);
        let (sides, offered) =
            ((request.local(), request.remote()), self.offered(request.remote()));
        let query = self.query(request.kind(), sides, offered, request.policy());
        let (plan, mut history, failures) =
            self.plan(&peer, info, query, request.local().total_bytes());
        self.note_memory(&request, &plan, &mut history);
        self.shared.maintenance.note_use();
        let me = self.me.upgrade().ok_or(TransportError::Closed)?;
        PathTransfer::begin(me, peer, (plan, history, failures), &request)
    }

    fn is_local(&self, local: &DescriptorList, remote: &RdmaMetadata) -> bool {
        local::is_local(local, remote, &*self.shared.gpus)
    }

    fn prepare(
        &self,
        local: &DescriptorList,
        remote: Option<&RdmaMetadata>,
    ) -> Option<Preparation> {
        let staging = self.services.staging.prepare(local, remote);
        let opening = remote.and_then(|remote| self.opening(local, remote));
        let jobs: Vec<_> = [staging, opening].into_iter().flatten().collect();
        match jobs.is_empty() {
            true => None,
            false => Some(Box::new(move || jobs.into_iter().try_for_each(|job| job()))),
        }
    }

    fn prefault(&self, remote: &RdmaMetadata, at_most: u64) -> Option<Prefault> {
        prefault(&self.imports, remote, at_most)
    }

    fn can_access(&self, device: Device) -> bool {
        local::can_access(&*self.shared.gpus, device)
    }

    fn needs_local_metadata(&self, local: &DescriptorList, remote: &RdmaMetadata) -> bool {
        let Some(peer) = remote.peer().filter(|peer| peer.capabilities().staging()) else {
            return false;
        };
        // Staged, or copied by the peer's GPU.
        !is_host_memory(remote) || (peer.capabilities().ipc() && !is_host(local))
    }

    fn offers(&self) -> Option<&dyn OfferRegistry> {
        Some(self)
    }

    fn peers(&self) -> Option<&dyn PeerService> {
        Some(self)
    }
}

impl OfferRegistry for PathConnection {
    fn offer_created(&self, offer: Offer) {
        ProcessOffers::get().insert(offer.clone());
        self.services.sessions.offer_created(offer);
    }

    fn offer_ended(&self, key: &NotificationKey) {
        ProcessOffers::get().remove(key);
        self.services.sessions.offer_ended(key);
        if self.shared.slots.are_allocated() {
            // They may be idle from now on.
            self.shared.maintenance.note_use();
        }
    }

    fn export_opened(&self, export: ExportId, table: &Arc<GrantTable>) {
        self.services.sessions.export_opened(export, table);
    }

    fn describe(&self, info: PeerInfo) -> PeerInfo {
        self.facts.describe(info, true)
    }

    fn shares(&self, local: &DescriptorList) -> Vec<Share> {
        shares(&*self.shared.gpus, local)
    }
}

impl PeerService for PathConnection {
    fn receive(&self, from: &str, payload: &[u8]) -> Received {
        let received = self.services.receive(from, payload);
        if matches!(received, Received::Serve(_)) {
            self.shared.maintenance.note_use();
        }
        received
    }

    fn has_sessions(&self) -> bool {
        self.services.sessions.len() > 0
    }

    fn poll_interval(&self) -> Option<Duration> {
        self.services.sessions.poll_interval()
    }

    fn completed_by_slot(&self, key: &NotificationKey) {
        self.services.sessions.completed_otherwise(key);
    }

    fn peer_ended(&self, peer: &PeerId) {
        self.forget_soon(peer.as_str());
    }

    fn peer_leaves(&self, peer: &PeerId) {
        self.leaves(peer.as_str());
    }

    fn look_for_released(&self) {
        self.imports.sweep_soon();
    }
}
