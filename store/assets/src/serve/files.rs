//! Files that are what they should be: opened below their folder without following a link, hashed whole when they are
//! first seen and whenever their stamp differs from that of the last hash, and then kept open, or in memory when small.
//!
//! Rot is found before a byte of it is sent: bytes in memory were hashed as they lie there, and a part of a larger file
//! is handed on only if the file's stamp, looked at after reading, is still the one that its hash was taken at. A name that is
//! given to a file or taken from it changes its stamp as well, and every staged or removed release does that to files that are
//! just being sent; so where the stamp differs, the bytes are hashed once more.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use ship_model::digest::BlobDigest;
use ship_model::path::TreePath;
use tokio::sync::Semaphore;

use super::kept::Kept;
use super::sealed::{self, Sealed, Vault};
use crate::union::Union;

/// Largest file that is kept in memory, in bytes.
const SMALL: u64 = 64 << 10;
/// Inodes whose digest is remembered: about a hundred bytes each.
const KNOWN: usize = 64 << 10;
/// So many requests after another one for a file that was read for them have it sealed.
const HOT: u32 = 8;
/// Large files that are hashed at once, so that they leave threads to the small ones.
const HASHING: usize = 4;
/// Tries of an `openat2` that renames nearby disturb, and of hashing a file that gets and loses names.
const DISTURBED: usize = 64;

/// Where a file lies, and what it must be.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub root: Arc<Path>,
    pub name: TreePath,
    pub digest: BlobDigest,
    pub size: u64,
    /// Whether a link that stays below the root is followed: a release's own tree has such, nothing else does.
    pub links: bool,
    /// The union that the file belongs to, whose owner can have it made anew.
    pub union: Option<Arc<Union>>,
}

/// Why a file is not served.
#[derive(Debug, thiserror::Error)]
pub enum OpenFileError {
    #[error("cannot open it")]
    Open(#[source] io::Error),
    #[error("cannot read it")]
    Read(#[source] io::Error),
    #[error("it is not a file of {expected} bytes")]
    Kind { expected: u64 },
    #[error("it is rotten: its bytes have digest {found}, not {expected}")]
    Rotten { expected: BlobDigest, found: BlobDigest },
    #[error("the thread that read it ended")]
    Thread,
}

/// A file whose bytes are known to be right.
#[derive(Debug)]
pub(super) struct Opened {
    content: Content,
    /// Whether it was used since the last time room was made.
    pub(super) used: AtomicBool,
}

#[derive(Debug)]
enum Content {
    Memory(Bytes),
    File {
        file: File,
        digest: BlobDigest,
        /// When the bytes were last known to be right.
        stamp: Mutex<Stamp>,
        heat: Heat,
    },
}

impl Opened {
    /// The bytes, if they are in memory.
    pub fn bytes(&self) -> Option<&Bytes> {
        match &self.content {
            Content::Memory(bytes) => Some(bytes),
            Content::File { .. } => None,
        }
    }

    pub fn file(&self) -> Option<&File> {
        match &self.content {
            Content::Memory(_) => None,
            Content::File { file, .. } => Some(file),
        }
    }

    /// The same bytes where nobody can change them, if they were laid there.
    pub fn sealed(&self) -> Option<&Sealed> {
        match &self.content {
            Content::Memory(_) => None,
            Content::File { heat, .. } => heat.sealed.get(),
        }
    }

    /// Whether nobody wrote to the file since it was hashed, nor linked it.
    pub fn is_unchanged(&self) -> bool {
        match &self.content {
            Content::Memory(_) => true,
            Content::File { file, stamp, .. } => {
                rustix::fs::fstat(file).is_ok_and(|stat| Stamp::of(&stat) == *lock(stamp))
            }
        }
    }

    /// Whether the bytes are still right; hashes them where the file changed, so it blocks. Of many that ask one does the work.
    pub fn is_still_right(&self) -> bool {
        let Content::File {
            file, digest, stamp, ..
        } = &self.content
        else {
            return true;
        };
        let mut known = lock(stamp);
        let mut hashed = None;
        for _ in 0..DISTURBED {
            let Ok(now) = rustix::fs::fstat(file).map(|stat| Stamp::of(&stat)) else {
                return false;
            };
            // Where it changed while it was hashed, that may have been of two states.
            if now == *known || Some(now) == hashed {
                *known = now;
                return true;
            }
            if now.size != known.size || hash(file, now.size).ok() != Some(*digest) {
                return false;
            }
            hashed = Some(now);
        }
        false
    }

    /// A reader of the whole, for a thread that may block.
    pub fn reader(self: &Arc<Self>) -> impl Read + use<> {
        FileReader {
            opened: Arc::clone(self),
            at: 0,
        }
    }
}

struct FileReader {
    opened: Arc<Opened>,
    at: u64,
}

impl Read for FileReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = match &self.opened.content {
            Content::Memory(bytes) => {
                let rest = bytes.get(self.at as usize..).unwrap_or_default();
                let got = rest.len().min(buffer.len());
                buffer[..got].copy_from_slice(&rest[..got]);
                got
            }
            Content::File { file, .. } => file.read_at(buffer, self.at)?,
        };
        self.at += got as u64;
        Ok(got)
    }
}

