//! A tree becomes a release: in three steps, once, whole, under one number; and the store as a whole is
//! verified, copied and put back.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests stop at the first surprise"
)]

mod admin;
mod audit;
mod publish;
mod refused;
mod tree;
