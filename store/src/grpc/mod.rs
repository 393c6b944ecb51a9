//! The gRPC face.

pub mod access;
mod agents;
mod face;
mod fleet;
mod logs;
mod rollouts;
pub mod sessions;
mod status;
mod view;

pub use face::Face;
