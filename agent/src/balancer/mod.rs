//! Takes this host out of rotation while an app restarts with a gap, and puts it back when it serves.
//!
//! Most switches have no gap: the new generation listens before the old one leaves. Where two may not run side by side
//! (`strategy = "stop-start"`, `coexist = false`) somebody in front must send users elsewhere meanwhile:
//!
//! ```text
//! look ─▶ note in the record ─▶ drain, wait for what is under way ─▶ the keeper switches ─▶ ask it, directly and through
//!   └ unreachable: nothing was stopped                                                      the balancer ─▶ ready ─▶ note
//! ```
//!
//! The agent walks it ([`crate::converge`]), or, while it is dead, `ship-agent revert` ([`crate::offline`]). A balancer that leads
//! elsewhere than the host itself is a *proxy fault*: it stops a rollout and is held against no release.
//!
//! * [`settings`]: what `agent.toml` says.
//! * [`rule`]: what is due, without sockets.
//! * [`passage`]: out and back in, blocking; each half may be done again after a crash.
//! * [`haproxy`], [`nginx`], [`command`], [`board`] (HAProxy's agent-check, readiness by HTTP): how each is told.
//! * [`Direct`]: how the host itself is asked. [`ask`]: one request, as a user would send it.

pub mod ask;
pub mod board;
mod command;
mod direct;
mod haproxy;
mod nginx;
pub mod passage;
pub mod rule;
mod settings;

pub use board::Board;
pub use direct::Direct;
pub use passage::{Passage, PassageError};
pub use settings::{Front, Kind, Settings, Socket};
