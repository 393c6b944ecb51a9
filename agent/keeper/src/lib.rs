//! The keeper: the small process that owns one app's sockets and generations on one host, and alone can finish or undo a
//! switch between two releases.
//!
//! This library holds what others need of it: the [`protocol`] of its control socket, a blocking [`Client`], and the
//! machine itself, which the binary `ship-keeper` runs.

pub mod protocol;

mod client;
mod unix;

pub use client::{AskError, Client, Taken, Watch};
