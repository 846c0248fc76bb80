//! Tensors: views against a naive calculation of indices, refusals, copies and conversions.

#[cfg(feature = "ndarray")]
mod arrays;
mod copies;
#[cfg(feature = "dlpack")]
mod dlpack;
mod refusals;
#[cfg(feature = "safetensors")]
mod safetensors;
#[cfg(feature = "safetensors")]
mod targets;
mod views;
