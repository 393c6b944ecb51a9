//! A bucket of an S3-compatible store: each asset an object under its URL path, with its type and `immutable`.
//!
//! Objects are created and never replaced (`If-None-Match: *`): where a server knows that condition, two stores that push to one
//! bucket cannot harm each other. What is there already is compared by the digest that we wrote beside it, else by its bytes; so
//! whatever broke a push off, the next one sends only what lacks.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use futures::{StreamExt, TryStreamExt};
use object_store::aws::AmazonS3;
use object_store::path::Path as Key;
use object_store::{Error, GetOptions, GetResult, ObjectStore, PutMode, PutOptions, PutPayload};
use ship_model::assets::Asset;
use ship_model::digest::BlobDigest;
use ship_model::name::AppName;
use ship_model::release::Target;
use tokio_util::sync::CancellationToken;

use super::door::{Door, Refusal};
use super::place::{Cargo, Place, PushError};
use super::send::{self, DIGEST};
use crate::union::Unions;

/// Requests on their way at a time; each holds at most [`send::PART`] bytes.
const AT_ONCE: usize = 8;
/// Longest file of a remembered release, in bytes.
const REMEMBERED: u64 = 4096;

#[derive(Debug)]
pub(super) struct Bucket {
    door: Door,
    /// One file for each release that is all there.
    remembered: PathBuf,
    holds: Mutex<Option<Vec<Target>>>,
    stop: CancellationToken,
}

impl Bucket {
    pub fn new(door: Door, remembered: PathBuf, stop: CancellationToken) -> Self {
        Self {
            door,
            remembered,
            holds: Mutex::default(),
            stop,
        }
    }

    fn read_holds(&self) -> io::Result<Vec<Target>> {
        let mut found = Vec::new();
        let entries = match fs::read_dir(&self.remembered) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
            entries => entries?,
        };
        for entry in entries {
            let mut bytes = Vec::new();
            fs::File::open(entry?.path())?
                .take(REMEMBERED)
                .read_to_end(&mut bytes)?;
            // One that cannot be read is pushed again: nothing is lost by that.
            found.extend(serde_json::from_slice::<Target>(&bytes).ok());
        }
        Ok(found)
    }

    fn remember(&self, app: &AppName, target: Target) -> Result<(), PushError> {
        let made = fs::create_dir_all(&self.remembered);
        made.map_err(|source| PushError::Read {
            path: self.remembered.clone(),
            source,
        })?;
        let words = serde_json::to_vec(&target).unwrap_or_default();
        let file = self.remembered.join(format!("{app}-{}", target.folder()));
        ship_durable::write_file(&file, &words)?;
        let mut holds = self.holds.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(holds) = &mut *holds {
            holds.push(target);
        }
        Ok(())
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

impl Place for Bucket {
    fn holds(&self) -> Vec<Target> {
        let mut holds = self.holds.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(holds) = &*holds {
            return holds.clone();
        }
        match self.read_holds() {
            Ok(found) => holds.insert(found).clone(),
            Err(error) => {
                tracing::warn!(%error, folder = %self.remembered.display(), "cannot tell what was pushed");
                Vec::new()
            }
        }
    }

    fn take(&self, unions: &Unions, cargo: &Cargo<'_>) -> Result<(), PushError> {
        // Its files come from the store's own union, which may have been emptied or not be caught up.
        unions.bring(cargo.app, cargo.assets)?;
        let store = self.door.open()?;
        tokio::runtime::Handle::current().block_on(async {
            tokio::select! {
                put = self.put_all(&store, unions, cargo) => put,
                () = self.stop.cancelled() => Err(PushError::Ending),
            }
        })?;
        self.remember(cargo.app, cargo.release)
    }
}

fn head() -> GetOptions {
    GetOptions {
        head: true,
        ..GetOptions::default()
    }
}
