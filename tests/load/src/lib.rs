//! An open-loop load generator that names every failure, with streams and WebSockets, and a follower of pages to their
//! assets.
//!
//! Open loop: a request is due at its time whatever the server does, and its latency counts from then, so a stall is
//! seen in full by everyone who would have met it. See [`run`](run::run) and [`follow`](follow::follow).

mod clock;
mod fetch;
mod flight;
pub mod follow;
mod histogram;
mod history;
mod links;
mod plan;
mod response;
pub mod run;
pub mod stop;
pub mod tally;
pub mod target;
pub mod websocket;
pub mod windows;
