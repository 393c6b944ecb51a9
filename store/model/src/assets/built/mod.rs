//! What the tools that made a release's assets say of them.
//!
//! Bundlers and web frameworks write a manifest beside what they emit: a map from the name in the sources to the name
//! with the fingerprint. Read here are those of
//!
//! * Vite (`.vite/manifest.json`, before version 5 `manifest.json`), Laravel's Vite;
//! * webpack's plugins (`manifest.json`, `asset-manifest.json`, `assets-manifest.json`) and its own statistics
//!   (`stats.json`), Rollup's output manifest, gulp-rev (`rev-manifest.json`), Laravel Mix (`mix-manifest.json`);
//! * esbuild's metafile, which Angular calls `stats.json`;
//! * Sprockets (`.sprockets-manifest-*.json`), Propshaft (`.manifest.json`), Phoenix (`cache_manifest.json`), Django
//!   (`staticfiles.json`).
//!
//! They are told apart by what stands in them, not by their names, and what is not known is passed over. Angular's
//! `ngsw.json` and Symfony's `entrypoints.json` list files without saying which name is a fingerprint, so that nothing can
//! be learnt of them. A Next.js build is known by its folder: see [`recognise`](mod@super::recognise).
//!
//! **That a tool lists a file does not make its name a fingerprint**: all of them can be told to write plain names. What
//! counts is that the emitted name is the name in the sources with something like a hash added.

mod node;
mod pairs;
mod verdict;

use std::collections::{HashMap, HashSet};

use node::parse;
use pairs::{Pair, pairs};
use verdict::{fits, inserted, is_weak};

use crate::manifest::{EntryKind, Manifest};
use crate::path::{PathRef, TreePath};
use crate::spec::AssetRoot;

/// Largest manifest of a tool that is read, in bytes: 60,000 files take a quarter of it.
pub const MAX_BYTES: u64 = 16 << 20;
/// Most manifests of tools that are read of one release.
pub const MAX_MANIFESTS: usize = 64;

/// Names that tools give them.
const NAMES: &[&str] = &[
    ".manifest.json",
    "asset-manifest.json",
    "assets-manifest.json",
    "assets.json",
    "cache_manifest.json",
    "esbuild-meta.json",
    "manifest.json",
    "meta.json",
    "metafile.json",
    "mix-manifest.json",
    "parcel-manifest.json",
    "rev-manifest.json",
    "staticfiles.json",
    "stats.json",
    "webpack-stats.json",
];

/// What is said of one file; of two tools, the one that says more is heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Said {
    /// Its name is the one in the sources.
    Plain,
    /// It was emitted by a tool that fingerprints all it emits.
    Listed,
    /// Its name is the one in the sources with a hash added.
    Fingerprinted,
}

/// What the tools of one release say.
#[derive(Debug, Clone, Default)]
pub struct Built {
    said: HashMap<Box<[u8]>, Said>,
}

/// Why a tool's manifest was not read. Nothing is lost but what could be learnt of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadBuiltError {
    #[error("\"{path}\" looks like the manifest of a build tool and is no JSON: {reason}")]
    Json { path: TreePath, reason: String },
}

impl Built {
    /// Takes in what the tool's manifest at `path` says, whose content is `bytes`; gives the number of files that it
    /// calls fingerprinted.
    ///
    /// # Errors
    /// [`ReadBuiltError`].
    pub fn read(
        &mut self,
        manifest: &Manifest,
        path: &TreePath,
        bytes: &[u8],
    ) -> Result<usize, ReadBuiltError> {
        let top = parse(bytes).map_err(|reason| ReadBuiltError::Json {
            path: path.clone(),
            reason,
        })?;
        let place = Place {
            manifest,
            base: base_of(path.by_ref()),
        };
        Ok(self.learn(&pairs(top), &place))
    }

