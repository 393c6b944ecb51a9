//! Assets in other codings: made once, when first asked for, in the background, and kept beside the records.
//!
//! ```text
//! encoded/
//!   <blob>-<own>.br      blob <blob> in Brotli; <own> is the BLAKE3 of these very bytes
//!   <blob>-none.gz       an empty file: gzip would not make it usefully smaller
//! ```
//! All of it is derived: what is lost is made again, and what no asset needs is swept. One thread of low priority works
//! for the whole process, so that neither requests nor the apps of the host wait for it; while a coding is on its way,
//! when the queue is full, and when a coding cannot be kept, answers carry the file as it is. What could not be kept (a
//! full disk) is tried again when it is asked for later, at growing intervals. A file that the release itself brings (`app.js.br`
//! beside `app.js`) is taken instead, if it decodes to the same bytes.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use ship_durable::FileError;
use ship_model::digest::BlobDigest;
use tokio::time::Instant;

use super::accept::Encoding;
use super::files::{Files, OpenFileError, Wanted};

/// Smaller files fit into one or two packets as they are.
const FLOOR: u64 = 1 << 10;
/// Larger files stay as they are: a coding is made in memory.
const CEILING: u64 = 16 << 20;
/// Jobs that wait; a file that finds no place is asked for again by the next request.
const QUEUE: usize = 256;
/// Bytes read at once.
const STEP: usize = 64 << 10;
/// A larger window is memory that a client may refuse (RFC 9659) and that we would take to encode.
const WINDOW_LOG: u32 = 21;
/// Up to this size Brotli works as hard as it can; above, that takes a minute for a file.
const HARD: u64 = 1 << 20;

/// After a file could not be opened or encoded.
const FAILED_FOR: Duration = Duration::from_secs(60);
/// After a result could not be kept; twice as long after each that follows.
const FULL_FOR: Duration = Duration::from_secs(1);
const FULL_AT_MOST: Duration = Duration::from_secs(300);

/// Content types that grow smaller. Pictures, films, WOFF and archives are coded already.
const TYPES: [&str; 14] = [
    "application/javascript",
    "application/json",
    "application/ld+json",
    "application/manifest+json",
    "application/rss+xml",
    "application/vnd.ms-fontobject",
    "application/wasm",
    "application/xml",
    "application/xhtml+xml",
    "font/otf",
    "font/ttf",
    "image/bmp",
    "image/svg+xml",
    "image/x-icon",
];

/// Whether files of this type and size are offered in other codings at all.
pub(super) fn is_worth_it(content_type: &str, size: u64) -> bool {
    let kind = content_type.split(';').next().unwrap_or_default();
    let shrinks = kind.starts_with("text/") || kind == "model/gltf+json" || TYPES.contains(&kind);
    shrinks && (FLOOR..=CEILING).contains(&size)
}

/// A file in another coding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Encoded {
    pub encoding: Encoding,
    /// Of the coded bytes.
    pub digest: BlobDigest,
    pub size: u64,
}

/// What is known of a blob in a coding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    Nothing,
    /// It is being made, or waits for that.
    Coming,
    /// It would not be usefully smaller.
    Useless,
    /// It could not be made; nobody tries before then.
    Failed(Instant),
    Kept(Encoded),
}

/// Something to make.
#[derive(Debug)]
pub(super) struct Job {
    pub encoding: Encoding,
    pub file: Wanted,
    /// The same in this coding, as the release brings it, unless it lies.
    pub brought: Option<Wanted>,
    pub files: Arc<Files>,
}

/// Why the folder of encodings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenEncodingsError {
    #[error("cannot make the folder {}", path.display())]
    Make { path: PathBuf, source: io::Error },
    #[error("cannot list the folder {}", path.display())]
    List { path: PathBuf, source: io::Error },
    #[error("cannot start the thread that encodes")]
    Thread(#[source] io::Error),
}

