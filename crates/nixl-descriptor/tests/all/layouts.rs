//! Layouts of blocks, against models that count bytes one by one.

mod copies;
mod descriptions;
mod geometry;
mod grants;
mod leases;
mod map;
mod model;
mod overlap;
mod pairs;
mod targets;
