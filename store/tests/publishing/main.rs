//! A tree becomes a release: in three steps, once, whole, under one number; and the store as a whole is
//! verified, copied and put back.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests stop at the first surprise, and no crash comes between their writes"
)]

mod admin;
mod audit;
mod by_delta;
mod deltas;
mod garbage;
mod optimize;
mod publish;
mod refused;
mod scene;
mod scrub;
mod segments;
mod sweep;
mod tree;
