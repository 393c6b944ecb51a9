//! Segments: a large file told by pieces that other versions of it may share.
//!
//! A file over 8 MiB is cut where its content says ([`cut()`]), about every MiB. A segment is content like any other: named by the BLAKE3 of its bytes,
//! found and fetched as a blob is. What puts the file together again is its [`SegmentList`]; lists are derived, lie in the index of
//! the bundle that brought the last of the segments, and are no part of anybody's identity: the blob, the manifest and the release are named by
//! the file's whole content, whichever way it was cut.
//!
//! ```text
//! publisher   cut_files ─▶ lists ─▶ which segments has the store? ─▶ pack_parts: only the others
//! store       verify_bundle: a file that lies whole in the bundle is cut again; any other list waits for its proof,
//!             read_listed: all its segments, from wherever they lie, must have the blob's digest together
//! host        gather: bundles of the lists, then those of their segments; stage: segments of older files are copied,
//!             the others fetched, and the file is hashed once it is complete
//! ```
//!
//! A list whose segments do not give the blob is never believed, by nobody: it costs a fetch, no more.

mod cut;
mod gather;
mod list;
mod publish;
mod read;

pub use gather::{Held, gather};
pub use list::{ListError, Segment, SegmentList};
pub use publish::{CutError, cut_blobs, cut_files};
pub use read::{ReadListError, read_listed};

pub(crate) use cut::{Cutter, cut, hash_and_cut};
pub(crate) use list::{decode_lists, encode_lists};

use ship_model::manifest::Manifest;

/// Files larger than this are cut.
pub const LARGE: u64 = 8 << 20;
/// Longest segment, in bytes.
pub const MAX_SEGMENT: u32 = 4 << 20;
/// Most segments of all lists of a bundle: 300 GiB of files, and half of the largest index. What is more is packed whole.
pub const MAX_SEGMENTS: usize = 300_000;
/// Segments of files that are known in part lie in the archive below this folder, each under its digest.
pub(crate) const FOLDER: &[u8] = b".ship-segments/";

/// Whether the release has a name where segments would lie. Its large files are packed whole.
#[must_use]
pub fn is_in_the_way(manifest: &Manifest) -> bool {
    let folder = FOLDER.strip_suffix(b"/").unwrap_or(FOLDER);
    let mut paths = manifest.entries().iter().map(|entry| entry.path);
    paths.any(|path| path.as_bytes() == folder || path.as_bytes().starts_with(FOLDER))
}