/// How much a file is wanted.
#[derive(Debug, Default)]
struct Heat {
    asks: AtomicU32,
    sealed: OnceLock<Sealed>,
}

/// What tells without reading it that a file is still the one that was hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: (u64, u64),
    size: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

impl Stamp {
    #[allow(
        clippy::unnecessary_cast,
        clippy::cast_lossless,
        reason = "the fields of stat differ in type between architectures"
    )]
    fn of(stat: &Stat) -> Self {
        Self {
            inode: (stat.st_dev as u64, stat.st_ino as u64),
            size: stat.st_size as u64,
            mtime: (stat.st_mtime as i64, stat.st_mtime_nsec as i64),
            ctime: (stat.st_ctime as i64, stat.st_ctime_nsec as i64),
        }
    }
}

type Told = dyn Fn(&TreePath, BlobDigest, Option<&Arc<Union>>) + Send + Sync;

/// The files that were opened lately, by digest: the same bytes under two names are one file here.
pub(super) struct Files {
    kept: Mutex<Kept>,
    /// By device and inode: the digest that the file had at a stamp, right or wrong.
    known: Mutex<HashMap<(u64, u64), (Stamp, BlobDigest)>>,
    /// One opening of a digest at a time; the others wait for its end without a thread.
    turns: Mutex<HashMap<BlobDigest, Arc<tokio::sync::Mutex<()>>>>,
    hashing: Semaphore,
    vault: Vault,
    sealing: Mutex<()>,
    told: Option<Box<Told>>,
}

impl std::fmt::Debug for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Files").finish_non_exhaustive()
    }
}

impl Files {
    /// `told` hears of every rotten file once it cannot be asked for any more.
    pub fn new(told: Option<Box<Told>>) -> Self {
        Self {
            kept: Mutex::default(),
            known: Mutex::default(),
            turns: Mutex::default(),
            hashing: Semaphore::new(HASHING),
            vault: Vault::default(),
            sealing: Mutex::default(),
            told,
        }
    }

    /// The file, if it is kept and nobody wrote to it. Does not block on a disk.
    pub fn at_hand(&self, digest: &BlobDigest) -> Option<Arc<Opened>> {
        let opened = lock(&self.kept).get(digest)?;
        if opened.is_unchanged() {
            opened.used.store(true, Ordering::Relaxed);
            return Some(opened);
        }
        lock(&self.kept).remove(digest);
        None
    }

    /// The file, opened and hashed on a thread for it where that is due. Of many that ask at once one does the work.
    pub async fn obtain(self: &Arc<Self>, wanted: Wanted) -> Result<Arc<Opened>, OpenFileError> {
        if let Some(opened) = self.at_hand(&wanted.digest) {
            return Ok(opened);
        }
        let digest = wanted.digest;
        let turn = Arc::clone(lock(&self.turns).entry(digest).or_default());
        let held = turn.lock().await;
        let opened = match self.at_hand(&digest) {
            Some(opened) => Ok(opened),
            None => self.open_aside(wanted).await,
        };
        drop(held);
        let mut turns = lock(&self.turns);
        // Ours and the map's: nobody waits.
        if Arc::strong_count(&turn) == 2 {
            turns.remove(&digest);
        }
        opened
    }

