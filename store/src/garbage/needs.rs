//! Which objects are needed, and by whom.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use ship_model::assets::assets_of;
use ship_model::digest::{BlobDigest, BundleDigest, DeltaDigest, ReleaseId};
use ship_model::manifest::Manifest;
use ship_model::name::AppName;
use ship_model::release::ReleaseNumber;

use super::roots::{Judged, Roots};
use super::{CollectError, Collector};
use crate::engine::{BlobsError, Object};
use crate::ledger::UrlSet;
use crate::locate::{Places, read_index};
use crate::union::{ReadManifestError, read_manifest};

/// Who needs an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Needer {
    /// A release that keeps its content.
    Release(AppName, ReleaseNumber),
    /// Assets of a collected release that are promised still.
    Assets(AppName, ReleaseNumber),
    /// Hosts that are told to have a collected release's assets, of which none is promised any more: the next plan leaves it out.
    Told(AppName, ReleaseNumber),
    /// A publish that was begun.
    Begun(AppName, ReleaseId),
    /// A release that is kept as a delta against this one's content, or whose delta gives what somebody needs.
    Chain(ReleaseId),
}

impl fmt::Display for Needer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Release(app, number) => write!(f, "{app}@{number}"),
            Self::Assets(app, number) => write!(f, "assets of {app}@{number}, which are promised still"),
            Self::Told(app, number) => write!(f, "hosts that are told of {app}@{number} until the next plan"),
            Self::Begun(app, id) => write!(f, "a publish of {app} that has begun ({})", id.short()),
            Self::Chain(id) => write!(f, "what is kept as deltas, by way of tree {}", id.short()),
        }
    }
}

/// One who needs an object, and how many others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    pub first: Needer,
    pub others: u64,
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.others {
            0 => write!(f, "needed by {}", self.first),
            others => write!(f, "needed by {} and {others} more", self.first),
        }
    }
}

/// All that is needed at one moment.
#[derive(Debug, Default)]
pub(super) struct Needs {
    pub manifests: BTreeMap<ReleaseId, Need>,
    pub bundles: BTreeMap<BundleDigest, Need>,
    /// Deltas that keep releases.
    pub deltas: BTreeMap<DeltaDigest, Need>,
    /// Trees whose content is kept: a delta between two of them is.
    pub kept: BTreeSet<ReleaseId>,
    /// Releases without content of which nothing is promised any more, by their place among the roots.
    pub bare: Vec<usize>,
    listed: BTreeMap<BlobDigest, Needer>,
    /// Trees whose delta gives something that is needed and lies in no bundle, or that another's is made against.
    chains: BTreeSet<ReleaseId>,
    /// Assets that releases with content name: nobody needs a collected one for them.
    named: BTreeMap<AppName, UrlSet>,
}

impl Needs {
    fn manifest(&mut self, id: ReleaseId, who: &Needer) {
        add(&mut self.manifests, id, who);
    }

    /// Notes where these blobs lie, or what gives them.
    fn blobs(&mut self, places: &Places, blobs: &[BlobDigest], who: &Needer) {
        for bundle in places.carriers(blobs.iter().copied()) {
            add(&mut self.bundles, bundle, who);
        }
        for blob in places.listed(blobs) {
            self.listed.entry(blob).or_insert_with(|| who.clone());
        }
        let covered = places.covered_only(blobs);
        self.chains
            .extend(covered.iter().filter_map(|blob| places.giver(blob)));
    }

    /// Whether the object is needed, and by whom. Of deltas that are offered it is known only whether both ends are kept.
    pub fn of(&self, object: Object) -> Option<&Need> {
        match object {
            Object::Bundle(bundle) => self.bundles.get(&bundle),
            Object::Manifest(id) => self.manifests.get(&id),
            Object::Kept(delta) => self.deltas.get(&delta),
            Object::Delta(_) => None,
        }
    }
}

fn add<K: Ord>(needed: &mut BTreeMap<K, Need>, key: K, who: &Needer) {
    match needed.get_mut(&key) {
        Some(need) => need.others += 1,
        None => {
            let first = who.clone();
            drop(needed.insert(key, Need { first, others: 0 }));
        }
    }
}

