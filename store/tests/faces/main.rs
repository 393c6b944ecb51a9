//! A real store, as a process of its own, spoken to over TLS.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test stops at the first surprise"
)]

mod access;
mod agent;
mod assets;
mod bucket;
mod deltas;
mod environments;
mod fleet;
mod garbage;
mod gates;
mod hostile;
mod hosts;
mod memory;
mod notify;
mod optimize;
mod ports;
mod publishing;
mod push;
mod restored;
mod rollouts;
mod sessions;
