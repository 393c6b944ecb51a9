//! What is served right now.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use ship_model::assets::{AssetsError, assets_of, content_type, folder_name};
use ship_model::digest::BlobDigest;
use ship_model::manifest::Manifest;
use ship_model::name::AppName;
use ship_model::path::TreePath;
use ship_model::release::ReleaseNumber;
use ship_model::report::{AssetsAsked, MAX_ASKED};

use crate::miss::Misses;
use crate::union::Union;

type Map = HashMap<TreePath, Served>;

/// One file that can be asked for.
#[derive(Debug, Clone)]
pub struct Served {
    root: Arc<Path>,
    /// Below `root`; none when it is the name it is asked for by.
    within: Option<TreePath>,
    /// The union that holds it; none for a file of the release that runs.
    pub(crate) union: Option<Arc<Union>>,
    pub digest: BlobDigest,
    pub size: u64,
    /// Its bytes never change under this name.
    pub immutable: bool,
    pub content_type: &'static str,
}

impl Served {
    /// The folder that it lies in, and its name below that.
    pub(crate) fn place(&self, name: &TreePath) -> (Arc<Path>, TreePath) {
        (
            Arc::clone(&self.root),
            self.within.as_ref().unwrap_or(name).clone(),
        )
    }
}

/// From URL path to file, for every app that is served here. The names of fingerprinted assets are held once, by their
/// union; what is set is swapped whole, so a request sees one state.
///
/// Fingerprinted assets come before the files of the release that runs. Where two apps of one host use the same URL
/// path, the app whose name sorts first is served.
#[derive(Debug, Default)]
pub struct Shelf {
    apps: RwLock<Arc<BTreeMap<AppName, Part>>>,
    misses: OnceLock<Arc<Misses>>,
}

#[derive(Debug, Clone, Default)]
struct Part {
    union: Option<Arc<Union>>,
    running: Arc<Map>,
    /// Requests by the release that ran when they came; the one that runs now last.
    turns: Vec<Arc<Turn>>,
}

/// Requests while a release ran.
#[derive(Debug, Default)]
struct Turn {
    release: u64,
    found: AtomicU64,
    unknown: AtomicU64,
}

impl Part {
    fn find(&self, name: &TreePath) -> Option<Served> {
        let union = self.union.as_ref();
        let asset = union.and_then(|union| Some((union, union.find(name)?)));
        let Some((union, stored)) = asset else {
            return self.running.get(name).cloned();
        };
        Some(Served {
            root: Arc::clone(union.root()),
            within: None,
            union: Some(Arc::clone(union)),
            digest: stored.digest,
            size: stored.size,
            immutable: true,
            content_type: content_type(name.file_name()),
        })
    }
}

impl Shelf {
    pub fn new() -> Self {
        Self::default()
    }

    /// Serves what `union` holds, now and later.
    pub fn set_union(&self, app: &AppName, union: &Arc<Union>) {
        self.change(app, |part| part.union = Some(Arc::clone(union)));
    }

    /// From now on requests are counted for release `number` of `app`, which runs.
    pub fn runs(&self, app: &AppName, number: ReleaseNumber) {
        self.change(app, |part| {
            let known = part.turns.iter().position(|turn| turn.release == number.0);
            let turn = known.map(|at| part.turns.remove(at)).unwrap_or_else(|| {
                Arc::new(Turn {
                    release: number.0,
                    ..Turn::default()
                })
            });
            if part.turns.len() >= MAX_ASKED {
                part.turns.remove(0);
            }
            part.turns.push(turn);
        });
    }

    /// Requests for `app`'s assets by the release that ran when they came, the one that runs now last.
    pub fn asked(&self, app: &AppName) -> Vec<AssetsAsked> {
        let parts = self.parts();
        let turns = parts.get(app).into_iter().flat_map(|part| &part.turns);
        let asked = turns.map(|turn| AssetsAsked {
            release: turn.release,
            found: turn.found.load(Ordering::Relaxed),
            unknown: turn.unknown.load(Ordering::Relaxed),
        });
        asked.collect()
    }

    /// Counts a request for a path that is nobody's. Whose page named it can be told only where there is one app.
    pub(crate) fn unknown(&self) {
        let parts = self.parts();
        if let (1, Some(part)) = (parts.len(), parts.values().next())
            && let Some(turn) = part.turns.last()
        {
            turn.unknown.fetch_add(1, Ordering::Relaxed);
        }
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
                    union: None,
                    digest,
                    size,
                    immutable: false,
                    content_type,
                },
            ))
        });
        let files = Arc::new(served.collect());
        self.change(app, |part| part.running = files);
        Ok(())
    }

    /// The file for a URL path, percent signs and all; without its query. A path that ends with a slash is its folder's
    /// `index.html`. Counts as a request.
    pub fn find(&self, url_path: &str) -> Option<(TreePath, Served)> {
        let name = if url_path.ends_with('/') {
            folder_name(&format!("{url_path}index.html"))?
        } else {
            folder_name(url_path)?
        };
        let parts = self.parts();
        let (part, served) = parts.values().find_map(|part| Some((part, part.find(&name)?)))?;
        if let Some(turn) = part.turns.last() {
            turn.found.fetch_add(1, Ordering::Relaxed);
        }
        Some((name, served))
    }

    /// Has what is missing here looked for elsewhere; only the first word counts.
    pub fn look_elsewhere(&self, misses: Arc<Misses>) {
        let _ = self.misses.set(misses);
    }

    pub fn misses(&self) -> Option<&Arc<Misses>> {
        self.misses.get()
    }

    /// The union of every app that has one here.
    pub fn app_unions(&self) -> Vec<(AppName, Arc<Union>)> {
        let apps = Arc::clone(&self.apps.read().unwrap_or_else(PoisonError::into_inner));
        let unions = apps
            .iter()
            .filter_map(|(app, part)| Some((app, part.union.as_ref()?)));
        unions
            .map(|(app, union)| (app.clone(), Arc::clone(union)))
            .collect()
    }

    /// The file of a name below the folder.
    pub(crate) fn find_name(&self, name: &TreePath) -> Option<Served> {
        self.parts().values().find_map(|part| part.find(name))
    }

    /// The unions that are served now.
    pub(crate) fn unions(&self) -> Vec<Arc<Union>> {
        let parts = self.parts();
        parts.values().filter_map(|part| part.union.clone()).collect()
    }

    /// The digests of all that is served now.
    pub(crate) fn digests(&self) -> HashSet<BlobDigest> {
        let mut digests = HashSet::new();
        for part in self.parts().values() {
            digests.extend(part.running.values().map(|served| served.digest));
            if let Some(union) = &part.union {
                union.each_file(|stored| {
                    digests.insert(stored.digest);
                });
            }
        }
        digests
    }

    fn parts(&self) -> Arc<BTreeMap<AppName, Part>> {
        Arc::clone(&self.apps.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn change(&self, app: &AppName, change: impl FnOnce(&mut Part)) {
        let mut apps = self.apps.write().unwrap_or_else(PoisonError::into_inner);
        change(Arc::make_mut(&mut apps).entry(app.clone()).or_default());
    }
}
