//! The fields of messages, as errors name them.

use std::fmt;

use crate::native;

/// A part of a message, in either profile, or of a ticket. Prints as the path that a reader of the JSON would write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Field {
    /// The whole message.
    Document,
    /// The fixed header of the native profile.
    Header,
    /// What follows the header in the native profile.
    Payload,
    /// The fixed core of the payload, from version 4 of the native profile.
    Core,
    /// The section with this id, from version 4 of the native profile.
    Section(u16),
    /// The list of descriptors.
    Descriptors,
    /// The descriptor at this position.
    Descriptor(usize),
    /// The device of the descriptor at this position.
    Device(usize),
    /// The address in the descriptor at this position.
    Ptr(usize),
    /// The size in the descriptor at this position.
    Size(usize),
    /// The compressed metadata of the peer's agent.
    NixlMetadata,
    /// The same, once inflated.
    InflatedMetadata,
    /// The key that the completion notification carries.
    NotificationKey,
    /// Whether the offer is for reading or for writing.
    OperationKind,
    /// The name of the peer's agent (native profile).
    AgentName,
    /// The name of the peer's host (native profile).
    HostName,
    /// The boot that the peer's host is in (native profile).
    BootId,
    /// The list of the peer's transports (native profile).
    Transports,
    /// The transport at this position (native profile).
    Transport(usize),
    /// The name of the layout at this position of an export.
    LayoutName(usize),
    /// The name of the type of media.
    MediaDtype,
    /// The name of a format or of a type of colours of an image.
    MediaName,
    /// This library's offer in a message of media.
    MediaOffer,
    /// A ticket.
    Ticket,
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Document => f.write_str("the message"),
            Self::Header => f.write_str("the header"),
            Self::Payload => f.write_str("the payload"),
            Self::Core => f.write_str("the core"),
            Self::Section(id) => match native::section_name(*id) {
                Some(name) => write!(f, "section {id} ({name})"),
                None => write!(f, "section {id}"),
            },
            Self::Descriptors => f.write_str("descriptors"),
            Self::Descriptor(index) => write!(f, "descriptors[{index}]"),
            Self::Device(index) => write!(f, "descriptors[{index}].device"),
            Self::Ptr(index) => write!(f, "descriptors[{index}].ptr"),
            Self::Size(index) => write!(f, "descriptors[{index}].size"),
            Self::NixlMetadata => f.write_str("nixl_metadata"),
            Self::InflatedMetadata => f.write_str("the inflated nixl_metadata"),
            Self::NotificationKey => f.write_str("notification_key"),
            Self::OperationKind => f.write_str("operation_kind"),
            Self::AgentName => f.write_str("peer.agent_name"),
            Self::HostName => f.write_str("peer.host.hostname"),
            Self::BootId => f.write_str("peer.host.boot_id"),
            Self::Transports => f.write_str("peer.transports"),
            Self::Transport(index) => write!(f, "peer.transports[{index}]"),
            Self::LayoutName(index) => write!(f, "layouts[{index}].name"),
            Self::MediaDtype => f.write_str("dtype"),
            Self::MediaName => f.write_str("metadata.Image"),
            Self::MediaOffer => f.write_str("nixl_offer"),
            Self::Ticket => f.write_str("the ticket"),
        }
    }
}
