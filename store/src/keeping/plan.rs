//! What is to be done for an app: pure rules.
//!
//! The newest release is carried whole by one bundle, its *key*. Each older one is kept as a delta against the release after it.
//! Chains are at most [`MOST_DEPTH`] deep: where one would get deeper, the release stays a key.

use std::collections::{BTreeMap, HashMap};

use ship_model::digest::ReleaseId;

/// Deltas that are decoded one after another for a release at the end of a chain. A key for every so many releases adds its
/// thirty-second part to what a release takes, about half as much again as a delta of an application.
pub const MOST_DEPTH: usize = 32;

/// A release of the app, once for each tree: under the newest number that it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tree {
    pub id: ReleaseId,
    /// Bytes of its manifest.
    pub manifest_bytes: u64,
}

/// One thing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Sees to it that one bundle carries the release whole, and keeps it so.
    Key(ReleaseId),
    /// Keeps a release as a delta.
    Keep { release: ReleaseId, base: ReleaseId },
    /// Lets go of what nothing needs any more.
    Leave,
}

/// What is to be done, in order. `trees`: newest first; `bases`: of releases that are kept, what each is made against;
/// `most`: bytes that two manifests may have together.
pub fn plan(trees: &[Tree], bases: &BTreeMap<ReleaseId, ReleaseId>, most: u64) -> Vec<Step> {
    let [newest, older @ ..] = trees else {
        return Vec::new();
    };
    let mut bases = bases.clone();
    // The newest is carried whole again before anything is made against it.
    let was_kept = bases.remove(&newest.id).is_some();
    let mut heights = heights(&bases);
    let mut steps = Vec::new();
    let mut after = newest;
    for tree in older {
        let base = after;
        after = tree;
        if bases.contains_key(&tree.id) || tree.manifest_bytes + base.manifest_bytes > most {
            continue;
        }
        let base = match leads_to(&bases, base.id, tree.id) {
            // It is made against this one, directly or not.
            true => newest.id,
            false => base.id,
        };
        let height = heights.get(&tree.id).copied().unwrap_or(0);
        let depth = depth(base, |at| bases.get(&at).copied());
        if depth + 1 + height > MOST_DEPTH {
            steps.push(Step::Key(tree.id));
            continue;
        }
        bases.insert(tree.id, base);
        raise(&bases, &mut heights, tree.id);
        steps.push(Step::Keep {
            release: tree.id,
            base,
        });
    }
    if was_kept || bases.values().any(|base| *base == newest.id) {
        steps.insert(0, Step::Key(newest.id));
    }
    if !steps.is_empty() {
        steps.push(Step::Leave);
    }
    steps
}

/// How many deltas lie between a release and its key. Links in a circle are as deep as anything can be.
pub fn depth(release: ReleaseId, base: impl Fn(ReleaseId) -> Option<ReleaseId>) -> usize {
    let mut depth = 0;
    let mut at = release;
    while let Some(next) = base(at) {
        depth += 1;
        at = next;
        if depth > 2 * MOST_DEPTH {
            return usize::MAX / 2;
        }
    }
    depth
}

fn leads_to(bases: &BTreeMap<ReleaseId, ReleaseId>, from: ReleaseId, to: ReleaseId) -> bool {
    let mut at = from;
    for _ in 0..=2 * MOST_DEPTH {
        if at == to {
            return true;
        }
        match bases.get(&at) {
            Some(base) => at = *base,
            None => return false,
        }
    }
    true
}

/// For each release that others are made against, how deep the deepest chain below it is.
fn heights(bases: &BTreeMap<ReleaseId, ReleaseId>) -> HashMap<ReleaseId, usize> {
    let mut heights = HashMap::new();
    for release in bases.keys() {
        raise(bases, &mut heights, *release);
    }
    heights
}

