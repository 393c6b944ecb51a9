//! Engines: where objects and records lie.
//!
//! Two narrow traits, [`Blobs`] for immutable objects named by their digest and [`Catalog`] for small
//! records changed by compare-and-swap. One suite of conformance tests runs over every engine.

pub mod blobs;
pub mod catalog;
mod watch;

pub(crate) use blobs::Slice;
pub use blobs::{Blobs, BlobsError, Object, ObjectKind, ObjectReader, Staged};
pub use catalog::{Catalog, CatalogError, Change, Entry, Outcome, Value, Version, Write};
pub use watch::{Seen, Watch};
