//! Where what is missing comes from: a delta from a release that lies here, or bundles; whichever moves fewer bytes.

use ship_bundle::stage::{self, DeltaTask, StagedRelease};
use ship_model::digest::{BlobDigest, BundleDigest};
use ship_model::manifest::Manifest;
use ship_model::release::Target;

use super::{Supply, Work};
use crate::fetch::{FetchError, Indexed, OpenDelta};

/// No tree of whole files is compressed better than this: below, a delta is the cheaper way without a look at bundles.
const BEST_RATIO: u64 = 10;

/// A delta from one of the donors, with the release's manifest. None is needed: what keeps one away is told, no more.
pub(super) fn delta_from(
    target: &Target,
    supply: &Supply,
    donors: &[StagedRelease],
) -> Option<(OpenDelta, Manifest)> {
    if donors.iter().any(|donor| donor.id() == target.id) {
        // It lies here: nothing, or little, is to be fetched.
        return None;
    }
    let bases: Vec<_> = donors.iter().map(StagedRelease::id).collect();
    if bases.is_empty() {
        return None;
    }
    let offers = supply
        .runtime
        .block_on(supply.fetcher.deltas(target.id, &bases, &[]));
    let offers = offers.map_err(|error| crate::session::chain(&error));
    let opened = offers.and_then(|offers| {
        let Some(offer) = offers.first() else {
            return Ok(None);
        };
        let base = donors.iter().find(|donor| donor.id() == offer.base);
        let Some(base) = base else { return Ok(None) };
        let opened = OpenDelta::open(&supply.bundles, *offer, target.id, base.manifest());
        opened.map(Some).map_err(|error| crate::session::chain(&error))
    });
    opened.unwrap_or_else(|error| {
        tracing::warn!(release = %target.number, error, "no delta; bundles are read");
        None
    })
}

impl<'a> Work<'a> {
    /// Where what is missing is fetched from, the cheaper way: the delta, and bundles for what it does not give, or
    /// bundles alone.
    pub(super) fn plan(
        &self,
        mut missing: Vec<BlobDigest>,
        delta: Option<&'a OpenDelta>,
        wrong: &[BundleDigest],
    ) -> Result<(Option<DeltaTask<'a>>, Indexed), FetchError> {
        missing.sort_unstable();
        let source = &self.supply.bundles;
        let delta = delta.filter(|_| !missing.is_empty());
        let Some(task) = delta.and_then(|delta| self.task(delta)) else {
            return Ok((None, source.holding(&missing, wrong)?));
        };
        let cost = task.cost(&missing);
        if cost.saturating_mul(BEST_RATIO) > self.raw_bytes(&missing) {
            let bundles = source.holding(&missing, wrong);
            let planned = bundles.map(|bundles| {
                let cost = stage::fetch_cost(&missing, &bundles);
                (bundles, cost.unwrap_or(u64::MAX))
            });
            // A store that cannot tell may still have the delta.
            if let Ok((bundles, in_bundles)) = planned
                && in_bundles <= cost
            {
                return Ok((None, bundles));
            }
        }
        task.spare(&mut missing);
        let bundles = source.holding(&missing, wrong)?;
        Ok((Some(task), bundles))
    }

    fn task(&self, delta: &'a OpenDelta) -> Option<DeltaTask<'a>> {
        let base = self.donors.iter().find(|donor| donor.id() == delta.offer.base)?;
        Some(DeltaTask {
            index: &delta.index,
            base,
            source: delta.source(),
        })
    }

    /// Bytes of these blobs, which are sorted, once each.
    fn raw_bytes(&self, blobs: &[BlobDigest]) -> u64 {
        let mut sizes = vec![0; blobs.len()];
        for (_, _, size, digest) in self.manifest.files() {
            let at = blobs.binary_search(&digest);
            if let Some(known) = at.ok().and_then(|at| sizes.get_mut(at)) {
                *known = size;
            }
        }
        sizes.iter().sum()
    }
}
