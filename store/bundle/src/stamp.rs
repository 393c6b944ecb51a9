//! What tells, without reading it, that a file is still the one that was hashed.

use rustix::fs::Stat;

/// Inode, size in bytes, and times of change in nanoseconds since 1970.
///
/// The kernel moves the ctime at every change of content, mode or *number of links*; only root with a set clock can
/// forge it. All zero: no stamp, matches nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FileStamp {
    pub inode: u64,
    pub size: u64,
    pub mtime_ns: i64,
    pub ctime_ns: i64,
}

impl FileStamp {
    /// Matches nothing: what a file gets that was found damaged.
    pub const NONE: Self = Self {
        inode: 0,
        size: 0,
        mtime_ns: 0,
        ctime_ns: 0,
    };

    #[allow(
        clippy::unnecessary_cast,
        clippy::cast_lossless,
        reason = "the fields of stat differ in type between architectures"
    )]
    pub(crate) fn of(stat: &Stat) -> Self {
        let ns = |seconds: i64, nanoseconds: i64| {
            seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
        };
        Self {
            inode: stat.st_ino as u64,
            size: stat.st_size as u64,
            mtime_ns: ns(stat.st_mtime as i64, stat.st_mtime_nsec as i64),
            ctime_ns: ns(stat.st_ctime as i64, stat.st_ctime_nsec as i64),
        }
    }

    /// The same file with the same content as far as inode, size and mtime tell: a new or removed hard link moves only
    /// the ctime.
    pub(crate) fn same_but_ctime(&self, other: &Self) -> bool {
        *self != Self::NONE
            && Self { ctime_ns: 0, ..*self }
                == Self {
                    ctime_ns: 0,
                    ..*other
                }
    }
}
