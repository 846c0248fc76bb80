//! CUDA on real devices. Without one, each test says that it is skipped.
#![allow(clippy::unwrap_used)] // In helpers too: a device that fails, fails the test.
#![allow(unsafe_code)] // Kernels and raw copies.
#![allow(clippy::print_stdout)] // What was skipped, and figures.

mod children;
mod copies;
mod devices;
mod figures;
mod kernels;
mod memory;
mod order;
mod support;
mod two_gpus;
