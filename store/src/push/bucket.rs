//! A bucket of an S3-compatible store: each asset an object under its URL path, with its type and `immutable`.
//!
//! Objects are created and never replaced (`If-None-Match: *`): where a server knows that condition, two stores that push to one
//! bucket cannot harm each other. What is there already is compared by the digest that we wrote beside it, else by its bytes; so
//! whatever broke a push off, the next one sends only what lacks.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use futures::{StreamExt, TryStreamExt};
use object_store::aws::AmazonS3;
use object_store::path::Path as Key;
use object_store::{
    Error, GetOptions, GetResult, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload,
};
use ship_durable::fault;
use ship_model::assets::Asset;
use ship_model::digest::BlobDigest;
use ship_model::release::Target;
use ship_model::retention::{ExpiredList, UrlHash};
use tokio_util::sync::CancellationToken;

use super::door::{Door, Refusal};
use super::giving::{GivenUp, Giving};
use super::place::{Cargo, Place, PushError};
use super::remembered::Remembered;
use super::send::{self, DIGEST};
use crate::union::Unions;

/// Requests on their way at a time; each holds at most [`send::PART`] bytes.
const AT_ONCE: usize = 8;
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
    fn run<T>(&self, work: impl Future<Output = Result<T, PushError>>) -> Result<T, PushError> {
        tokio::runtime::Handle::current().block_on(async {
            tokio::select! {
                done = work => done,
                () = self.stop.cancelled() => Err(PushError::Ending),
            }
        })
    }

    /// Small ones side by side, then large ones one after another, so that memory is bounded.
    async fn put_all(&self, store: &AmazonS3, unions: &Unions, cargo: &Cargo<'_>) -> Result<(), PushError> {
        let small = cargo
            .assets
            .iter()
            .filter(|asset| asset.size <= send::PART as u64);
        futures::stream::iter(small)
            .map(|asset| self.put(store, unions, cargo, asset))
            .buffer_unordered(AT_ONCE)
            .try_collect::<()>()
            .await?;
        for asset in cargo.assets.iter().filter(|asset| asset.size > send::PART as u64) {
            self.put(store, unions, cargo, asset).await?;
        }
        Ok(())
    }

    async fn put(
        &self,
        store: &AmazonS3,
        unions: &Unions,
        cargo: &Cargo<'_>,
        asset: &Asset,
    ) -> Result<(), PushError> {
        // Nobody asks for a path that has no place in a folder.
        let Some(path) = unions.union(cargo.app)?.file(asset) else {
            return Ok(());
        };
        let key = self.door.key(&asset.url_path)?;
        if let Some(found) = self
            .head(store, &key)
            .await
            .map_err(|error| self.door.refusal(error))?
        {
            self.compare(store, &key, asset, found).await?;
            cargo.tally.there(1);
            return Ok(());
        }
        match self.send(store, &key, asset, &path).await? {
            Ok(()) => cargo.tally.sent(1, asset.size),
            // Also what a server says to the second try of a put whose answer was lost.
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => {
                let found = store.get_opts(&key, head()).await;
                let found = found.map_err(|error| self.door.refusal(error))?;
                self.compare(store, &key, asset, found).await?;
                cargo.tally.there(1);
            }
            Err(error) => return Err(self.door.refusal(error).into()),
        }
        Ok(())
    }

    async fn send(
        &self,
        store: &AmazonS3,
        key: &Key,
        asset: &Asset,
        path: &Path,
    ) -> Result<Result<(), Error>, PushError> {
        if asset.size > send::PART as u64 {
            return send::in_parts(store, key, asset, path).await;
        }
        let options = PutOptions {
            mode: PutMode::Create,
            attributes: send::attributes(asset),
            ..PutOptions::default()
        };
        let bytes = PutPayload::from(send::read(path, asset)?);
        Ok(store.put_opts(key, bytes, options).await.map(drop))
    }

    async fn head(&self, store: &AmazonS3, key: &Key) -> Result<Option<GetResult>, Error> {
        match store.get_opts(key, head()).await {
            Ok(found) => Ok(Some(found)),
            // Also when there is no bucket: then the put says so.
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Refuses an object with other bytes.
    async fn compare(
        &self,
        store: &AmazonS3,
        key: &Key,
        asset: &Asset,
        found: GetResult,
    ) -> Result<(), PushError> {
        let told = found
            .attributes
            .get(&DIGEST)
            .map(|digest| digest.as_ref().to_owned());
        let same = found.meta.size == asset.size
            && match told {
                Some(told) => told == asset.digest.to_string(),
                None => self.digest(store, key).await? == asset.digest,
            };
        match same {
            true => Ok(()),
            false => Err(PushError::Other {
                place: self.door.to_string(),
                url: asset.url_path.clone(),
            }),
        }
    }

    async fn digest(&self, store: &AmazonS3, key: &Key) -> Result<BlobDigest, Refusal> {
        let failed = |error| self.door.refusal(error);
        let found = store.get_opts(key, GetOptions::default()).await.map_err(failed)?;
        let mut hasher = blake3::Hasher::new();
        let mut pieces = found.into_stream();
        while let Some(piece) = pieces.try_next().await.map_err(failed)? {
            hasher.update(&piece);
        }
        Ok(BlobDigest::from_bytes(*hasher.finalize().as_bytes()))
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

    async fn take_away(&self, store: &AmazonS3, expired: &[Expired]) -> Result<GivenUp, PushError> {
        let taken = futures::stream::iter(expired)
            .map(|asset| self.take_one_away(store, asset))
            .buffer_unordered(AT_ONCE);
        taken
            .try_fold(GivenUp::default(), |mut all, taken| async move {
                all.assets += taken.assets;
                all.bytes += taken.bytes;
                Ok(all)
            })
            .await
    }

    /// Only what bears our mark: what somebody else put there is theirs.
    async fn take_one_away(&self, store: &AmazonS3, asset: &Expired) -> Result<GivenUp, PushError> {
        let key = self.door.key(&asset.url)?;
        let refused = |error| PushError::from(self.door.refusal(error));
        let Some(found) = self.head(store, &key).await.map_err(refused)? else {
            return Ok(GivenUp::default());
        };
        let told = found.attributes.get(&DIGEST).map(|digest| digest.as_ref());
        if told != Some(&asset.digest.to_string()) {
            return Ok(GivenUp::default());
        }
        match store.delete(&key).await {
            Ok(()) => Ok(GivenUp {
                assets: 1,
                bytes: asset.bytes,
            }),
            Err(Error::NotFound { .. }) => Ok(GivenUp::default()),
            Err(error) => Err(refused(error)),
        }
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
        let store = self.door.open()?;
        self.run(self.put_all(&store, unions, cargo))?;
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
            let store = self.door.open()?;
            let taken = self.run(self.take_away(&store, &next))?;
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

fn head() -> GetOptions {
    GetOptions {
        head: true,
        ..GetOptions::default()
    }
}
