//! Crash-safe files: whatever is written through this crate is, after a crash or a power cut, either the old or the
//! new state, complete, never between.
//!
//! It knows nothing of releases, digests or networks, and everything in it blocks. Each function says what is synced
//! when it returns and what a crash in its middle leaves behind. Leftovers have names that start with
//! [`LEFTOVER_PREFIX`], so [`sweep_leftovers`] finds them.
//!
//! Every step passes a [`fault::point`], where a crash test may kill the process.

pub mod fault;

mod file;
mod journal;
mod link;
mod lock;
mod sweep;
mod tree;

pub use file::{
    FileError, FileStep, create_new, rename, sync_dir, sync_fs, write_file, write_file_mode,
    write_private_file,
};
pub use journal::{Cut, Journal, JournalError, OpenError, Record, Recovered};
pub use link::{LinkError, replace_symlink, swap_symlink};
pub use lock::{LockError, LockFile};
pub use sweep::{LEFTOVER_PREFIX, sweep_leftovers};
pub use tree::{RemoveTreeError, remove_tree};