fn raise(
    bases: &BTreeMap<ReleaseId, ReleaseId>,
    heights: &mut HashMap<ReleaseId, usize>,
    release: ReleaseId,
) {
    let mut height = heights.get(&release).copied().unwrap_or(0);
    let mut at = release;
    while let Some(base) = bases.get(&at).filter(|_| height <= 2 * MOST_DEPTH) {
        height += 1;
        let held = heights.entry(*base).or_default();
        *held = (*held).max(height);
        at = *base;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: u64 = 100;

    fn id(number: u8) -> ReleaseId {
        ReleaseId::from_bytes([number; 32])
    }

    /// Trees of these numbers, newest first.
    fn trees(numbers: impl IntoIterator<Item = u8>) -> Vec<Tree> {
        let tree = |number| Tree {
            id: id(number),
            manifest_bytes: 10,
        };
        numbers.into_iter().map(tree).collect()
    }

    fn keep(release: u8, base: u8) -> Step {
        Step::Keep {
            release: id(release),
            base: id(base),
        }
    }

    /// As if all was done.
    fn done(steps: &[Step], bases: &mut BTreeMap<ReleaseId, ReleaseId>) {
        for step in steps {
            match step {
                Step::Key(release) => drop(bases.remove(release)),
                Step::Keep { release, base } => drop(bases.insert(*release, *base)),
                Step::Leave => {}
            }
        }
    }

    #[test]
    fn each_release_is_kept_against_the_one_after_it() {
        let mut bases = BTreeMap::new();
        assert_eq!(plan(&trees([1]), &bases, MOST), []);
        let steps = plan(&trees([3, 2, 1]), &bases, MOST);
        assert_eq!(steps, [Step::Key(id(3)), keep(2, 3), keep(1, 2), Step::Leave]);
        done(&steps, &mut bases);
        let steps = plan(&trees([4, 3, 2, 1]), &bases, MOST);
        assert_eq!(steps, [Step::Key(id(4)), keep(3, 4), Step::Leave]);
    }

    #[test]
    fn no_chain_gets_deeper_than_allowed_however_releases_come() {
        for at_once in [1, 2, 7, 100] {
            let mut bases = BTreeMap::new();
            for newest in (1..=100_u8).filter(|number| number % at_once == 0) {
                let trees = trees((1..=newest).rev());
                done(&plan(&trees, &bases, MOST), &mut bases);
                let depths = trees
                    .iter()
                    .map(|tree| depth(tree.id, |at| bases.get(&at).copied()));
                let deepest = depths.max().unwrap_or(0);
                assert!(deepest <= MOST_DEPTH, "{at_once} at once, {newest}: {deepest}");
                let keys = trees.iter().filter(|tree| !bases.contains_key(&tree.id)).count();
                assert!(
                    keys <= 2 + usize::from(newest) / MOST_DEPTH,
                    "{at_once} at once, {newest}: {keys} keys"
                );
            }
        }
    }

    #[test]
    fn a_tree_that_is_published_again_becomes_the_key_and_no_circle_closes() {
        let mut bases = BTreeMap::from([(id(1), id(2)), (id(2), id(3))]);
        let steps = plan(&trees([1, 3, 2]), &bases, MOST);
        assert_eq!(steps, [Step::Key(id(1)), keep(3, 1), Step::Leave]);
        done(&steps, &mut bases);
        assert_eq!(depth(id(2), |at| bases.get(&at).copied()), 2);
        // Twice before anything was done: 2 is still made against 3.
        let bases = BTreeMap::from([(id(2), id(3))]);
        let steps = plan(&trees([4, 2, 3]), &bases, MOST);
        assert_eq!(steps, [Step::Key(id(4)), keep(3, 4), Step::Leave]);
    }

    #[test]
    fn releases_of_very_many_names_are_left_as_they_are() {
        let mut all = trees([3, 2, 1]);
        for tree in &mut all {
            tree.manifest_bytes = MOST;
        }
        assert_eq!(plan(&all, &BTreeMap::new(), MOST), []);
    }
}
