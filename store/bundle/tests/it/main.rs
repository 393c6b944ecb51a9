//! Trees, bundles and staged releases as their users see them, with real files and the real tar.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests stop at the first surprise"
)]

mod bad_bundle;
mod bad_stage;
mod bad_tree;
mod crash;
mod delta;
mod delta_staged;
mod fixture;
mod frozen;
mod memory;
mod mending;
mod ordinary_tools;
mod round_trip;
mod seen;
mod segments;
mod stamped;
