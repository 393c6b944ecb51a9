//! Assets: which files of a release browsers fetch, at which URL, and which of them never change.
//!
//! * [`fingerprint`]: what a name alone tells.
//! * [`built`]: what the tools that made the files say of them.
//! * [`recognise()`]: at publish, what both of them say together.
//! * [`assets_of`]: the assets of one release.
//! * [`refuse_dangling`]: links that nobody could serve.
//! * [`page`]: what a page or a style sheet makes a browser fetch.
//! * [`clashes`]: the rule that a fingerprinted URL has the same bytes for ever.
//! * [`union`]: which fingerprinted assets stand: those of every release that is given.
//! * [`content_type`]: the one table of types.
//!
//! **URLs.** An asset's URL path is its root's `url`, a slash, and its path below the root. Each byte outside
//! `A-Za-z0-9-._~!$&'()*+,;=:@` is written `%XX` with upper-case digits, so that every name, whatever its
//! bytes, has one spelling; [`canonical_url`] brings what a browser asks for into that spelling.

pub mod built;
mod dangling;
pub mod fingerprint;
pub mod page;
mod recognise;
mod types;
mod url;

use std::collections::BTreeMap;

use crate::digest::BlobDigest;
use crate::manifest::{EntryKind, EntryRef, Manifest};
use crate::path::{PathRef, TreePath, twins};
use crate::release::Target;
use crate::spec::AssetRoot;

pub use dangling::refuse_dangling;
pub use recognise::recognise;
pub use types::content_type;
pub use url::{canonical_url, encode_path, folder_name};

use fingerprint::Neighbours;

/// Links followed from one name to its file.
const MAX_HOPS: u32 = 40;

/// One file that browsers fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asset {
    /// Canonical: `/static/main.3f9a12bc.js`.
    pub url_path: String,
    /// The file in the release; for a link, the link.
    pub path: TreePath,
    pub digest: BlobDigest,
    pub size: u64,
    /// Whether these bytes stand at this URL for ever.
    pub fingerprinted: bool,
}

/// Most assets of one release. A store holds about 3 KiB for each while it takes them in, so that more would take it
/// beyond the 256 MiB that a process may use.
pub const MAX_ASSETS: usize = 60_000;

/// Why a release's assets cannot be served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AssetsError {
    #[error(
        "asset root \"{root}\" brings the release's assets to {count}, and a release may have {MAX_ASSETS}: narrow the roots to what browsers fetch"
    )]
    TooMany { root: String, count: usize },
    #[error("asset root \"{root}\" is not a folder of the release, or is empty")]
    NoRoot { root: String },
    #[error("\"{mutable}\" is named mutable and is not in asset root \"{root}\"")]
    NoMutable { root: String, mutable: TreePath },
    #[error("the fingerprints of asset root \"{root}\" are of another number of files than it has")]
    Marks { root: String },
    #[error("\"{first}\" and \"{second}\" would both be served at {url}")]
    Twice {
        url: String,
        first: TreePath,
        second: TreePath,
    },
    #[error(
        "asset \"{link}\" is a link to \"{target}\", which is no file of the release: publish the file as well, or leave the link out"
    )]
    Dangling { link: TreePath, target: String },
    #[error(
        "\"{first}\" and \"{second}\" differ only in case: some browsers and disks cannot tell them apart"
    )]
    Twins { first: TreePath, second: TreePath },
}

/// The assets of a release, sorted by URL.
pub fn assets_of(manifest: &Manifest) -> Result<Vec<Asset>, AssetsError> {
    let mut assets = Vec::new();
    for root in &manifest.spec().assets {
        below_root(manifest, root, &mut assets)?;
    }
    assets.sort_unstable_by(|a, b| (&a.url_path, &a.path).cmp(&(&b.url_path, &b.path)));
    if let Some([first, second]) = assets.array_windows().find(|[a, b]| a.url_path == b.url_path) {
        return Err(AssetsError::Twice {
            url: first.url_path.clone(),
            first: first.path.clone(),
            second: second.path.clone(),
        });
    }
    refuse_twins(&assets)?;
    Ok(assets)
}

fn refuse_twins(assets: &[Asset]) -> Result<(), AssetsError> {
    let path = |at: u32| &assets[at as usize].path;
    let fold = |at| {
        String::from_utf8_lossy(path(at).as_bytes())
            .to_lowercase()
            .into_bytes()
    };
    match twins(assets.len() as u32, fold).first() {
        None => Ok(()),
        Some((first, second)) => Err(AssetsError::Twins {
            first: path(*first).clone(),
            second: path(*second).clone(),
        }),
    }
}

