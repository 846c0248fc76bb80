//! Helpers shared by the whole-workspace tests.
