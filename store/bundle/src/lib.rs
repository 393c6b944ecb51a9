//! Trees to bundles and back: reads a folder into a manifest, packs blobs, believes a bundle only after reading all of
//! it, and builds a release on a host so that it is complete or absent.
//!
//! ```text
//! folder ─walk─▶ Manifest ─pack─▶ bundle ─verify_bundle─▶ BundleIndex ─fetch_plan─▶ stage ─▶ releases/<folder>
//! ```
//!
//! Everything blocks and knows neither networks nor release numbers nor where bundles are kept: bytes come through
//! [`stage::BlobSource`]. No file's size is ever needed in memory.

#![forbid(unsafe_code)]

mod beneath;
mod content;
pub mod delta;
mod export;
mod frame;
mod index;
mod pack;
mod progress;
mod scan;
pub mod segments;
mod shared;
pub mod stage;
mod stamp;
mod tarball;
mod verify;
pub mod walk;

pub use export::{ExportError, export, export_needs};
pub use frame::{FrameError, FrameReader};
pub use index::{BlobPlace, BundleIndex, FOOTER, Frame, IndexError, IndexLocation, MAX_INDEX, TAIL};
pub use pack::{DEFAULT_LEVEL, MAX_LEVEL, PackError, Packed, Parts, pack, pack_blobs, pack_parts};
pub use progress::Progress;
pub use shared::{SharedClash, shared_links};
pub use stamp::FileStamp;
pub use tarball::TarError;
pub use verify::{Expected, Verified, VerifyError, verify_bundle};
pub use walk::{Walked, walk, walk_with};