/// Adds the files below one root. The entries are walked twice: a list of them between the two would take more memory
/// than the assets do.
fn below_root(manifest: &Manifest, root: &AssetRoot, assets: &mut Vec<Asset>) -> Result<(), AssetsError> {
    let files = || files_below(manifest, root);
    let mut mutable: BTreeMap<&[u8], bool> = root
        .mutable
        .iter()
        .map(|mutable| (mutable.as_bytes(), false))
        .collect();
    let base = root.url.strip_suffix('/').unwrap_or(&root.url);
    let before = assets.len();
    let count = files().count();
    if before + count > MAX_ASSETS {
        return Err(AssetsError::TooMany {
            root: root.folder(),
            count: before + count,
        });
    }
    assets.reserve_exact(count);
    let neighbours = match &root.marks {
        Some(marks) if !marks.fits(count) => return Err(AssetsError::Marks { root: root.folder() }),
        Some(_) => None,
        None => Some(neighbours(manifest, root)),
    };
    for (at, (path, below, size, digest)) in files().enumerate() {
        let by_name = neighbours.as_ref();
        let by_name = by_name.is_some_and(|names| names.is_fingerprinted(path.as_bytes()));
        let marked = root.marks.as_ref().map_or(by_name, |marks| marks.get(at));
        let named = mutable.get_mut(below).map(|seen| *seen = true).is_some();
        assets.push(Asset {
            url_path: format!("{base}/{}", encode_path(below)),
            path: path.to_path(),
            digest,
            size,
            fingerprinted: !named && marked,
        });
    }
    if assets.len() == before {
        let root = root.folder();
        return Err(AssetsError::NoRoot { root });
    }
    let is_there = |name: &&TreePath| mutable.get(name.as_bytes()) == Some(&true);
    match root.mutable.iter().find(|name| !is_there(name)) {
        None => Ok(()),
        Some(mutable) => Err(AssetsError::NoMutable {
            root: root.folder(),
            mutable: mutable.clone(),
        }),
    }
}

/// What browsers may fetch below a root, in the manifest's order: path, its part below the root, size, digest.
fn files_below<'m>(
    manifest: &'m Manifest,
    root: &'m AssetRoot,
) -> impl Iterator<Item = (PathRef<'m>, &'m [u8], u64, BlobDigest)> {
    let entries = manifest.entries().iter();
    entries.filter_map(move |entry| {
        let below = root.below(entry.path)?;
        let (size, digest) = file_at(manifest, entry)?;
        Some((entry.path, below, size, digest))
    })
}

/// How many files lie in the release's roots and are kept from the public.
pub fn private_files(manifest: &Manifest) -> usize {
    let roots = &manifest.spec().assets;
    let is_private = |path| {
        let mut inside = roots.iter().filter_map(|root| Some((root, root.inside(path)?)));
        inside.any(|(root, below)| root.is_private(below))
    };
    manifest.files().filter(|(path, ..)| is_private(*path)).count()
}

fn neighbours(manifest: &Manifest, root: &AssetRoot) -> Neighbours {
    Neighbours::new(files_below(manifest, root).map(|(path, ..)| path.as_bytes()))
}

/// The file that a name leads to. Links to files are followed; a link to a folder makes no assets.
fn file_at(manifest: &Manifest, entry: EntryRef<'_>) -> Option<(u64, BlobDigest)> {
    let mut path;
    let mut at = entry;
    for _ in 0..MAX_HOPS {
        match at.kind {
            EntryKind::File { size, digest, .. } => return Some((size, digest)),
            EntryKind::Link { target } => path = resolve(at.path.as_bytes(), target)?,
            EntryKind::EmptyFolder => return None,
        }
        at = manifest.get(&path)?;
    }
    None
}

/// The path a link's text means, seen from the link; none where it leaves the tree.
fn resolve(link: &[u8], target: &[u8]) -> Option<Vec<u8>> {
    if target.first() == Some(&b'/') {
        return None;
    }
    let mut parts: Vec<&[u8]> = link.split(|b| *b == b'/').collect();
    parts.pop();
    for part in target.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join(&b'/'))
}

/// A fingerprinted URL that would change its bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{url} has other bytes than in release {}: ours {}, theirs {}; give the file a new name, or list it as mutable",
    .release.number, .ours.short(), .theirs.short()
)]
pub struct Clash {
    pub url: String,
    pub ours: BlobDigest,
    pub theirs: BlobDigest,
    /// A release that has the URL with their bytes.
    pub release: Target,
}

/// Every fingerprinted asset of `new` whose URL stood for other bytes in any release ever published.
/// `known` looks a URL up in the ledger, which outlives retention: browsers keep `immutable` for a year.
pub fn clashes(new: &[Asset], known: impl Fn(&str) -> Option<(BlobDigest, Target)>) -> Vec<Clash> {
    let fingerprinted = new.iter().filter(|asset| asset.fingerprinted);
    let clash = |asset: &Asset| {
        let (theirs, release) = known(&asset.url_path)?;
        (theirs != asset.digest).then(|| Clash {
            url: asset.url_path.clone(),
            ours: asset.digest,
            theirs,
            release,
        })
    };
    fingerprinted.filter_map(clash).collect()
}

/// The fingerprinted assets of all `releases`: URL → digest and size. Additive: a release more never takes
/// one away, and none can contradict another, since a clash is refused at publish.
pub fn union<'a>(releases: impl IntoIterator<Item = &'a [Asset]>) -> BTreeMap<&'a str, (BlobDigest, u64)> {
    let assets = releases.into_iter().flatten().filter(|asset| asset.fingerprinted);
    assets
        .map(|asset| (asset.url_path.as_str(), (asset.digest, asset.size)))
        .collect()
}

#[cfg(test)]
mod tests;