    fn learn(&mut self, pairs: &[Pair], place: &Place<'_>) -> usize {
        let before = self.fingerprinted();
        let words = repeated(pairs);
        let verdicts: Vec<Option<Said>> = pairs.iter().map(|pair| verdict(pair, &words)).collect();
        let count = |wanted| verdicts.iter().filter(|said| **said == Some(wanted)).count();
        let all_hashed = count(Said::Fingerprinted) > 0 && count(Said::Plain) == 0;
        for (pair, said) in pairs.iter().zip(&verdicts) {
            let said = match said {
                Some(Said::Listed) if !all_hashed => continue,
                None => continue,
                Some(said) => *said,
            };
            if let Some(path) = place.find(&pair.emitted) {
                self.say(path, said);
            }
            // Django and Phoenix leave the original beside it.
            let original = pair.logical.as_ref().filter(|_| said == Said::Fingerprinted);
            if let Some(path) = original.and_then(|logical| place.exact(logical)) {
                self.say(path, Said::Plain);
            }
        }
        self.fingerprinted() - before
    }

    fn say(&mut self, path: PathRef<'_>, said: Said) {
        let known = self.said.entry(path.as_bytes().into()).or_insert(said);
        *known = said.max(*known);
    }

    fn fingerprinted(&self) -> usize {
        let said = self.said.values();
        said.filter(|said| **said == Said::Fingerprinted).count()
    }

    /// What is said of a file; what holds for it holds for its map and its encodings.
    pub fn said(&self, path: &[u8]) -> Option<Said> {
        let mut at = path;
        loop {
            if let Some(said) = self.said.get(at) {
                return Some(*said);
            }
            let endings = [&b".gz"[..], b".br", b".zst", b".map"];
            at = endings.iter().find_map(|ending| at.strip_suffix(*ending))?;
        }
    }
}

/// The files of a release that may be manifests of tools and speak of an asset root: they lie in one, or above one. The
/// first [`MAX_MANIFESTS`] in the order of their paths, none larger than [`MAX_BYTES`].
pub fn manifests(manifest: &Manifest) -> Vec<TreePath> {
    let roots = &manifest.spec().assets;
    let candidates = manifest.entries().iter().filter(|entry| {
        let small = matches!(entry.kind, EntryKind::File { size, .. } if size <= MAX_BYTES);
        small && is_name(entry.path.file_name()) && roots.iter().any(|root| speaks_of(entry.path, root))
    });
    let paths = candidates.map(|entry| entry.path.to_path());
    paths.take(MAX_MANIFESTS).collect()
}

fn is_name(name: &[u8]) -> bool {
    let Ok(name) = std::str::from_utf8(name) else {
        return false;
    };
    NAMES.contains(&name) || is_sprockets(name)
}

