//! RDMA metadata, as a peer receives it.

mod withdrawn;

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::encodings::Encodings;
use crate::{
    AgentMetadata, Checksum, Field, Limits, MetadataError, NativeVersion, NotificationKey,
    OfferTerms, OfferWord, OperationKind, PeerInfo, SerializedDescriptor, Share, SlotAddress,
    TensorDescription, TraceContext, dynamo, embed, native, share,
};

/// An offer: memory that the peer may read or write, how to reach its owner, and the key of its completion.
///
/// Its holder has that access. Clones share the lists, so cloning takes less than a microsecond. `Debug` shows no address, key or agent
/// metadata.
///
/// With serde it is Dynamo's object in formats for people, which carries as little as [`to_dynamo_json`](Self::to_dynamo_json),
/// and the bytes of [`to_native_bytes`](Self::to_native_bytes) in binary ones. Both are decoded within the default [`Limits`].
#[derive(Clone, PartialEq, Eq)]
pub struct RdmaMetadata {
    operation_kind: OperationKind,
    descriptors: Arc<Vec<SerializedDescriptor>>,
    total_bytes: u64,
    agent_metadata: AgentMetadata,
    notification_key: NotificationKey,
    peer: Option<Arc<PeerInfo>>,
    slot_address: Option<SlotAddress>,
    shares: Arc<[Share]>,
    encodings: Encodings,
    terms: Option<OfferTerms>,
    checksum: Option<Checksum>,
    trace_context: Option<TraceContext>,
    tensor: Option<Arc<TensorDescription>>,
    word: Option<OfferWord>,
}

impl RdmaMetadata {
    /// Offers the memory that the descriptors name.
    ///
    /// # Errors
    ///
    /// [`MetadataError::NoDescriptors`] or [`MetadataError::TotalOverflow`].
    pub fn new(
        operation_kind: OperationKind,
        descriptors: Vec<SerializedDescriptor>,
        agent_metadata: AgentMetadata,
        notification_key: NotificationKey,
    ) -> Result<Self, MetadataError> {
        if descriptors.is_empty() {
            return Err(MetadataError::NoDescriptors);
        }
        let total_bytes = descriptors
            .iter()
            .try_fold(0u64, |total, descriptor| total.checked_add(descriptor.size()))
            .ok_or(MetadataError::TotalOverflow)?;
        Ok(Self {
            operation_kind,
            descriptors: Arc::new(descriptors),
            total_bytes,
            agent_metadata,
            notification_key,
            peer: None,
            slot_address: None,
            shares: Arc::default(),
            encodings: Encodings::default(),
            terms: None,
            checksum: None,
            trace_context: None,
            tensor: None,
            word: None,
        })
    }

    /// Adds who makes the offer. Only the native profile carries it.
    #[must_use]
    pub fn with_peer(mut self, peer: impl Into<Arc<PeerInfo>>) -> Self {
        self.peer = Some(peer.into());
        self
    }

    /// Sets the memory that other processes of the host can open, in ascending order of the descriptors. Only the
    /// native profile carries it.
    ///
    /// # Errors
    ///
    /// [`MetadataError::TooManyShares`], [`MetadataError::ShareRange`], [`MetadataError::ShareOrder`],
    /// [`MetadataError::ShareDevice`] or [`MetadataError::ShareBounds`] if they do not suit the descriptors.
    pub fn with_shares(mut self, shares: Vec<Share>) -> Result<Self, MetadataError> {
        share::check(&shares, &self.descriptors)?;
        self.shares = shares.into();
        Ok(self)
    }

    /// Sets the slot in which processes of the host report their completion. Only the native profile carries it.
    ///
    /// # Errors
    ///
    /// [`MetadataError::BadSlotAddress`] if there is no such place, or the token is 0.
    pub fn with_slot_address(mut self, slot_address: SlotAddress) -> Result<Self, MetadataError> {
        if slot_address.slot >= SlotAddress::SLOTS || slot_address.token == 0 {
            return Err(MetadataError::BadSlotAddress { slot: slot_address.slot });
        }
        self.slot_address = Some(slot_address);
        Ok(self)
    }

