//! What is served right now.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use ship_model::assets::{AssetsError, assets_of, content_type};
use ship_model::digest::BlobDigest;
use ship_model::manifest::Manifest;
use ship_model::name::AppName;
use ship_model::path::TreePath;

use crate::union::Union;
use crate::url::folder_name;

type Map = HashMap<TreePath, Served>;

/// One file that can be asked for.
#[derive(Debug, Clone)]
pub struct Served {
    root: Arc<Path>,
    /// Below `root`; none when it is the name it is asked for by.
    within: Option<TreePath>,
    pub digest: BlobDigest,
    pub size: u64,
    /// Its bytes never change under this name.
    pub immutable: bool,
    pub content_type: &'static str,
}

impl Served {
    pub(crate) fn file(&self, name: &TreePath) -> PathBuf {
        self.root.join(self.within.as_ref().unwrap_or(name).as_path())
    }
}

/// A map from URL path to file, swapped whole: a request sees one state and never waits for a writer.
///
/// Fingerprinted assets come from unions, by app; the others from the release that runs. Where two apps of
/// one host use the same URL path, the app whose name sorts first is served.
#[derive(Debug, Default)]
pub struct Shelf {
    apps: Mutex<BTreeMap<AppName, Part>>,
    map: RwLock<Arc<Map>>,
}

#[derive(Debug, Default)]
struct Part {
    union: Map,
    running: Map,
}

impl Shelf {
    pub fn new() -> Self {
        Self::default()
    }

    /// Serves what `union` holds now; call it again when it holds more.
    pub fn set_union(&self, app: &AppName, union: &Union) {
        let root: Arc<Path> = union.folder().into();
        let served = |(name, stored): (TreePath, crate::union::Stored)| {
            let served = Served {
                root: root.clone(),
                within: None,
                digest: stored.digest,
                size: stored.size,
                immutable: true,
                content_type: content_type(name.file_name()),
            };
            (name, served)
        };
        let files = union.files().into_iter().map(served).collect();
        self.change(app, |part| part.union = files);
    }

    /// Serves the mutable files of the release that runs, which lies unpacked in `tree`.
    pub fn set_running(&self, app: &AppName, tree: &Path, manifest: &Manifest) -> Result<(), AssetsError> {
        let root: Arc<Path> = tree.into();
        let mutable = assets_of(manifest)?
            .into_iter()
            .filter(|asset| !asset.fingerprinted);
        let served = mutable.filter_map(|asset| {
            let name = folder_name(&asset.url_path)?;
            let content_type = content_type(name.file_name());
            let (digest, size, within) = (asset.digest, asset.size, Some(asset.path));
            Some((
                name,
                Served {
                    root: root.clone(),
                    within,
                    digest,
                    size,
                    immutable: false,
                    content_type,
                },
            ))
        });
        let files = served.collect();
        self.change(app, |part| part.running = files);
        Ok(())
    }

    /// Stops serving an app.
    pub fn remove(&self, app: &AppName) {
        self.change(app, |part| *part = Part::default());
    }

    /// The file for a URL path, percent signs and all; without its query. A path that ends with a slash is its folder's
    /// `index.html`.
    pub fn find(&self, url_path: &str) -> Option<(TreePath, Served)> {
        let name = if url_path.ends_with('/') {
            folder_name(&format!("{url_path}index.html"))?
        } else {
            folder_name(url_path)?
        };
        let map = self.map.read().unwrap_or_else(PoisonError::into_inner).clone();
        let served = map.get(&name)?.clone();
        Some((name, served))
    }

    /// How many paths are served.
    pub fn len(&self) -> usize {
        self.map.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn change(&self, app: &AppName, change: impl FnOnce(&mut Part)) {
        let mut apps = self.apps.lock().unwrap_or_else(PoisonError::into_inner);
        change(apps.entry(app.clone()).or_default());
        let mut map = Map::new();
        // Later inserts win: the first app last, and fingerprinted before mutable.
        for part in apps.values().rev() {
            map.extend(
                part.running
                    .iter()
                    .map(|(name, served)| (name.clone(), served.clone())),
            );
            map.extend(
                part.union
                    .iter()
                    .map(|(name, served)| (name.clone(), served.clone())),
            );
        }
        // Still under the lock of `apps`, so that the newest map is the one that stays.
        *self.map.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(map);
    }
}
