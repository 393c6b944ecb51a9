//! How a long step tells how far it is.

/// Told from several threads while files are hashed, packed or staged. `()` listens to nothing.
pub trait Progress: Sync {
    /// So many bytes of content lie ahead; called once, when it is known.
    fn total(&self, _bytes: u64) {}
    /// So many more bytes of content are done.
    fn done(&self, _bytes: u64) {}
}

impl Progress for () {}
