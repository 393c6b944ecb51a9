//! Engines: one suite over all of them, and what the embedded ones promise beyond it.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests stop at the first surprise, and no crash comes between their writes"
)]

mod blobs;
mod catalog;
mod sled_index;
