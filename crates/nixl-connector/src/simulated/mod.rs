//! A transport that needs no engine.
