//! `ship-agent`: one for each host. It fetches, verifies and unpacks releases, switches static ones, asks keepers to switch
//! the others, and reports. Nothing that users depend on lives in it: it may be killed or replaced at any moment.
//!
//! ```text
//!            session ──desired──▶ converge ──▶ stage · assets · switch · keeper
//!   store ◀──(dials)               │  one loop per app, journal first
//!            session ◀──reports── report           ▲
//!                                                   └── local (socket), offline (agent dead)
//! ```
//!
//! * [`config`], [`layout`]: who and where we are.
//! * [`dial`], [`trust`], [`fetch`]: the way to the store, to mirrors and to other hosts, and what is got from there.
//! * [`giving`]: what other hosts get from this one.
//! * [`stage`], [`assets`], [`switch`], [`keeper`]: hands, each blocking.
//! * [`metrics`]: what is counted, for graphs.
//! * [`missing`]: an asset that was asked for and is not here.
//! * [`journal`]: what must not be forgotten, durable before it is acted on.
//! * [`scrub`]: reads again, slowly, what lies here.
//! * [`balancer`]: users are elsewhere while an app restarts with a gap.
//! * [`converge`]: brings what is to what should be.
//! * [`session`], [`report`]: the line to the store.
//! * [`probe`]: one question to gRPC's health service, for keepers.
//! * [`doctor`]: what this host lets us do, and what falls back where it does not.
//! * [`local`], [`offline`], [`revert`], [`logs`], [`verify`], [`exec`]: what works with everything else dead.

#![forbid(unsafe_code)]

pub mod assets;
pub mod balancer;
pub mod cli;
pub mod clock;
pub mod config;
pub mod converge;
pub mod dial;
pub mod doctor;
pub mod exec;
pub mod fetch;
pub mod giving;
pub mod journal;
pub mod keeper;
pub mod layout;
pub mod local;
pub mod logs;
pub mod metrics;
mod missing;
pub mod offline;
pub mod probe;
pub mod report;
pub mod revert;
pub mod run;
pub mod scrub;
pub mod session;
pub mod stage;
pub mod switch;
pub mod telling;
mod trust;
pub mod verify;
