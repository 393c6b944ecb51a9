//! The union: every fingerprinted asset of every retained release, as a folder and over HTTP.
//!
//! One room serves the store, the asset hosts and the app hosts. Files arrive one by
//! one, each complete and verified before it has its name, and none is ever replaced by other bytes. What has expired is
//! taken out by whoever may decide that.
//!
//! ```text
//! assets/            by URL path: assets/static/js/main.3f9a12bc.js   nginx or the app may serve it
//! assets.records/    ours
//!   455-1f0c…        what release 455 needs of the union; written when all of it is there, and again without what
//!                    has expired
//!   incoming/        files on their way; swept at start
//!   rotten/          files whose bytes changed, for whoever looks into it
//! ```
//! A record is both the proof that a release's assets are complete and the index from which the union is
//! served after a restart: nothing is listed by walking the folder.
//!
//! * [`Union`]: the folder.
//! * [`Shelf`]: what is served right now, a map that is swapped whole.
//! * [`serve`]: HTTP over a shelf.
//! * [`miss`]: what no file here answers, and where else it may be; [`Mending`]: rot is made anew.

#![forbid(unsafe_code)]

mod asked;
mod forget;
mod known;
mod mending;
pub mod miss;
mod record;
mod rot;
pub mod serve;
mod shelf;
mod union;

pub use forget::{ForgetError, Forgotten, Word};
pub use mending::Mending;
pub use record::RecordError;
pub use shelf::{Served, Shelf};
pub use union::{AddError, Added, Union, UnionError};