    /// Sets the terms: the end of the offer, the number of its initiators, and those that claim it. Only the native
    /// profile carries it, from version 4.
    ///
    /// # Errors
    ///
    /// [`MetadataError::ReadersOfWritable`] if a writable offer is for more than one initiator.
    pub fn with_terms(mut self, terms: OfferTerms) -> Result<Self, MetadataError> {
        terms.check(self.operation_kind)?;
        self.terms = Some(terms);
        Ok(self)
    }

    /// Sets the checksum of the offered bytes. Only the native profile carries it, from version 4: initiators that
    /// get the offer in another form read it unverified.
    ///
    /// # Errors
    ///
    /// [`MetadataError::ChecksumOfWritable`] if the offer is to be written.
    pub fn with_checksum(mut self, checksum: Checksum) -> Result<Self, MetadataError> {
        Checksum::check(self.operation_kind)?;
        self.checksum = Some(checksum);
        Ok(self)
    }

    /// Sets the trace of the offer. Only the native profile carries it, from version 4.
    #[must_use]
    pub fn with_trace_context(mut self, context: TraceContext) -> Self {
        self.trace_context = Some(context);
        self
    }

    /// Sets the tensor that the offered bytes are. Only the native profile carries it, from version 4.
    ///
    /// # Errors
    ///
    /// [`MetadataError::TensorBytes`] if the tensor has more or fewer bytes than are offered.
    pub fn with_tensor(mut self, tensor: TensorDescription) -> Result<Self, MetadataError> {
        tensor.check(self.total_bytes)?;
        self.tensor = Some(Arc::new(tensor));
        Ok(self)
    }

    /// Sets the word by which initiators check through the engine that the offer stands. Only the native profile carries it, from
    /// version 4.
    ///
    /// # Errors
    ///
    /// [`MetadataError::BadOfferWord`] if the offer is to be written.
    pub fn with_word(mut self, word: OfferWord) -> Result<Self, MetadataError> {
        OfferWord::check(self.operation_kind)?;
        self.word = Some(word);
        Ok(self)
    }

    /// Adds what a decoder has found, in the order in which faults are reported.
    pub(crate) fn with_parts(
        self,
        peer: Option<PeerInfo>,
        shares: Vec<Share>,
        slot_address: Option<SlotAddress>,
        terms: Option<OfferTerms>,
        checksum: Option<Checksum>,
    ) -> Result<Self, MetadataError> {
        let mut metadata = self.with_shares(shares)?;
        if let Some(slot_address) = slot_address {
            metadata = metadata.with_slot_address(slot_address)?;
        }
        if let Some(terms) = terms {
            metadata = metadata.with_terms(terms)?;
        }
        if let Some(checksum) = checksum {
            metadata = metadata.with_checksum(checksum)?;
        }
        metadata.peer = peer.map(Arc::new);
        Ok(metadata)
    }

    /// What the peer may do.
    #[must_use]
    pub const fn operation_kind(&self) -> OperationKind {
        self.operation_kind
    }

    /// The memory, in the order in which it pairs with the initiator's; at least one.
    #[must_use]
    pub fn descriptors(&self) -> &[SerializedDescriptor] {
        &self.descriptors
    }

    /// The size of all descriptors together, in bytes.
    #[must_use]
    pub const fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// The metadata of the owner's engine.
    #[must_use]
    pub const fn agent_metadata(&self) -> &AgentMetadata {
        &self.agent_metadata
    }

    /// What the completion notification has to carry.
    #[must_use]
    pub const fn notification_key(&self) -> &NotificationKey {
        &self.notification_key
    }

    /// Who makes the offer; none if it came in the Dynamo profile.
    #[must_use]
    pub fn peer(&self) -> Option<&PeerInfo> {
        self.peer.as_deref()
    }

    /// Where processes of the owner's host may leave their word that they are done, instead of notifying the owner through
    /// the engine. None if the offer came in the Dynamo profile.
    #[must_use]
    pub const fn slot_address(&self) -> Option<&SlotAddress> {
        self.slot_address.as_ref()
    }