/// `.sprockets-manifest-<32 digits>.json`, before version 3 without its beginning. The digits are random, and stay when
/// the file is written anew: they are no fingerprint.
pub(super) fn is_sprockets(name: &str) -> bool {
    let digits = name
        .strip_prefix(".sprockets-")
        .unwrap_or(name)
        .strip_prefix("manifest-")
        .and_then(|rest| rest.strip_suffix(".json"));
    digits.is_some_and(|digits| digits.len() == 32 && digits.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn speaks_of(path: PathRef<'_>, root: &AssetRoot) -> bool {
    if path.components().any(|part| part == b"node_modules") {
        return false;
    }
    let base = base_of(path);
    let Some(root) = &root.root else {
        return true;
    };
    let lies_in = |inner: &[u8], outer: &[u8]| {
        outer.is_empty()
            || inner
                .strip_prefix(outer)
                .is_some_and(|rest| matches!(rest, [] | [b'/', ..]))
    };
    lies_in(base, root.as_bytes()) || lies_in(root.as_bytes(), base)
}

/// The folder that a manifest's names are relative to.
fn base_of(path: PathRef<'_>) -> &[u8] {
    let folder = path.parent().unwrap_or_default();
    match folder.strip_suffix(b".vite") {
        Some([]) => &[],
        Some([above @ .., b'/']) => above,
        _ => folder,
    }
}

/// What was added to more than one name, and may be a word: `main-bundled1.js`, `admin-bundled1.js`.
fn repeated(pairs: &[Pair]) -> HashSet<&str> {
    let mut first: HashMap<&str, &str> = HashMap::new();
    let mut found = HashSet::new();
    for pair in pairs {
        let (Some(logical), to) = (&pair.logical, file_name(&pair.emitted)) else {
            continue;
        };
        let added = inserted(file_name(logical), to).filter(|added| is_weak(added));
        if let Some(added) = added
            && *first.entry(added).or_insert(to) != to
        {
            found.insert(added);
        }
    }
    found
}

fn verdict(pair: &Pair, words: &HashSet<&str>) -> Option<Said> {
    if pair.sure {
        return Some(Said::Fingerprinted);
    }
    let Some(logical) = &pair.logical else {
        return Some(Said::Listed);
    };
    let (from, to) = (file_name(logical), file_name(&pair.emitted));
    if from == to {
        return Some(Said::Plain);
    }
    let added = inserted(from, to)?;
    let is_hash = fits(added) && !words.contains(added);
    Some(if is_hash { Said::Fingerprinted } else { Said::Plain })
}

fn file_name(text: &str) -> &str {
    let text = text.split(['?', '#']).next().unwrap_or_default();
    text.rsplit('/').next().unwrap_or_default()
}

/// Where the names of a tool's manifest lead.
struct Place<'m> {
    manifest: &'m Manifest,
    base: &'m [u8],
}

impl<'m> Place<'m> {
    /// The file that an emitted name means. Tools write names relative to the manifest, to where the tool was run, or as
    /// URLs; the first that is a file of a root is it.
    fn find(&self, emitted: &str) -> Option<PathRef<'m>> {
        let text = emitted.split(['?', '#']).next().unwrap_or_default();
        let text = match text.split_once("//") {
            Some((scheme, rest)) if scheme.is_empty() || scheme.ends_with(':') => {
                rest.find('/').and_then(|at| rest.get(at..))?
            }
            _ => text,
        };
        if let Some(found) = self.by_url(text) {
            return Some(found);
        }
        let text = text.trim_start_matches("./").trim_start_matches("auto/");
        let mut rest = text.trim_start_matches('/');
        if let Some(found) = self.exact(rest).or_else(|| self.entry(rest.as_bytes())) {
            return Some(found);
        }
        // Relative to where the tool was run, and the release is what it wrote into a folder there.
        for _ in 0..3 {
            rest = rest.split_once('/')?.1;
            if let Some(found) = self.exact(rest) {
                return Some(found);
            }
        }
        None
    }

    /// The file of that name beside the manifest.
    fn exact(&self, name: &str) -> Option<PathRef<'m>> {
        if self.base.is_empty() {
            return self.entry(name.as_bytes());
        }
        self.entry(&[self.base, b"/", name.as_bytes()].concat())
    }

    fn by_url(&self, text: &str) -> Option<PathRef<'m>> {
        let roots = self.manifest.spec().assets.iter();
        roots.filter(|_| text.starts_with('/')).find_map(|root| {
            let url = root.url.strip_suffix('/').unwrap_or(&root.url);
            let below = text.strip_prefix(url)?.strip_prefix('/')?;
            match &root.root {
                Some(folder) => self.entry(&[folder.as_bytes(), b"/", below.as_bytes()].concat()),
                None => self.entry(below.as_bytes()),
            }
        })
    }

    fn entry(&self, path: &[u8]) -> Option<PathRef<'m>> {
        let entry = self.manifest.get(path)?;
        let mut roots = self.manifest.spec().assets.iter();
        (entry.is_file() && roots.any(|root| root.inside(entry.path).is_some())).then_some(entry.path)
    }
}

#[cfg(test)]
mod tests;