    async fn open_aside(self: &Arc<Self>, wanted: Wanted) -> Result<Arc<Opened>, OpenFileError> {
        let _place = if wanted.size > SMALL {
            Some(self.hashing.acquire().await.map_err(|_| OpenFileError::Thread)?)
        } else {
            None
        };
        let files = Arc::clone(self);
        tokio::task::spawn_blocking(move || files.open(&wanted))
            .await
            .map_err(|_| OpenFileError::Thread)?
    }

    /// Opens and checks; blocks. A rotten file is set aside where its union's owner can make it anew.
    pub fn open(&self, wanted: &Wanted) -> Result<Arc<Opened>, OpenFileError> {
        let opened = Arc::new(Opened {
            content: self.check(wanted)?,
            used: AtomicBool::new(true),
        });
        lock(&self.kept).keep(wanted.digest, &opened);
        Ok(opened)
    }

    fn check(&self, wanted: &Wanted) -> Result<Content, OpenFileError> {
        let file = open_below(&wanted.root, &wanted.name, wanted.links).map_err(OpenFileError::Open)?;
        let stat = |file: &File| rustix::fs::fstat(file).map_err(|error| OpenFileError::Open(error.into()));
        let before = stat(&file)?;
        let stamp = Stamp::of(&before);
        if !FileType::from_raw_mode(before.st_mode).is_file() || stamp.size != wanted.size {
            return Err(OpenFileError::Kind {
                expected: wanted.size,
            });
        }
        if wanted.size <= SMALL {
            let mut bytes = Vec::with_capacity(wanted.size as usize);
            (&file)
                .take(wanted.size + 1)
                .read_to_end(&mut bytes)
                .map_err(OpenFileError::Read)?;
            let found = BlobDigest::of(&bytes);
            self.learn(stamp, found, wanted);
            return right(wanted, found).map(|()| Content::Memory(bytes.into()));
        }
        let known = lock(&self.known).get(&stamp.inode).copied();
        let found = match known {
            Some((seen, found)) if seen == stamp => found,
            _ => {
                let found = hash(&file, wanted.size).map_err(OpenFileError::Read)?;
                // Written to meanwhile: what was hashed may be of both states.
                if Stamp::of(&stat(&file)?) != stamp {
                    return Err(OpenFileError::Read(io::Error::other(
                        "it changes while it is read",
                    )));
                }
                self.learn(stamp, found, wanted);
                found
            }
        };
        right(wanted, found).map(|()| Content::File {
            file,
            digest: found,
            stamp: Mutex::new(stamp),
            heat: Heat::default(),
        })
    }

    /// Counts a request that a file was read for, and has one that is asked for again and again sealed in the background.
    pub fn warm(self: &Arc<Self>, opened: &Arc<Opened>) {
        let Content::File { heat, stamp, .. } = &opened.content else {
            return;
        };
        if heat.sealed.get().is_some() || heat.asks.fetch_add(1, Ordering::Relaxed) % HOT != HOT - 1 {
            return;
        }
        let size = lock(stamp).size;
        if size <= sealed::LARGEST {
            let (files, opened) = (Arc::clone(self), Arc::clone(opened));
            tokio::task::spawn_blocking(move || files.seal(&opened, size));
        }
    }

    /// Without room, or without the system's leave, it stays as it is.
    fn seal(&self, opened: &Opened, size: u64) {
        let Content::File {
            file, digest, heat, ..
        } = &opened.content
        else {
            return;
        };
        // One at a time: what is lost is asked for again.
        let Ok(_turn) = self.sealing.try_lock() else {
            return;
        };
        if heat.sealed.get().is_some() {
            return;
        }
        lock(&self.kept).make_room_sealed(|| self.vault.has_room(size));
        match self.vault.seal(file, size, *digest) {
            Ok(Some(sealed)) => {
                let _ = heat.sealed.set(sealed);
            }
            Ok(None) => {}
            Err(error) => tracing::debug!(%digest, %error, "a file that is often asked for is not sealed"),
        }
    }