#[derive(Debug, thiserror::Error)]
enum MakeError {
    #[error("cannot open the file")]
    Open(#[from] OpenFileError),
    #[error("cannot encode")]
    Encode(#[source] io::Error),
    #[error("cannot keep the result")]
    Keep(#[from] FileError),
}

/// The folder of encodings, and the thread that fills it. One for a process; the thread ends with it.
#[derive(Debug)]
pub struct Encodings {
    shared: Arc<Shared>,
    queue: SyncSender<Job>,
}

#[derive(Debug)]
struct Shared {
    folder: Arc<Path>,
    known: RwLock<HashMap<(BlobDigest, Encoding), Known>>,
    /// Set while the folder takes no file: when to try again, and how long that wait is.
    full: Mutex<Option<(Instant, Duration)>>,
}

impl Encodings {
    /// Opens `folder`, making it when it is missing, and knows what an earlier process made.
    ///
    /// # Errors
    /// [`OpenEncodingsError`].
    pub fn open(folder: &Path) -> Result<Self, OpenEncodingsError> {
        fs::create_dir_all(folder).map_err(|source| OpenEncodingsError::Make {
            path: folder.to_owned(),
            source,
        })?;
        let list = |source| OpenEncodingsError::List {
            path: folder.to_owned(),
            source,
        };
        ship_durable::sweep_leftovers(folder).map_err(list)?;
        let known = listed(folder).map_err(list)?;
        let shared = Arc::new(Shared {
            folder: folder.into(),
            known: RwLock::new(known),
            full: Mutex::default(),
        });
        let (queue, jobs) = sync_channel(QUEUE);
        let maker = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("ship-encode".to_owned())
            .spawn(move || maker.work(&jobs))
            .map_err(OpenEncodingsError::Thread)?;
        Ok(Self { shared, queue })
    }

    pub(super) fn find(&self, blob: &BlobDigest, encoding: Encoding) -> Known {
        self.shared.find(blob, encoding)
    }

    /// Has it made, some time. Never waits.
    pub(super) fn ask(&self, job: Job) {
        let key = (job.file.digest, job.encoding);
        if self.shared.is_full() {
            return;
        }
        {
            let mut known = self.shared.write();
            if known.get(&key).is_some_and(|known| !known.is_over()) {
                return;
            }
            known.insert(key, Known::Coming);
        }
        if self.queue.try_send(job).is_err() {
            self.shared.write().remove(&key);
        }
    }

    /// Where a coding lies.
    pub(super) fn wanted(&self, blob: &BlobDigest, encoded: Encoded) -> Option<Wanted> {
        let name = file_name(blob, Some(&encoded.digest), encoded.encoding);
        Some(Wanted {
            root: Arc::clone(&self.shared.folder),
            name: ship_model::path::TreePath::new(name.as_bytes()).ok()?,
            digest: encoded.digest,
            size: encoded.size,
            links: false,
            union: None,
        })
    }

    /// Forgets one that cannot be read; it is made again when it is asked for again. Blocks.
    pub(super) fn forget(&self, blob: &BlobDigest, encoded: Encoded) {
        let name = file_name(blob, Some(&encoded.digest), encoded.encoding);
        let _ = fs::remove_file(self.shared.folder.join(name));
        self.shared.write().remove(&(*blob, encoded.encoding));
    }

    /// Removes what is of blobs that are not `needed`; returns the bytes of the files removed. Blocks.
    pub(super) fn sweep(&self, needed: impl Fn(&BlobDigest) -> bool) -> u64 {
        let mut gone = Vec::new();
        self.shared.write().retain(|(blob, encoding), known| {
            let stays = *known == Known::Coming || needed(blob);
            if !stays {
                gone.push((*blob, *encoding, *known));
            }
            stays
        });
        let mut bytes = 0;
        for (blob, encoding, known) in gone {
            let own = match known {
                Known::Kept(encoded) => {
                    bytes += encoded.size;
                    Some(encoded.digest)
                }
                _ => None,
            };
            let name = file_name(&blob, own.as_ref(), encoding);
            // One that cannot be removed is found by the next process.
            let _ = fs::remove_file(self.shared.folder.join(name));
        }
        bytes
    }
}

impl Known {
    /// A failure that lies back so far that it may be tried again.
    fn is_over(&self) -> bool {
        matches!(self, Self::Failed(until) if Instant::now() >= *until)
    }
}

impl Shared {
    fn find(&self, blob: &BlobDigest, encoding: Encoding) -> Known {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let found = known.get(&(*blob, encoding)).copied();
        found.filter(|known| !known.is_over()).unwrap_or(Known::Nothing)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, HashMap<(BlobDigest, Encoding), Known>> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self, jobs: &Receiver<Job>) {
        // Of this thread alone, on Linux; where it is refused the work is done all the same.
        let _ = rustix::process::nice(15);
        while let Ok(job) = jobs.recv() {
            let key = (job.file.digest, job.encoding);
            // Of those that were asked for before it was known; they are asked for again.
            let made = if self.is_full() {
                None
            } else {
                self.tried(&job, self.make(&job))
            };
            match made {
                Some(known) => self.write().insert(key, known),
                None => self.write().remove(&key),
            };
        }
    }

    /// What is known after a try; none: nothing, so that it can be asked for again.
    fn tried(&self, job: &Job, made: Result<Known, MakeError>) -> Option<Known> {
        match made {
            Ok(known) => {
                if self
                    .full
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .take()
                    .is_some()
                {
                    tracing::info!("encoded assets can be kept again");
                }
                Some(known)
            }
            Err(MakeError::Keep(error)) => {
                self.note_full(job, &error);
                None
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(path = %job.file.name, encoding = job.encoding.token(), error, "not encoded");
                Some(Known::Failed(Instant::now() + FAILED_FOR))
            }
        }
    }

    /// Tells of the first failure of a row, and waits longer after each.
    fn note_full(&self, job: &Job, error: &FileError) {
        let mut full = self.full.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = match *full {
            Some((_, before)) => (before * 2).min(FULL_AT_MOST),
            None => {
                let error = error as &dyn std::error::Error;
                tracing::warn!(path = %job.file.name, error,
                    "encoded assets cannot be kept: they are sent as they are, and this is tried again");
                FULL_FOR
            }
        };
        *full = Some((Instant::now() + wait, wait));
    }

    fn is_full(&self) -> bool {
        let full = self.full.lock().unwrap_or_else(PoisonError::into_inner);
        full.is_some_and(|(until, _)| Instant::now() < until)
    }

    fn make(&self, job: &Job) -> Result<Known, MakeError> {
        let most = job.file.size / 20 * 19;
        let brought = job
            .brought
            .as_ref()
            .and_then(|brought| self.brought(job, brought, most));
        let coded = match brought {
            Some(coded) => Some(coded),
            None => {
                let opened = job.files.open(&job.file)?;
                let coded = encode(job.encoding, job.file.size, opened.reader(), most);
                let coded = coded.map_err(MakeError::Encode)?;
                // Bytes of a file that somebody wrote to meanwhile are not the blob's.
                coded.filter(|_| opened.is_still_right())
            }
        };
        Ok(self.keep(job, coded.as_deref())?)
    }

    fn brought(&self, job: &Job, brought: &Wanted, most: u64) -> Option<Vec<u8>> {
        if brought.size > most {
            return None;
        }
        let opened = job.files.open(brought).ok()?;
        let mut coded = Vec::new();
        opened.reader().take(most + 1).read_to_end(&mut coded).ok()?;
        let same = BlobDigest::of(&coded) == brought.digest
            && decodes_to(job.encoding, &coded, &job.file).unwrap_or(false);
        if !same {
            tracing::warn!(path = %brought.name, "it is not what its name says, so it is not used");
        }
        same.then_some(coded)
    }

    fn keep(&self, job: &Job, coded: Option<&[u8]>) -> Result<Known, FileError> {
        let digest = coded.map(BlobDigest::of);
        let name = file_name(&job.file.digest, digest.as_ref(), job.encoding);
        ship_durable::write_file_mode(&self.folder.join(name), coded.unwrap_or_default(), 0o444)?;
        let Some((digest, coded)) = digest.zip(coded) else {
            return Ok(Known::Useless);
        };
        Ok(Known::Kept(Encoded {
            encoding: job.encoding,
            digest,
            size: coded.len() as u64,
        }))
    }
}

/// What the folder holds; names that are not ours are passed over.
fn listed(folder: &Path) -> io::Result<HashMap<(BlobDigest, Encoding), Known>> {
    let mut known = HashMap::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some((blob, own, encoding)) = name.to_str().and_then(parse_name) else {
            continue;
        };
        let found = match own {
            None => Known::Useless,
            Some(digest) => Known::Kept(Encoded {
                encoding,
                digest,
                size: entry.metadata()?.len(),
            }),
        };
        known.insert((blob, encoding), found);
    }
    Ok(known)
}

fn file_name(blob: &BlobDigest, own: Option<&BlobDigest>, encoding: Encoding) -> String {
    let own = own.map_or_else(|| "none".to_owned(), BlobDigest::to_string);
    format!("{blob}-{own}{}", encoding.suffix())
}

fn parse_name(name: &str) -> Option<(BlobDigest, Option<BlobDigest>, Encoding)> {
    let ends = |encoding: &Encoding| name.ends_with(encoding.suffix());
    let encoding = Encoding::ALL.into_iter().find(ends)?;
    let (blob, own) = name.strip_suffix(encoding.suffix())?.split_once('-')?;
    let own = match own {
        "none" => None,
        own => Some(own.parse().ok()?),
    };
    Some((blob.parse().ok()?, own, encoding))
}

/// At most `most` bytes; none when it needs more.
fn encode(encoding: Encoding, size: u64, input: impl Read, most: u64) -> io::Result<Option<Vec<u8>>> {
    let coder: Box<dyn Read + '_> = match encoding {
        Encoding::Brotli => {
            let window = (u64::BITS - size.leading_zeros()).clamp(16, WINDOW_LOG);
            let quality = if size <= HARD { 11 } else { 9 };
            Box::new(brotli::CompressorReader::new(input, STEP, quality, window))
        }
        Encoding::Zstd => {
            let mut coder = zstd::stream::read::Encoder::new(input, 19)?;
            coder.set_pledged_src_size(Some(size))?;
            if size > 1 << WINDOW_LOG {
                coder.window_log(WINDOW_LOG)?;
            }
            Box::new(coder)
        }
        Encoding::Gzip => Box::new(flate2::read::GzEncoder::new(input, flate2::Compression::best())),
    };
    let mut coded = Vec::new();
    coder.take(most + 1).read_to_end(&mut coded)?;
    Ok((coded.len() as u64 <= most).then_some(coded))
}

/// Whether `coded` is `file`; reads no more than a byte beyond it.
fn decodes_to(encoding: Encoding, coded: &[u8], file: &Wanted) -> io::Result<bool> {
    let decoder: Box<dyn Read + '_> = match encoding {
        Encoding::Brotli => Box::new(brotli::Decompressor::new(coded, STEP)),
        Encoding::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(coded)?;
            decoder.window_log_max(23)?;
            Box::new(decoder)
        }
        Encoding::Gzip => Box::new(flate2::read::MultiGzDecoder::new(coded)),
    };
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(decoder.take(file.size + 1))?;
    Ok(BlobDigest::from(hasher.finalize()) == file.digest)
}

#[cfg(test)]
mod tests;
