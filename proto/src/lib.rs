//! The wire: generated types, and their conversions to and from the model's.
//!
//! Wire types stop here: a conversion checks that a message is well-formed, and nothing else. Whoever
//! calls a service decides what a well-formed message may do.

#![forbid(unsafe_code)]

/// Version of the protocol, sent as metadata `ship-protocol` with every call.
pub const PROTOCOL: &str = "1";

/// Largest message either side sends or accepts, in bytes.
pub const MAX_MESSAGE: usize = 4 << 20;
/// Largest piece of a stream of bytes.
pub const MAX_PIECE: usize = 1 << 20;
/// Most digests in one message.
pub const MAX_DIGESTS: usize = 8192;

/// What `build.rs` generated from `ship/v1/*.proto`.
#[allow(
    missing_debug_implementations,
    clippy::allow_attributes_without_reason,
    clippy::large_enum_variant,
    clippy::large_futures,
    reason = "generated"
)]
pub mod v1 {
    tonic::include_proto!("ship.v1");
}

mod convert;
mod failure;

pub use convert::{WireError, digest, digests, require};
pub use failure::{FAILURE_KEY, failure_of, refuse, with_reason};
