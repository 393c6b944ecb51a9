//! What one release needs of the union, written down when it is all there.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize, Serializer};
use ship_durable::FileError;
use ship_model::assets::Asset;
use ship_model::digest::BlobDigest;
use ship_model::release::Target;

/// The record's form; a reader refuses what it does not know.
const VERSION: u8 = 1;
/// The form of one of which assets were forgotten: a reader of the first form alone would take it for whole. It leaves
/// the record out instead, and brings the release anew.
const FADED: u8 = 2;
/// Largest record read, in bytes: a million assets at about 128 bytes each.
const MAX_RECORD: u64 = 128 << 20;

/// One file of the union.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RecordedAsset {
    /// URL path as pages name it.
    pub url: String,
    pub digest: BlobDigest,
    pub size: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    version: u8,
    pub release: Target,
    /// Those that are here.
    pub assets: Vec<RecordedAsset>,
    /// Those that were here until nothing kept them any more.
    #[serde(default)]
    pub forgotten: Vec<RecordedAsset>,
}

/// A record as it is written: of assets that somebody else holds.
#[derive(Debug, Serialize)]
struct Written<'a> {
    version: u8,
    release: Target,
    #[serde(serialize_with = "fingerprinted")]
    assets: &'a [Asset],
}

#[derive(Serialize)]
struct WrittenAsset<'a> {
    url: &'a str,
    digest: BlobDigest,
    size: u64,
}

fn fingerprinted<S: Serializer>(assets: &[Asset], serializer: S) -> Result<S::Ok, S::Error> {
    let fingerprinted = assets.iter().filter(|asset| asset.fingerprinted);
    serializer.collect_seq(fingerprinted.map(|asset| WrittenAsset {
        url: &asset.url_path,
        digest: asset.digest,
        size: asset.size,
    }))
}

/// Why a record cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("cannot read asset record {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("asset record {} is damaged; it is set aside and made anew from its release", path.display())]
    Damaged { path: PathBuf },
    #[error("cannot write asset record {}", path.display())]
    Write { path: PathBuf, source: FileError },
    #[error("cannot encode asset record {}", path.display())]
    Encode {
        path: PathBuf,
        source: serde_json::Error,
    },
}

impl Record {
    /// Writes what `release` needs. Durable when it returns. After a crash the record is there whole or not at all.
    pub fn write(release: Target, assets: &[Asset], folder: &Path) -> Result<(), RecordError> {
        let path = folder.join(release.folder());
        let record = Written {
            version: VERSION,
            release,
            assets,
        };
        let bytes = serde_json::to_vec(&record).map_err(|source| RecordError::Encode {
            path: path.clone(),
            source,
        })?;
        ship_durable::write_file(&path, &bytes).map_err(|source| RecordError::Write { path, source })
    }

    /// The same of what is kept; what `is_gone` holds for is written down as forgotten. True when that is something.
    pub fn write_kept(
        release: Target,
        assets: &[Asset],
        is_gone: &dyn Fn(&str) -> bool,
        folder: &Path,
    ) -> Result<bool, RecordError> {
        let fingerprinted = assets.iter().filter(|asset| asset.fingerprinted);
        let recorded = fingerprinted.map(|asset| RecordedAsset {
            url: asset.url_path.clone(),
            digest: asset.digest,
            size: asset.size,
        });
        let mut record = Self {
            version: VERSION,
            release,
            assets: recorded.collect(),
            forgotten: Vec::new(),
        };
        let faded = record.fade(is_gone);
        record.write_again(folder)?;
        Ok(faded)
    }

    /// Whether assets of it were forgotten.
    pub const fn is_faded(&self) -> bool {
        self.version == FADED
    }

    /// Moves what `is_gone` holds for to the forgotten; false when that is nothing new.
    pub fn fade(&mut self, is_gone: &dyn Fn(&str) -> bool) -> bool {
        let before = self.forgotten.len();
        let gone = self.assets.extract_if(.., |asset| is_gone(&asset.url));
        self.forgotten.extend(gone);
        if self.forgotten.len() == before {
            return false;
        }
        self.version = FADED;
        true
    }

    /// Writes what is left of it, as [`Self::write`] does.
    pub fn write_again(&self, folder: &Path) -> Result<(), RecordError> {
        let path = folder.join(self.release.folder());
        let bytes = serde_json::to_vec(self).map_err(|source| RecordError::Encode {
            path: path.clone(),
            source,
        })?;
        ship_durable::write_file(&path, &bytes).map_err(|source| RecordError::Write { path, source })
    }

    pub fn read(path: &Path) -> Result<Self, RecordError> {
        let failed = |source| RecordError::Read {
            path: path.to_owned(),
            source,
        };
        let mut bytes = Vec::new();
        let file = fs::File::open(path).map_err(failed)?;
        file.take(MAX_RECORD).read_to_end(&mut bytes).map_err(failed)?;
        let record: Self = serde_json::from_slice(&bytes).map_err(|_| RecordError::Damaged {
            path: path.to_owned(),
        })?;
        let known = match record.version {
            VERSION => record.forgotten.is_empty(),
            version => version == FADED,
        };
        if !known || path.file_name() != Some(record.release.folder().as_ref()) {
            return Err(RecordError::Damaged {
                path: path.to_owned(),
            });
        }
        Ok(record)
    }
}
