//! The agent's own face, on a socket of the host: it answers with the store, the controller and the network dead.
//!
//! Only root and the agent's own user may speak.

mod serve;
mod socket;

pub use serve::{Local, serve};
pub use socket::{bind, connect};
