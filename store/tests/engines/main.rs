//! Engines: one suite over all of them, and what the embedded ones promise beyond it.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests stop at the first surprise"
)]

mod blobs;
mod catalog;
mod sled_index;
