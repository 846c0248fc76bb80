//! Encoding of a share.

use serde::{Deserialize, Serialize};

use super::sequence::{blob, each, sequence};
use crate::share::check_count;
use crate::{MetadataError, Share as Checked, ShareKind as CheckedKind};

/// The content of the section of shares.
#[derive(Serialize, Deserialize)]
pub(super) struct Shares<'a>(
    #[serde(borrow, deserialize_with = "sequence::<_, _, { usize::MAX }>")] Vec<Share<'a>>,
);

impl<'a> Shares<'a> {
    pub(super) fn new(shares: &'a [Checked]) -> Result<Self, MetadataError> {
        Ok(Self(each(shares, Share::new)?))
    }

    /// Makes what the program uses, of no more shares than there are ranges to be shared; the message checks them.
    pub(super) fn validate(self, ranges: usize) -> Result<Vec<Checked>, MetadataError> {
        let Self(shares) = self;
        check_count(shares.len(), ranges)?;
        each(shares, |_, wire| wire.validate())
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct Share<'a> {
    first: u32,
    count: u32,
    offset: u64,
    #[serde(borrow)]
    kind: Kind<'a>,
}

/// Numbered from 0 in this order. The handles are lists of bytes, so that decoding one copies nothing.
#[derive(Serialize, Deserialize)]
enum Kind<'a> {
    CudaIpc {
        /// 72 bytes.
        #[serde(serialize_with = "blob")]
        handle: &'a [u8],
    },
    File {
        pid: u32,
        fd: u32,
        name: [u8; 16],
        length: u64,
    },
}

/// The size of the encoding of a list of shares.
pub(super) fn encoded_len(shares: &[Checked]) -> u64 {
    let each = shares.iter().map(|share| {
        let kind = match share.kind() {
            CheckedKind::CudaIpc { handle } => 8 + handle.len() as u64,
            CheckedKind::File { .. } => 4 + 4 + 16 + 8,
        };
        4 + 4 + 8 + 4 + kind
    });
    8 + each.sum::<u64>()
}

impl<'a> Share<'a> {
    /// The share at `index`, checked by the offer that it is in.
    pub(super) fn new(index: usize, share: &'a Checked) -> Result<Self, MetadataError> {
        let run = share.descriptors();
        let number = |value| {
            u32::try_from(value)
                .map_err(|_| MetadataError::ShareRange { index, count: u32::MAX as usize })
        };
        Ok(Self {
            first: number(run.start)?,
            count: number(run.len())?,
            offset: share.offset(),
            kind: match share.kind() {
                CheckedKind::CudaIpc { handle } => Kind::CudaIpc { handle },
                &CheckedKind::File { pid, fd, name, length } => {
                    Kind::File { pid, fd, name, length }
                }
            },
        })
    }

    /// Makes what the program uses; the offer checks it.
    pub(super) fn validate(&self) -> Result<Checked, MetadataError> {
        let first = self.first as usize;
        let end = first.saturating_add(self.count as usize);
        let kind = match self.kind {
            Kind::CudaIpc { handle } => CheckedKind::CudaIpc { handle: exactly(handle)? },
            Kind::File { pid, fd, name, length } => CheckedKind::File { pid, fd, name, length },
        };
        Ok(Checked::new(first..end, kind, self.offset))
    }
}

fn exactly<const N: usize>(bytes: &[u8]) -> Result<[u8; N], MetadataError> {
    bytes.try_into().map_err(|_| MetadataError::Malformed)
}
