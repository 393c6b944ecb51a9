//! What is done about rot: it is counted for its app, and the file is made anew at once, asked for or not.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ship_model::assets::encode_path;
use ship_model::name::AppName;
use ship_model::report::AssetRot;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use crate::miss::Missed;
use crate::serve::{OnRot, Rotten};
use crate::shelf::Shelf;

/// Files that are tried again and again at once; what is more is made anew when it is asked for.
const AT_ONCE: usize = 64;
/// From one try to the next; each takes twice as long as the one before.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(300);

/// The rot of a shelf's unions. One for a shelf.
#[derive(Debug)]
pub struct Mending {
    shelf: Arc<Shelf>,
    runtime: Handle,
    places: Arc<Semaphore>,
    found: Mutex<BTreeMap<AppName, AssetRot>>,
}

impl Mending {
    /// Works on `runtime`, and ends with it.
    pub fn new(shelf: Arc<Shelf>, runtime: Handle) -> Arc<Self> {
        Arc::new(Self {
            shelf,
            runtime,
            places: Arc::new(Semaphore::new(AT_ONCE)),
            found: Mutex::default(),
        })
    }

    /// What to call when rot is found.
    pub fn on_rot(self: &Arc<Self>) -> OnRot {
        let mending = Arc::clone(self);
        Box::new(move |rotten| mending.hear(&rotten))
    }

    /// What was found of `app`'s assets since the start.
    pub fn rot(&self, app: &AppName) -> Option<AssetRot> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.get(app).cloned()
    }

    fn hear(self: &Arc<Self>, rotten: &Rotten) {
        // What lies in the tree of a release is the business of whoever unpacked it.
        let Some(union) = &rotten.union else { return };
        let unions = self.shelf.app_unions();
        let Some((app, _)) = unions.into_iter().find(|(_, ours)| Arc::ptr_eq(ours, union)) else {
            return;
        };
        let url = format!("/{}", encode_path(rotten.name.as_bytes()));
        self.note(&app, |rot| {
            rot.found += 1;
            rot.url.clone_from(&url);
        });
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            return;
        };
        let mending = Arc::clone(self);
        self.runtime.spawn(async move {
            mending.mend(&app, &url).await;
            drop(place);
        });
    }

    async fn mend(&self, app: &AppName, url: &str) {
        let mut wait = FIRST;
        while let Some(misses) = self.shelf.misses() {
            if misses.repair(url).await == Missed::Here {
                return self.note(app, |rot| rot.mended += 1);
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LONGEST);
        }
    }

    fn note(&self, app: &AppName, change: impl FnOnce(&mut AssetRot)) {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        change(found.entry(app.clone()).or_default());
    }
}
