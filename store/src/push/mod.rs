//! Pushing assets to where a CDN takes them from: a folder, or a bucket of an S3-compatible store.
//!
//! Each push is a host of class `assets` in its environment that the store itself keeps: it is told what it must have as
//! every asset host is, and reports when it has it. So the barrier waits for it, `status` and `plan` name it, policy may
//! excuse it, and what goes wrong is told, as with any other.
//!
//! What is there stays until it has expired everywhere ([`crate::retention`]), and goes then, unless `keep` says that others
//! rely on it: so nothing is missing there that retention keeps anywhere. After a crash whole files are there, and what is
//! missing is found and pushed at the next start.
//!
//! * [`settings`]: `[[push]]` of a `store.toml`.
//! * [`place`]: what a push needs of where it goes. [`folder`], [`bucket`]: the two there are (the way into a bucket is `ship-bucket`).
//!   [`remembered`]: what this store knows of one. [`giving`]: what has expired.
//! * [`all`]: the pushes by name. [`host`]: the host that each is.

mod all;
mod bucket;
mod folder;
mod giving;
mod host;
mod place;
mod remembered;
mod settings;

pub use all::{PushHandle, Pushes};
pub use host::Pushing;
pub use place::Tally;
pub(crate) use settings::TEMPLATE;
pub use settings::{PushDefect, PushSettings, check};
pub use ship_bucket::BucketSettings;