impl Collector<'_> {
    /// What `roots` need when those releases of them that `goes` names have lost their content. Reads one manifest after
    /// another.
    pub(super) fn needs(&self, roots: &Roots, goes: impl Fn(&Judged) -> bool) -> Result<Needs, CollectError> {
        let mut needs = Needs::default();
        for release in &roots.releases {
            if release.collected.is_none() && !goes(release) {
                self.of_release(release, &mut needs)?;
            }
        }
        let mut expired: Option<(AppName, UrlSet)> = None;
        for (at, release) in roots.releases.iter().enumerate() {
            if release.collected.is_none() && !goes(release) {
                continue;
            }
            let app = &release.record.app;
            if expired.as_ref().is_none_or(|(of, _)| of != app) {
                expired = Some((app.clone(), self.ledger.expired_urls(app)?));
            }
            let urls = expired.as_ref().map(|(_, urls)| urls);
            if self.of_collected(release, urls, &mut needs)? {
                needs.bare.push(at);
            }
        }
        for begun in &roots.begun {
            let who = Needer::Begun(begun.app.clone(), begun.id);
            for bundle in &begun.bundles {
                add(&mut needs.bundles, *bundle, &who);
            }
            match read_manifest(self.blobs, begun.id) {
                Ok(manifest) => self.of_manifest(begun.id, &manifest, &who, &mut needs),
                // Said before it was kept.
                Err(ReadManifestError::Blobs(BlobsError::Absent { .. })) => {}
                // No release ever needs what is not a manifest.
                Err(ReadManifestError::Decode(_)) => {}
                Err(ReadManifestError::Blobs(BlobsError::Damaged { .. })) => {}
                Err(ReadManifestError::Blobs(error)) => return Err(error.into()),
            }
        }
        self.of_chains(&mut needs)?;
        self.of_lists(&mut needs)?;
        Ok(needs)
    }

    /// Along the chains of what is kept as deltas, down to what bundles carry.
    fn of_chains(&self, needs: &mut Needs) -> Result<(), CollectError> {
        let (mut done, mut kept) = (BTreeSet::new(), needs.kept.clone());
        loop {
            kept.append(&mut needs.chains);
            let Some(id) = kept.pop_first() else { return Ok(()) };
            if !done.insert(id) {
                continue;
            }
            let who = Needer::Chain(id);
            if let Some(link) = self.places.link(id) {
                add(&mut needs.deltas, link.delta, &who);
                needs.chains.insert(link.base);
            }
            if !needs.kept.contains(&id) {
                let manifest = read_manifest(self.blobs, id);
                let manifest = manifest.map_err(|source| CollectError::Chain {
                    id,
                    source: Box::new(source),
                })?;
                self.of_manifest(id, &manifest, &who, needs);
            }
        }
    }

    fn of_release(&self, release: &Judged, needs: &mut Needs) -> Result<(), CollectError> {
        let record = &release.record;
        let who = Needer::Release(record.app.clone(), record.number);
        if !needs.kept.insert(record.id) {
            // The same tree under another number needs the same.
            needs.manifest(record.id, &who);
            return Ok(());
        }
        let manifest = read_manifest(self.blobs, record.id).map_err(|source| unreadable(release, source))?;
        self.of_manifest(record.id, &manifest, &who, needs);
        let named = needs.named.entry(record.app.clone()).or_default();
        // What cannot be told names nothing, and others are asked for all of theirs.
        for asset in assets_of(&manifest).unwrap_or_default() {
            if asset.fingerprinted {
                named.insert(&asset.url_path);
            }
        }
        Ok(())
    }

    fn of_manifest(&self, id: ReleaseId, manifest: &Manifest, who: &Needer, needs: &mut Needs) {
        needs.manifest(id, who);
        let files: Vec<BlobDigest> = manifest.files().map(|(_, _, _, digest)| digest).collect();
        needs.blobs(self.places, &files, who);
    }

    /// What is needed of a release that has lost its content; whether nothing of it is promised any more.
    fn of_collected(
        &self,
        release: &Judged,
        expired: Option<&UrlSet>,
        needs: &mut Needs,
    ) -> Result<bool, CollectError> {
        let record = &release.record;
        let told = Needer::Told(record.app.clone(), record.number);
        if !release.collected.as_ref().is_some_and(|mark| mark.bare) {
            let manifest = match read_manifest(self.blobs, record.id) {
                Ok(manifest) => manifest,
                Err(ReadManifestError::Blobs(BlobsError::Absent { .. })) if release.collected.is_some() => {
                    return Ok(true);
                }
                Err(source) => return Err(unreadable(release, source)),
            };
            let named = needs.named.get(&record.app);
            let is_else = |url: &str| {
                let mut lists = expired.into_iter().chain(named);
                lists.any(|urls| urls.contains(url))
            };
            let blobs: Vec<BlobDigest> = match assets_of(&manifest) {
                Ok(assets) => assets
                    .iter()
                    .filter(|asset| asset.fingerprinted && !is_else(&asset.url_path))
                    .map(|asset| asset.digest)
                    .collect(),
                // Where nobody can tell, any file may be one.
                Err(_) => manifest.files().map(|(_, _, _, digest)| digest).collect(),
            };
            if !blobs.is_empty() {
                let who = Needer::Assets(record.app.clone(), record.number);
                needs.manifest(record.id, &who);
                needs.blobs(self.places, &blobs, &who);
                return Ok(false);
            }
        }
        if release.told {
            needs.manifest(record.id, &told);
        }
        Ok(true)
    }

    /// The segments of every large file that is needed and listed.
    fn of_lists(&self, needs: &mut Needs) -> Result<(), CollectError> {
        let listed = std::mem::take(&mut needs.listed);
        let bundles = self.places.listing();
        for bundle in bundles.into_iter().filter(|_| !listed.is_empty()) {
            for list in read_index(self.blobs, bundle)?.lists() {
                if let Some(who) = listed.get(&list.blob) {
                    let segments: Vec<_> = list.segments.iter().map(|segment| segment.digest).collect();
                    needs.blobs(self.places, &segments, who);
                }
            }
        }
        Ok(())
    }
}

fn unreadable(release: &Judged, source: ReadManifestError) -> CollectError {
    CollectError::Manifest {
        app: release.record.app.clone(),
        release: release.record.number,
        source: Box::new(source),
    }
}