    /// Until when the offer may be used, by how many initiators, and which of them claim it. None if the offer came in
    /// the Dynamo profile or in the native profile's version 3.
    #[must_use]
    pub const fn terms(&self) -> Option<&OfferTerms> {
        self.terms.as_ref()
    }

    /// The checksum of the offered bytes. None if the owner computed none, or the offer came in the Dynamo profile or in
    /// the native profile's version 3.
    #[must_use]
    pub const fn checksum(&self) -> Option<Checksum> {
        self.checksum
    }

    /// The trace that the offer belongs to. None if the owner gave none, or one that W3C calls invalid, or the offer came in
    /// the Dynamo profile or in the native profile's version 3.
    #[must_use]
    pub const fn trace_context(&self) -> Option<TraceContext> {
        self.trace_context
    }

    /// The tensor that the offered bytes are. It has as many bytes as are offered. None if the owner offered plain memory, or the
    /// offer came in the Dynamo profile or in the native profile's version 3.
    #[must_use]
    pub fn tensor(&self) -> Option<&TensorDescription> {
        self.tensor.as_deref()
    }

    /// The word by which initiators check through the engine that the offer stands. None if the owner published none, or the offer
    /// came in the Dynamo profile or in the native profile's version 3.
    #[must_use]
    pub const fn word(&self) -> Option<OfferWord> {
        self.word
    }

    /// What other processes of the owner's host can open: runs of descriptors, ascending and disjoint. None if the
    /// offer came in the Dynamo profile.
    #[must_use]
    pub fn shares(&self) -> &[Share] {
        &self.shares
    }

    /// The share that the descriptor at a position belongs to, and how many bytes into the shared memory the
    /// descriptor begins. None if it is not shared, or there is no such descriptor.
    #[must_use]
    pub fn share_of(&self, descriptor: usize) -> Option<(&Share, u64)> {
        let after = self.shares.partition_point(|share| share.descriptors().start <= descriptor);
        let share = self.shares.get(after.checked_sub(1)?)?;
        let run = share.descriptors();
        if !run.contains(&descriptor) {
            return None;
        }
        let first = self.descriptors.get(run.start)?;
        Some((share, share.place(first, self.descriptors.get(descriptor)?)?))
    }

    /// Encodes as Dynamo's `nixl_connect` does: one line of JSON, no field added, the same text for the same value.
    ///
    /// Dynamo's profile carries no [`OfferTerms`]: its initiators neither claim nor know an end, even if the offer
    /// demands. An owner that needs claims makes no offer for this profile. Nor does it carry a [`Checksum`], a
    /// [`TraceContext`], a [`TensorDescription`] or an [`OfferWord`].
    #[must_use]
    pub fn to_dynamo_json(&self) -> String {
        self.encodings.note_without_terms();
        dynamo::encode(self)
    }

    /// Remembers an encoding in a form without terms.
    pub(crate) fn note_without_terms(&self) {
        self.encodings.note_without_terms();
    }

    /// Whether this offer, or a clone of it, was encoded in a form that carries no [terms](Self::terms): its holders know
    /// neither its life time nor that they must claim it.
    #[must_use]
    pub fn was_encoded_without_terms(&self) -> bool {
        self.encodings.without_terms()
    }

    /// Decodes what Dynamo's `nixl_connect` or [`to_dynamo_json`](Self::to_dynamo_json) printed, within the default
    /// [`Limits`].
    ///
    /// A `nixl_metadata` without the prefix `b64:` is read as hexadecimal, and a descriptor without `device` is in host
    /// memory: Dynamo takes both. It also takes numbers written as text, zero sizes and repeated fields, and never
    /// prints them; those are refused.
    ///
    /// # Errors
    ///
    /// The [`MetadataError`] that names the first fault. Panics: never.
    pub fn from_dynamo_json(json: &[u8]) -> Result<Self, MetadataError> {
        Self::from_dynamo_json_with(json, &Limits::default())
    }

