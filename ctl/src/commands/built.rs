//! What the build tools' own manifests tell of a folder's assets, made part of the release.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use ship_model::assets::built::{Built, manifests};
use ship_model::assets::recognise;
use ship_model::digest::BlobDigest;
use ship_model::manifest::{EntryKind, Manifest, ManifestError};
use ship_model::path::TreePath;

#[derive(Debug, thiserror::Error)]
pub enum RecogniseError {
    #[error("read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} changed while the folder was read", path.display())]
    Changed { path: PathBuf },
    #[error("keep which assets have a fingerprint")]
    Manifest(#[source] ManifestError),
}

/// Reads every manifest of a build tool in `dir`, whose tree `manifest` is, and marks what it tells of; gives a warning for
/// each that could not be understood.
pub fn recognise_in(dir: &Path, manifest: &mut Manifest) -> Result<Vec<String>, RecogniseError> {
    let mut built = Built::default();
    let mut warnings = Vec::new();
    for path in manifests(manifest) {
        let bytes = read(dir, manifest, &path)?;
        if let Err(error) = built.read(manifest, &path, &bytes) {
            warnings.push(error.to_string());
        }
    }
    if let Some(spec) = recognise(manifest, &built) {
        *manifest = manifest.with_spec(spec).map_err(RecogniseError::Manifest)?;
    }
    Ok(warnings)
}

/// The file that was hashed, and no other one: what it tells becomes part of the release's identity.
fn read(dir: &Path, manifest: &Manifest, path: &TreePath) -> Result<Vec<u8>, RecogniseError> {
    let file = dir.join(path.as_path());
    let (expected, length) = match manifest.get(path.as_bytes()).map(|entry| entry.kind) {
        Some(EntryKind::File { digest, size, .. }) => (digest, size),
        _ => return Err(RecogniseError::Changed { path: file }),
    };
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(&file);
    opened
        .and_then(|opened| opened.take(length.saturating_add(1)).read_to_end(&mut bytes))
        .map_err(|source| RecogniseError::Read {
            path: file.clone(),
            source,
        })?;
    if BlobDigest::of(&bytes) != expected {
        return Err(RecogniseError::Changed { path: file });
    }
    Ok(bytes)
}
