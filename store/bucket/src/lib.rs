//! Assets in a bucket of an S3-compatible store: each an object under its URL path, with its type and `immutable`.
//!
//! For the store, which pushes what `[[push]]` names, and for `shipctl asset push`, which pushes from where it runs. A crate of
//! its own, since nobody else is to link what speaks S3.
//!
//! Objects are created and never replaced (`If-None-Match: *`): where a server knows that condition, two that push to one
//! bucket cannot harm each other. What is there already is compared by the digest that we wrote beside it, else by its bytes; so
//! whatever broke a push off, the next one sends only what lacks.
//!
//! * [`settings`]: which bucket, and how it is reached. [`door`]: the way in, its keys and what it refuses.
//! * [`bucket`]: looking, putting, taking away. [`send`]: how the bytes of one asset get there.

#![forbid(unsafe_code)]

mod bucket;
mod door;
mod send;
mod settings;

pub use bucket::{Bucket, BucketError, Put, Taken};
pub use door::{Door, Refusal};
pub use settings::{BucketDefect, BucketSettings};
