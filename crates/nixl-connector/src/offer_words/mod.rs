//! The words of one-shot offers, by which initiators check through the engine that an offer stands.

mod check;
mod own;

pub(crate) use check::OfferCheck;
pub(crate) use own::OwnWords;
