//! What an app's releases take, and what could be done about it.

use std::collections::BTreeSet;
use std::fmt;

use ship_model::name::AppName;

use super::laid::manifest;
use super::optimize::{OptimizeError, bases, trees};
use super::plan::{Step, depth, plan};
use crate::deltas::MOST_MANIFESTS;
use crate::engine::{Blobs, Object};
use crate::ledger::Ledger;
use crate::locate::Places;

/// An app's releases, each tree counted once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppSurvey {
    pub app: AppName,
    pub releases: usize,
    /// Kept as deltas.
    pub kept: usize,
    /// Deltas that are decoded one after another, at most.
    pub deepest: usize,
    /// Of all bundles that carry something of them, also for other apps.
    pub bundle_bytes: u64,
    pub kept_bytes: u64,
    /// That would be kept as deltas.
    pub to_keep: usize,
    /// That are left as they are, because of too many names.
    pub too_large: usize,
}

impl fmt::Display for AppSurvey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            app,
            releases,
            kept,
            deepest,
            bundle_bytes,
            kept_bytes,
            to_keep,
            too_large,
        } = self;
        write!(
            f,
            "{app}: {releases} releases, {kept} of them as deltas (at most {deepest} in a row); {bundle_bytes} bytes in bundles, {kept_bytes} in kept deltas"
        )?;
        if *to_keep > 0 {
            write!(f, "; {to_keep} more can be kept as deltas")?;
        }
        if *too_large > 0 {
            write!(
                f,
                "; {too_large} have too many names and are left as they are (manifests over {MOST_MANIFESTS} bytes together)"
            )?;
        }
        Ok(())
    }
}

/// Every app, by name. Blocks; reads every manifest.
///
/// # Errors
/// When the ledger or an object cannot be read.
pub fn survey(blobs: &dyn Blobs, places: &Places, ledger: &Ledger) -> Result<Vec<AppSurvey>, OptimizeError> {
    let mut found = Vec::new();
    for app in ledger.apps()? {
        found.push(of(blobs, places, ledger, app)?);
    }
    Ok(found)
}

fn of(blobs: &dyn Blobs, places: &Places, ledger: &Ledger, app: AppName) -> Result<AppSurvey, OptimizeError> {
    let (trees, _) = trees(blobs, ledger, &app)?;
    let steps = plan(&trees, &bases(places), MOST_MANIFESTS);
    let keeps = steps.iter().filter(|step| matches!(step, Step::Keep { .. }));
    let mut survey = AppSurvey {
        releases: trees.len(),
        kept: 0,
        deepest: 0,
        bundle_bytes: 0,
        kept_bytes: 0,
        to_keep: keeps.count(),
        too_large: 0,
        app,
    };
    let mut bundles = BTreeSet::new();
    for (at, tree) in trees.iter().enumerate() {
        let before = at.checked_sub(1).and_then(|at| trees.get(at));
        if let Some(link) = places.link(tree.id) {
            survey.kept += 1;
            survey.kept_bytes += link.bytes;
            let deep = depth(tree.id, |at| places.link(at).map(|link| link.base));
            survey.deepest = survey.deepest.max(deep);
        } else if before.is_some_and(|before| before.manifest_bytes + tree.manifest_bytes > MOST_MANIFESTS) {
            survey.too_large += 1;
        }
        let files = manifest(blobs, tree.id).map(|manifest| {
            let files = manifest.files().map(|(_, _, _, digest)| digest);
            places.carriers(files)
        });
        // A manifest that is lost is for `verify` to tell.
        bundles.extend(files.unwrap_or_default());
    }
    for bundle in bundles {
        survey.bundle_bytes += blobs.len(Object::Bundle(bundle))?.unwrap_or(0);
    }
    Ok(survey)
}
