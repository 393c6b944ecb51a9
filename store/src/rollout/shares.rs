//! What a host would fetch of a release, and what it has: the release's blobs against those of the releases that lie
//! on the host. Manifests never change, so what was counted once is kept, for a few releases.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use ship_model::digest::{BlobDigest, ReleaseId};
use ship_model::name::AppName;
use ship_model::rollout::{ByteShare, HostView};

use super::facts::ManifestSource;

/// Releases whose counts are kept. A bit for each blob and neighbour: a few megabytes at most.
const KEPT: usize = 4;
/// Neighbours that are read for one release; what only others have counts as new.
const NEIGHBOURS: usize = 32;

/// See the module.
pub(super) struct Shares {
    manifests: Arc<ManifestSource>,
    /// Newest last.
    counted: Mutex<VecDeque<Counted>>,
}

/// A release, blob by blob.
struct Counted {
    release: ReleaseId,
    /// By the blob's digest.
    sizes: Vec<u64>,
    /// Which of these blobs a neighbour has; a bit each.
    had_by: HashMap<ReleaseId, Vec<u64>>,
}

impl Shares {
    pub fn new(manifests: Arc<ManifestSource>) -> Self {
        Self {
            manifests,
            counted: Mutex::default(),
        }
    }

    /// Tells each host that was heard what it would fetch of `release`; blocks. A plan is made without these figures
    /// where the release's manifest cannot be read.
    pub fn add(&self, hosts: &mut [HostView], app: &AppName, release: ReleaseId) {
        let have: Vec<_> = hosts.iter().map(|host| lying_on(host, app)).collect();
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let at = counted.iter().position(|counted| counted.release == release);
        let mut known = at.and_then(|at| counted.remove(at));
        if let Err(reason) = self.count(&mut known, release, &have) {
            tracing::warn!(%app, %release, reason, "cannot tell what hosts would fetch");
        }
        let Some(known) = known else { return };
        let mut told = HashMap::new();
        for (host, have) in hosts.iter_mut().zip(&have) {
            let share =
                |have: &BTreeSet<ReleaseId>| *told.entry(have.clone()).or_insert_with(|| known.share(have));
            host.bytes = have.as_ref().map(share);
        }
        counted.push_back(known);
        while counted.len() > KEPT {
            counted.pop_front();
        }
    }

    fn count(
        &self,
        known: &mut Option<Counted>,
        release: ReleaseId,
        have: &[Option<BTreeSet<ReleaseId>>],
    ) -> Result<(), String> {
        let lacks = |neighbour: &&ReleaseId| {
            **neighbour != release
                && !known
                    .as_ref()
                    .is_some_and(|known| known.had_by.contains_key(*neighbour))
        };
        let all = have.iter().flatten().filter(|have| !have.contains(&release));
        let neighbours: BTreeSet<ReleaseId> = all.flatten().filter(lacks).copied().collect();
        let room = NEIGHBOURS.saturating_sub(known.as_ref().map_or(0, |known| known.had_by.len()));
        if known.is_some() && (neighbours.is_empty() || room == 0) {
            return Ok(());
        }
        let blobs = self.blobs(release)?;
        let known = known.get_or_insert_with(|| Counted {
            release,
            sizes: blobs.iter().map(|(_, size)| *size).collect(),
            had_by: HashMap::new(),
        });
        for neighbour in neighbours.into_iter().take(room) {
            // One that cannot be read is not counted on: the host may still have its files.
            let Ok(theirs) = self.blobs(neighbour) else {
                continue;
            };
            let mut bits = vec![0_u64; blobs.len().div_ceil(64)];
            for (at, (blob, _)) in blobs.iter().enumerate() {
                if theirs.binary_search_by_key(blob, |(blob, _)| *blob).is_ok() {
                    bits[at / 64] |= 1 << (at % 64);
                }
            }
            known.had_by.insert(neighbour, bits);
        }
        Ok(())
    }

    /// Each content of a release once, sorted.
    fn blobs(&self, release: ReleaseId) -> Result<Vec<(BlobDigest, u64)>, String> {
        let manifest = (self.manifests)(release)?;
        let mut blobs: Vec<_> = manifest.files().map(|(_, _, size, blob)| (blob, size)).collect();
        drop(manifest);
        blobs.sort_unstable();
        blobs.dedup();
        Ok(blobs)
    }
}

impl Counted {
    fn share(&self, have: &BTreeSet<ReleaseId>) -> ByteShare {
        let total: u64 = self.sizes.iter().sum();
        if have.contains(&self.release) {
            return ByteShare {
                new: 0,
                shared: total,
            };
        }
        let near: Vec<_> = have
            .iter()
            .filter_map(|release| self.had_by.get(release))
            .collect();
        let had = |at: usize| near.iter().any(|bits| bits[at / 64] & (1 << (at % 64)) != 0);
        let sizes = self.sizes.iter().enumerate();
        let shared = sizes.filter(|(at, _)| had(*at)).map(|(_, size)| size).sum();
        ByteShare {
            new: total - shared,
            shared,
        }
    }
}

/// Releases of `app` that lie on a host; none when it was not heard.
fn lying_on(host: &HostView, app: &AppName) -> Option<BTreeSet<ReleaseId>> {
    let report = host.last_report.as_ref()?;
    let staged = report.apps.iter().filter(|said| said.app == *app);
    Some(
        staged
            .flat_map(|said| &said.staged)
            .map(|target| target.id)
            .collect(),
    )
}
