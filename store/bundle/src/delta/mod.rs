//! Deltas: a release told by what changed since another one that the reader has.
//!
//! Bundlers rename and shift everything at each build: chunk boundaries see new content where a match over a long
//! window sees the old one moved. So new files are coded in frames, each against the bytes of old files that resemble
//! them, which the reader lays before the frame as its zstd prefix.
//!
//! ```text
//! delta      manifest frame | data frame … | index frame | footer
//! manifest   zstd frame of the target's canonical manifest; its prefix is the base's
//! data       zstd frame of new bytes; its prefix is the bytes of its spans, one after another
//! index      zstd frame, no prefix, of:  frames | frame … | blobs | blob …
//! frame      compressed length | raw length | spans | span …
//! blob       target's entry | pieces | piece …       0 pieces: all its bytes are new
//! piece      new bytes: length · 2 | old bytes: length · 2 + 1, span's place
//! span       base's entry: signed step from the one before it, · 2 + 1 when it is a part | offset, length of a part
//! footer     base's id, 32 bytes | target's id, 32 bytes | manifest u32 | raw manifest u32 | index u32 | raw index u32
//!            | zstd's level u8 | "SHIPDLT" | version u8 = 1
//! ```
//! Numbers of the index are varints (LEB128), signed ones in zigzag; those of the footer are little-endian. An entry is
//! the place of a file in its manifest. New bytes of blobs follow each other in the frames, in the index's order, and
//! fill them exactly; a blob may go over several frames.
//!
//! A delta is derived: whoever lacks it, or its base, reads bundles. Nothing it says is believed before the digests of
//! the blobs that come out of it were compared. It gives every blob of the target that the base does not have.
//!
//! Memory of a reader: one frame and its prefix, at most [`MAX_RAW`] and [`MAX_PREFIX`], and both manifests.

mod index;
mod large;
mod make;
mod matching;
mod read;
mod source;

pub use index::{DeltaError, DeltaFooter, DeltaIndex, FOOTER};
pub use make::{Effort, MadeDelta, MakeDeltaError, delta_needs, make_delta};
pub(crate) use matching::key;
pub use read::{ApplyError, DeltaBlobs, Part, read_manifest};
pub use source::{BlobBytes, TreeBlobs};
pub(crate) use source::{Stream, read_entry};

/// Most new bytes of one frame.
pub const MAX_RAW: u64 = 32 << 20;
/// Most old bytes before one frame.
pub const MAX_PREFIX: u64 = 40 << 20;
/// Files from here on are matched by content-defined chunks, so that unchanged parts are named and not coded.
const LARGE: u64 = 8 << 20;
