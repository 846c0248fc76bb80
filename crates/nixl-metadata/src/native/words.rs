//! Encoding of the place of an export's words.

use serde::{Deserialize, Serialize};

use super::file::File;
use crate::WordsLocation;

#[derive(Serialize, Deserialize)]
pub(super) struct Words {
    address: u64,
    slots: u32,
    file: Option<File>,
}

impl Words {
    pub(super) fn new(words: &WordsLocation) -> Self {
        let &WordsLocation { address, slots, ref file } = words;
        Self { address, slots, file: file.as_ref().map(File::new) }
    }

    /// The export checks it.
    pub(super) fn unchecked(self) -> WordsLocation {
        let Self { address, slots, file } = self;
        WordsLocation { address, slots, file: file.map(File::unchecked) }
    }
}