    /// Remembers what an inode holds, and tells of rot the first time it is seen.
    fn learn(&self, stamp: Stamp, found: BlobDigest, wanted: &Wanted) {
        let mut known = lock(&self.known);
        if known.len() >= KNOWN {
            // Whichever: one that is forgotten costs a hash.
            let mut odd = false;
            known.retain(|_, _| {
                odd = !odd;
                odd
            });
        }
        let before = known.insert(stamp.inode, (stamp, found));
        drop(known);
        if found != wanted.digest && before != Some((stamp, found)) {
            self.tell(wanted);
        }
    }

    fn tell(&self, wanted: &Wanted) {
        tracing::error!(path = %wanted.name, digest = %wanted.digest, "a file is rotten and is not served");
        if let Some(union) = &wanted.union
            && let Err(error) = union.set_aside(&wanted.name, wanted.digest)
        {
            tracing::error!(path = %wanted.name, %error, "the rotten file cannot be set aside");
        }
        if let Some(told) = &self.told {
            told(&wanted.name, wanted.digest, wanted.union.as_ref());
        }
    }

    /// Reads a file again from the disk, whatever its stamp says; blocks.
    pub fn scrub(&self, wanted: &Wanted) -> Result<(), OpenFileError> {
        let file = open_below(&wanted.root, &wanted.name, wanted.links).map_err(OpenFileError::Open)?;
        let stat = rustix::fs::fstat(&file).map_err(|error| OpenFileError::Open(error.into()))?;
        // What lies in the page cache says nothing of the disk.
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
        let found = hash(&file, wanted.size).map_err(OpenFileError::Read)?;
        let judged = right(wanted, found);
        if judged.is_err() {
            lock(&self.kept).remove(&wanted.digest);
            self.learn(Stamp::of(&stat), found, wanted);
        }
        judged
    }

    /// Lets go of every file that `needed` does not hold, so that its room on the disk is free.
    pub fn keep_only(&self, needed: impl Fn(&BlobDigest) -> bool) {
        lock(&self.kept).keep_only(needed);
    }
}

fn right(wanted: &Wanted, found: BlobDigest) -> Result<(), OpenFileError> {
    if found == wanted.digest {
        return Ok(());
    }
    Err(OpenFileError::Rotten {
        expected: wanted.digest,
        found,
    })
}

/// At most one byte more than `size`.
pub(super) fn hash(file: &File, size: u64) -> io::Result<BlobDigest> {
    let mut hasher = blake3::Hasher::new();
    let (mut buffer, mut at) = (vec![0; 128 << 10], 0);
    while at <= size {
        let got = file.read_at(&mut buffer, at)?;
        if got == 0 {
            break;
        }
        hasher.update(&buffer[..got]);
        at += got as u64;
    }
    Ok(hasher.finalize().into())
}

/// Opens for reading what is a file, or fails; never blocks on a FIFO, never leaves the folder, whoever plants links in it.
fn open_below(root: &Path, name: &TreePath, links: bool) -> io::Result<File> {
    let through = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(root, through, Mode::empty())?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    if !links {
        resolve |= ResolveFlags::NO_SYMLINKS;
    }
    for _ in 0..DISTURBED {
        match rustix::fs::openat2(&folder, name.as_bytes(), flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            // A sandbox forbids it: then component by component, which follows no link at all.
            Err(Errno::NOSYS | Errno::PERM) => return by_component(folder, name, flags),
            other => return Ok(other?.into()),
        }
    }
    Err(Errno::AGAIN.into())
}

fn by_component(folder: std::os::fd::OwnedFd, name: &TreePath, flags: OFlags) -> io::Result<File> {
    let through = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut at = folder;
    let mut parts = name.components().peekable();
    while let Some(part) = parts.next() {
        let how = if parts.peek().is_some() {
            through
        } else {
            flags | OFlags::NOFOLLOW
        };
        at = rustix::fs::openat(&at, part, how, Mode::empty())?;
    }
    Ok(at.into())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
