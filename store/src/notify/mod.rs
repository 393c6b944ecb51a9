//! Telling people and programs what is done to the fleet.
//!
//! A route takes the audit chain, link by link, and tells what it is about to the first of its sinks that takes it. How far it
//! is stands in the ledger: the chain itself is the spool, so nothing is lost while no sink can be reached, while the store is
//! down, or when it dies at any point. An event is told at least once; who must not act twice looks at its `seq`.

mod message;
mod route;
pub mod settings;
mod sink;
mod state;
mod webhook;

pub use message::Message;
pub use route::{Parts, StartError, start};
pub use settings::{NotifyDefect, NotifySettings, SinkSettings};
pub use sink::{Sink, TellError};
pub use state::{RouteState, Routes, Trouble};
