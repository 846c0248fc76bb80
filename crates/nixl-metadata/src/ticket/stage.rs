//! The stage of a ticket's blocks when it was made.

/// Whether the blocks were filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// All layers. Also of blocks to be written.
    Filled,
    /// Some layers are filled later.
    Unfilled,
}

impl Stage {
    const UNFILLED: u8 = 1 << 1;

    /// The flags of a ticket.
    pub(super) const fn to_flags(self) -> u8 {
        match self {
            Self::Filled => 0,
            Self::Unfilled => Self::UNFILLED,
        }
    }

    pub(super) const fn from_flags(flags: u8) -> Self {
        if flags & Self::UNFILLED == 0 { Self::Filled } else { Self::Unfilled }
    }
}
