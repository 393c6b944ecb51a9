//! A bucket: what is there is known by what this store remembers, and looked for in it otherwise.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;

use ship_bucket::{Door, Put, Taken};
use ship_durable::fault;
use ship_model::assets::Asset;
use ship_model::digest::BlobDigest;
use ship_model::release::Target;
use ship_model::retention::{ExpiredList, UrlHash};
use tokio_util::sync::CancellationToken;

use super::giving::{GivenUp, Giving};
use super::place::{Cargo, Place, PushError};
use super::remembered::Remembered;
use crate::union::Unions;

/// Paths that are taken away before it is noted that they are, so that one that was broken off goes on there.
const IN_A_ROW: usize = 10_000;

#[derive(Debug)]
pub(super) struct Bucket {
    door: Door,
    remembered: Remembered,
    stop: CancellationToken,
}

impl Bucket {
    /// `remembered` is a folder of this bucket alone.
    pub fn new(door: Door, remembered: PathBuf, stop: CancellationToken) -> Self {
        Self {
            door,
            remembered: Remembered::new(remembered),
            stop,
        }
    }

    /// Runs until the store ends.
    fn run<T, E>(&self, work: impl Future<Output = Result<T, E>>) -> Result<T, PushError>
    where
        PushError: From<E>,
    {
        tokio::runtime::Handle::current().block_on(async {
            tokio::select! {
                done = work => Ok(done?),
                () = self.stop.cancelled() => Err(PushError::Ending),
            }
        })
    }

    fn put_all(&self, unions: &Unions, cargo: &Cargo<'_>) -> Result<(), PushError> {
        let union = unions.union(cargo.app)?;
        // Nobody asks for a path that has no place in a folder.
        let files = cargo
            .assets
            .iter()
            .filter_map(|asset| Some((asset, union.file(asset)?)));
        let told = |asset: &Asset, put: Put| match put {
            Put::Sent => cargo.tally.sent(1, asset.size),
            Put::There => cargo.tally.there(1),
        };
        let bucket = self.door.open()?;
        self.run(bucket.put_all(files, &told))
    }

    fn take_away(&self, expired: &[Expired]) -> Result<Taken, PushError> {
        let bucket = self.door.open()?;
        let expired = expired
            .iter()
            .map(|asset| (&*asset.url, asset.digest, asset.bytes));
        self.run(bucket.take_away(expired))
    }
}

/// An expired asset that may lie there.
struct Expired {
    url: String,
    digest: BlobDigest,
    bytes: u64,
}

/// What is expired of one release.
type ByRelease = HashMap<Target, Vec<UrlHash>>;

impl Bucket {
    /// What of `giving` the releases name, and the first paths of it that are not `acted` on yet.
    fn expired(
        unions: &Unions,
        giving: &Giving<'_>,
        acted: &ExpiredList,
    ) -> Result<(ByRelease, Vec<Expired>), PushError> {
        let (mut by_release, mut next) = (ByRelease::new(), HashMap::new());
        let mut take = |release: Target, url: &str, digest, bytes| {
            if !giving.is_gone(url) {
                return;
            }
            let hash = UrlHash::of(url);
            by_release.entry(release).or_default().push(hash);
            if next.len() < IN_A_ROW && !acted.has(hash) {
                let url = url.to_owned();
                next.insert(hash, Expired { url, digest, bytes });
            }
        };
        let union = unions.union(giving.app)?;
        union.walk_records(&mut take)?;
        union.walk_forgotten(&mut take)?;
        Ok((by_release, next.into_values().collect()))
    }

    /// Refuses where the store cannot tell what a release names that counts as whole.
    fn check_known(&self, unions: &Unions, giving: &Giving<'_>) -> Result<(), PushError> {
        let union = unions.union(giving.app)?;
        let known = [union.holds(), union.faded()].concat();
        let held = self.remembered.held();
        let mut ours = held.whole.iter().filter(|release| giving.owns(release));
        match ours.find(|release| !known.contains(release)) {
            None => Ok(()),
            Some(release) => Err(PushError::Incomplete {
                release: release.number,
            }),
        }
    }

    /// Before anything is taken away nothing counts as whole that loses by it; and what lacks what is wanted again counts as
    /// nothing.
    fn fade(&self, giving: &Giving<'_>, by_release: &ByRelease) -> Result<(), PushError> {
        let held = self.remembered.held();
        for release in held.faded.iter().filter(|release| giving.owns(release)) {
            let forgotten = self.remembered.forgotten(giving.app, *release);
            if !forgotten.is_some_and(|hashes| hashes.into_iter().all(|hash| giving.list.has(hash))) {
                self.remembered.drop(giving.app, *release)?;
            }
        }
        for release in held.whole.iter().chain(&self.remembered.held().faded) {
            let Some(gone) = by_release.get(release) else {
                continue;
            };
            let known = self
                .remembered
                .forgotten(giving.app, *release)
                .unwrap_or_default();
            let all: BTreeSet<UrlHash> = known.iter().chain(gone).copied().collect();
            if all.len() > known.len() {
                let all: Vec<UrlHash> = all.into_iter().collect();
                self.remembered.note(giving.app, *release, &all)?;
            }
        }
        Ok(())
    }
}

impl Place for Bucket {
    fn holds(&self) -> Vec<Target> {
        self.remembered.held().whole
    }

    fn faded(&self) -> Vec<Target> {
        self.remembered.held().faded
    }

    fn take(&self, unions: &Unions, cargo: &Cargo<'_>) -> Result<(), PushError> {
        // Its files come from the store's own union, which may have been emptied or not be caught up.
        unions.bring(cargo.app, cargo.assets)?;
        self.put_all(unions, cargo)?;
        let gone = cargo.gone.iter().map(|asset| UrlHash::of(&asset.url_path));
        let gone: Vec<UrlHash> = gone.collect();
        self.remembered.note(cargo.app, cargo.release, &gone)
    }

    fn give_up(&self, unions: &Unions, giving: &Giving<'_>) -> Result<GivenUp, PushError> {
        self.check_known(unions, giving)?;
        // A path that was brought back is not known to be gone any more, whatever comes of the rest.
        let known = self.remembered.acted(giving.app);
        let mut acted: ExpiredList = known.hashes().filter(|hash| giving.list.has(*hash)).collect();
        let mut all = GivenUp::default();
        loop {
            let (by_release, next) = Self::expired(unions, giving, &acted)?;
            self.fade(giving, &by_release)?;
            if acted != known || !next.is_empty() {
                self.remembered.act(giving.app, &acted)?;
            }
            if next.is_empty() {
                return Ok(all);
            }
            let taken = self.take_away(&next)?;
            fault::point("store.push.taken").map_err(|source| PushError::Read {
                path: PathBuf::from(self.door.to_string()),
                source,
            })?;
            all.assets += taken.assets;
            all.bytes += taken.bytes;
            let done = next.iter().map(|asset| UrlHash::of(&asset.url));
            acted = acted.hashes().chain(done).collect();
        }
    }
}
