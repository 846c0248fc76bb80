//! Statistics of an image, which the worker answers and the frontend passes on.

use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
pub(crate) struct Statistics {
    /// Height, width, channels.
    pub(crate) shape: Vec<usize>,
    pub(crate) mean: f64,
    /// Dynamo's content hash, in hexadecimal digits.
    pub(crate) hash: String,
}
