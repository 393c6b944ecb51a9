//! The gRPC face.

pub mod access;
pub mod sessions;