    /// [`from_dynamo_json`](Self::from_dynamo_json) within limits of your own.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn from_dynamo_json_with(json: &[u8], limits: &Limits) -> Result<Self, MetadataError> {
        dynamo::decode(json, limits)
    }

    /// Encodes in the newest version of the native profile, which carries all of the offer. The same bytes for the same
    /// value.
    ///
    /// # Errors
    ///
    /// [`MetadataError::TooLarge`] beyond 4 GiB, and [`MetadataError::UnsupportedDevice`] for a kind of device that the
    /// profile does not know yet.
    pub fn to_native_bytes(&self) -> Result<Vec<u8>, MetadataError> {
        self.to_native_bytes_as(NativeVersion::CURRENT)
    }

    /// [`to_native_bytes`](Self::to_native_bytes) in a version of your choice, for initiators of an earlier release
    /// while a new one is rolled out.
    ///
    /// Version 3 leaves out the [`MessageVersions`](crate::MessageVersions), the [`OfferTerms`], the [`Checksum`], the
    /// [`TraceContext`], the [`TensorDescription`], the [`OfferWord`] and the [`SlotAddress`], so that its initiators verify no bytes
    /// and notify through the engine.
    ///
    /// # Errors
    ///
    /// As there, and [`MetadataError::ClaimsNotCarried`] if the terms demand claims and the version cannot say so.
    pub fn to_native_bytes_as(&self, version: NativeVersion) -> Result<Vec<u8>, MetadataError> {
        let encoded = native::encode(self, version)?;
        if version == NativeVersion::V3 {
            self.encodings.note_without_terms();
        }
        Ok(encoded)
    }

    /// Decodes the native profile, version 3 or 4, within the default [`Limits`].
    ///
    /// # Errors
    ///
    /// The [`MetadataError`] that names the first fault. Panics: never.
    pub fn from_native_bytes(bytes: &[u8]) -> Result<Self, MetadataError> {
        Self::from_native_bytes_with(bytes, &Limits::default())
    }

    /// [`from_native_bytes`](Self::from_native_bytes) within limits of your own.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn from_native_bytes_with(bytes: &[u8], limits: &Limits) -> Result<Self, MetadataError> {
        native::decode(bytes, limits)
    }

    /// Decodes either profile within the default [`Limits`], by its first bytes.
    ///
    /// # Errors
    ///
    /// The [`MetadataError`] that names the first fault. Panics: never.
    pub fn decode(bytes: &[u8]) -> Result<Self, MetadataError> {
        Self::decode_with(bytes, &Limits::default())
    }

    /// [`decode`](Self::decode) within limits of your own.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn decode_with(bytes: &[u8], limits: &Limits) -> Result<Self, MetadataError> {
        if native::is_native(bytes) {
            native::decode(bytes, limits)
        } else {
            dynamo::decode(bytes, limits)
        }
    }
}

impl fmt::Debug for RdmaMetadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RdmaMetadata")
            .field("operation_kind", &format_args!("{}", self.operation_kind))
            .field("descriptors", &self.descriptors.len())
            .field("total_bytes", &self.total_bytes)
            .field("agent_metadata", &self.agent_metadata)
            .field("notification_key", &self.notification_key)
            .field("peer", &self.peer)
            .field("slot_address", &self.slot_address)
            .field("shares", &self.shares)
            .field("terms", &self.terms)
            .field("checksum", &self.checksum)
            .field("trace_context", &self.trace_context)
            .field("tensor", &self.tensor)
            .field("word", &self.word)
            .finish()
    }
}

impl Serialize for RdmaMetadata {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            self.encodings.note_without_terms();
            dynamo::serialize(self, serializer)
        } else {
            embed::serialize(self.to_native_bytes(), serializer)
        }
    }
}

impl<'de> Deserialize<'de> for RdmaMetadata {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let limits = Limits::default();
        if deserializer.is_human_readable() {
            dynamo::deserialize(deserializer, &limits)
        } else {
            let most = limits.encoded_bytes;
            embed::deserialize(deserializer, Field::Document, most, Self::from_native_bytes)
        }
    }
}
