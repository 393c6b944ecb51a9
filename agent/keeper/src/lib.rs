//! The keeper: the small process that owns one app's sockets and generations on one host, and alone can finish or undo a
//! switch between two releases.
//!
//! This library holds what others need of it: the [`protocol`] of its control socket, a blocking [`Client`], and the
//! machine itself, which the binary `ship-keeper` runs.

pub mod clock;
pub mod daemon;
pub mod find;
pub mod handed;
pub mod join;
pub mod listen;
pub mod log;
pub mod machine;
pub mod memory;
pub mod notify;
pub mod probe;
pub mod processes;
pub mod protocol;
pub mod relay;
pub mod sockets;

mod client;
mod control;
mod keeper;
mod unix;

pub use client::{AskError, Client, Taken, Watch};
pub use keeper::{
    Config, HAND_OVER_VERSION, Keeper, Signals, SignalsError, StartError, TAKE_OVER, TakeOverError, can_adopt,
};
