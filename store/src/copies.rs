//! Copies of objects elsewhere: another store's folder, a backup, a mirror.
//!
//! An object is what its digest says, whoever gives it: each is staged, hashed and kept under its digest or not at all, so that a
//! copy can be as damaged as it likes, and be anybody's. What lies under the name already is replaced in one step by the same
//! bytes, so that a good one is never lost.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use ship_durable::fault;
use ship_model::mirror::{MirrorUrl, MirrorUrlError};

use crate::engine::{Blobs, BlobsError, Object, ObjectKind};
use crate::folder::OBJECTS;
use crate::locate::{Places, ReadIndexError, read_index};
use crate::log::whole;

/// Bytes read at once.
const PIECE: usize = 256 << 10;
/// Bytes after which it is asked again whether the disk has room.
const ROOM_STEP: u64 = 16 << 20;
/// How long a mirror may be silent.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where copies may lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Copies {
    /// A store's folder, a backup of one, or a mirror's folder.
    Folder(PathBuf),
    /// A mirror: it has no manifests.
    Mirror(MirrorUrl),
}

impl FromStr for Copies {
    type Err = MirrorUrlError;
    fn from_str(text: &str) -> Result<Self, MirrorUrlError> {
        if text.starts_with("http://") || text.starts_with("https://") {
            return Ok(Self::Mirror(text.parse()?));
        }
        Ok(Self::Folder(PathBuf::from(text)))
    }
}

impl fmt::Display for Copies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => path.display().fmt(f),
            Self::Mirror(url) => url.fmt(f),
        }
    }
}

/// Why an object was not brought back from a copy.
#[derive(Debug, thiserror::Error)]
pub enum BringBackError {
    /// This copy does not do; another may.
    #[error("{0}")]
    Copy(String),
    #[error("cannot keep what was found")]
    Blobs(#[from] BlobsError),
    #[error("cannot use a bundle that was healed")]
    Index(#[from] ReadIndexError),
    #[error("cannot ask mirrors")]
    Client(#[source] io::Error),
}

/// Takes an object from where a copy may lie; false when there is none. Blocks.
///
/// Durable when it returns true, and a bundle's blobs have a place again; whoever heals a kept delta takes its link in anew.
///
/// # Errors
/// [`BringBackError`]; what lay under the name lies there still.
pub fn bring_back(
    blobs: &dyn Blobs,
    places: &Places,
    object: Object,
    copies: &Copies,
) -> Result<bool, BringBackError> {
    let taken = |from: &mut dyn Read| take(blobs, places, object, from).map(|()| true);
    match copies {
        Copies::Folder(folder) => {
            for path in places_in(folder, object) {
                match File::open(&path) {
                    Ok(mut file) => return taken(&mut file),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(BringBackError::Copy(error.to_string())),
                }
            }
            Ok(false)
        }
        Copies::Mirror(url) => match body_of(url, object)? {
            None => Ok(false),
            Some(mut body) => taken(&mut body),
        },
    }
}

/// Where a store's folder, its objects alone, or a mirror has an object.
fn places_in(folder: &Path, object: Object) -> [PathBuf; 3] {
    let (kind, hex) = (object.kind().as_str(), object.hex());
    let spread = |top: PathBuf| top.join(kind).join(&hex[..2]).join(&hex);
    [
        spread(folder.join(OBJECTS)),
        spread(folder.to_owned()),
        folder.join(format!("{kind}s")).join(&hex),
    ]
}

/// Stages what `from` gives, and keeps it if it is what its name says.
fn take(
    blobs: &dyn Blobs,
    places: &Places,
    object: Object,
    from: &mut dyn Read,
) -> Result<(), BringBackError> {
    let mut staged = blobs.stage()?;
    let (mut piece, mut asked_at) = (vec![0; PIECE], 0);
    loop {
        match from.read(&mut piece) {
            Ok(0) => break,
            Ok(len) => staged.write_all(&piece[..len]).map_err(|source| {
                let action = format!("stage {object}");
                BlobsError::Io { action, source }
            })?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(BringBackError::Copy(whole(&error))),
        }
        if staged.len() >= asked_at + ROOM_STEP {
            asked_at = staged.len();
            blobs.room()?;
        }
    }
    fault::point("store.heal.staged").map_err(|source| BlobsError::Io {
        action: format!("keep {object}"),
        source,
    })?;
    match blobs.keep(staged, object) {
        Err(BlobsError::Mismatch { .. }) => {
            return Err(BringBackError::Copy("its copy is damaged as well".to_owned()));
        }
        kept => kept?,
    }
    if let Object::Bundle(bundle) = object {
        let index = read_index(blobs, bundle)?;
        let len = blobs.len(object)?.unwrap_or(0);
        places.add(bundle, len, &index);
    }
    Ok(())
}

/// A mirror's copy as a stream; none where it has none.
fn body_of(url: &MirrorUrl, object: Object) -> Result<Option<impl Read>, BringBackError> {
    if object.kind() == ObjectKind::Manifest {
        return Ok(None);
    }
    let address = format!("{url}/{}s/{}", object.kind().as_str(), object.hex());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(BringBackError::Client)?;
    // reqwest asks for the process's. That there is one already is as good: it is the only one in this program.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let copy = |error: reqwest::Error| BringBackError::Copy(whole(&error));
    let asked = async {
        let client = reqwest::Client::builder()
            .read_timeout(PATIENCE)
            .connect_timeout(PATIENCE)
            .build()?;
        client.get(address).send().await
    };
    let response = runtime.block_on(asked).map_err(copy)?;
    if response.status() == reqwest::StatusCode::NOT_FOUND {
        return Ok(None);
    }
    let response = response.error_for_status().map_err(copy)?;
    Ok(Some(Body {
        runtime,
        response,
        rest: bytes::Bytes::new(),
    }))
}

/// What a server sends, read by somebody who blocks.
struct Body {
    runtime: tokio::runtime::Runtime,
    response: reqwest::Response,
    rest: bytes::Bytes,
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            let next = self.runtime.block_on(self.response.chunk());
            match next.map_err(io::Error::other)? {
                Some(piece) => self.rest = piece,
                None => return Ok(0),
            }
        }
        let piece = self.rest.split_to(self.rest.len().min(buffer.len()));
        buffer[..piece.len()].copy_from_slice(&piece);
        Ok(piece.len())
    }
}
