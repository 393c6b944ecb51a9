//! Carrying rollouts out: who is there, and the one controller that moves every environment.
//!
//! ```text
//! session ──report──▶ Fleet (memory) ──"h3 changed"──▶ Conductor of (env, app)
//! operator ──ask────────────────────────────────────▶   │ model: step(state, event, now)
//!                                                        ▼
//!                     ledger: state by compare-and-swap, with audit and the request's answer in one batch
//!                                                        ▼ only then
//!                     Board: hosts hear what to run, watchers see the progress
//! ```
//!
//! What a crash loses is announcements only: what hosts should do is in the state, and a store that starts again
//! loads every state and goes on.

mod checks;
mod conductor;
mod controller;
mod expect;
mod facts;
pub mod fleet;
mod policies;
mod shares;
mod standing;
mod steer;
pub(crate) mod telling;
mod ways;

pub use controller::{Controller, Parts};
pub use facts::{FactsError, ManifestSource};
pub use standing::{HostWish, StandError};
pub use steer::{Steer, SteerError, SteerVerb, Wanted};
pub use ways::HostWay;
