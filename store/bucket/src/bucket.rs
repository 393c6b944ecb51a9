//! What is done in a bucket: looking, putting, taking away; never replacing.

use std::io;
use std::path::{Path, PathBuf};

use futures::{StreamExt, TryStreamExt};
use object_store::aws::AmazonS3;
use object_store::path::Path as Key;
use object_store::{
    Error, GetOptions, GetResult, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload,
};
use ship_model::assets::Asset;
use ship_model::digest::BlobDigest;

use crate::door::{Door, Refusal};
use crate::send::{self, DIGEST};

/// Requests on their way at a time; each holds at most [`send::PART`] bytes.
const AT_ONCE: usize = 8;

/// Why an asset is not in a bucket as it should be.
#[derive(Debug, thiserror::Error)]
pub enum BucketError {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "{} is no TOML file with access_key_id, secret_access_key and, where needed, session_token",
        path.display()
    )]
    Credentials { path: PathBuf },
    #[error("everybody may read the keys in {}: chmod o= it", path.display())]
    OpenKeys { path: PathBuf },
    #[error("no keys: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not set")]
    NoKeys,
    #[error("{} has no certificate: it must be a PEM file, -----BEGIN CERTIFICATE-----", path.display())]
    Ca { path: PathBuf },
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("{url} cannot be the name of an object in {place}")]
    Key { place: String, url: String },
    #[error(
        "{url} has other bytes in {place}: somebody else wrote it there, and it is never replaced; remove it there, or push to another prefix"
    )]
    Other { place: String, url: String },
}

/// What came of one asset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    Sent,
    /// The same bytes were there.
    There,
}

/// What was taken away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Taken {
    pub assets: u64,
    pub bytes: u64,
}

/// A bucket to which the door is open.
#[derive(Debug)]
pub struct Bucket<'a> {
    store: AmazonS3,
    door: &'a Door,
}

impl<'a> Bucket<'a> {
    pub(crate) fn new(store: AmazonS3, door: &'a Door) -> Self {
        Self { store, door }
    }

    /// Puts each asset with the file that has its bytes there, unless it is there, and tells what came of it. Small ones side by
    /// side, then large ones one after another, so that memory is bounded. What came before an error stays.
    ///
    /// # Errors
    /// [`BucketError`], of the first that failed; for a file that does not have the asset's bytes, too.
    pub async fn put_all<'f, F>(
        &self,
        files: F,
        told: &(dyn Fn(&Asset, Put) + Sync),
    ) -> Result<(), BucketError>
    where
        F: Iterator<Item = (&'f Asset, PathBuf)> + Clone,
    {
        let is_small = |asset: &Asset| asset.size <= send::PART as u64;
        let small = files.clone().filter(|(asset, _)| is_small(asset));
        futures::stream::iter(small)
            .map(|(asset, path)| self.put_one(asset, path, told))
            .buffer_unordered(AT_ONCE)
            .try_collect::<()>()
            .await?;
        for (asset, path) in files.filter(|(asset, _)| !is_small(asset)) {
            self.put_one(asset, path, told).await?;
        }
        Ok(())
    }

    async fn put_one(
        &self,
        asset: &Asset,
        path: PathBuf,
        told: &(dyn Fn(&Asset, Put) + Sync),
    ) -> Result<(), BucketError> {
        let put = self.put(asset, &path).await?;
        told(asset, put);
        Ok(())
    }

    /// Which of `assets` are not there.
    ///
    /// # Errors
    /// [`BucketError`]; [`BucketError::Other`] when other bytes are there.
    pub async fn lacking(&self, assets: &[Asset]) -> Result<Vec<Asset>, BucketError> {
        let looked = futures::stream::iter(assets).map(|asset| async move {
            let there = self.has(asset).await?;
            Ok((!there).then(|| asset.clone()))
        });
        let found = looked.buffered(AT_ONCE);
        found
            .try_filter_map(|lacks| std::future::ready(Ok(lacks)))
            .try_collect()
            .await
    }

    async fn has(&self, asset: &Asset) -> Result<bool, BucketError> {
        let key = self.door.key(&asset.url_path)?;
        match self.head(&key).await? {
            None => Ok(false),
            Some(found) => self.compare(&key, asset, found).await.map(|()| true),
        }
    }

    async fn put(&self, asset: &Asset, path: &Path) -> Result<Put, BucketError> {
        if self.has(asset).await? {
            return Ok(Put::There);
        }
        let key = self.door.key(&asset.url_path)?;
        match self.send(&key, asset, path).await? {
            Ok(()) => Ok(Put::Sent),
            // Also what a server says to the second try of a put whose answer was lost.
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => {
                let found = self.store.get_opts(&key, head()).await;
                let found = found.map_err(|error| self.door.refusal(error))?;
                self.compare(&key, asset, found).await.map(|()| Put::There)
            }
            Err(error) => Err(self.door.refusal(error).into()),
        }
    }

    async fn send(&self, key: &Key, asset: &Asset, path: &Path) -> Result<Result<(), Error>, BucketError> {
        if asset.size > send::PART as u64 {
            return send::in_parts(&self.store, key, asset, path).await;
        }
        let options = PutOptions {
            mode: PutMode::Create,
            attributes: send::attributes(asset),
            ..PutOptions::default()
        };
        let bytes = PutPayload::from(send::read(path, asset)?);
        Ok(self.store.put_opts(key, bytes, options).await.map(drop))
    }

    async fn head(&self, key: &Key) -> Result<Option<GetResult>, Refusal> {
        match self.store.get_opts(key, head()).await {
            Ok(found) => Ok(Some(found)),
            // Also when there is no bucket: then the put says so.
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.door.refusal(error)),
        }
    }

    /// Refuses an object with other bytes.
    async fn compare(&self, key: &Key, asset: &Asset, found: GetResult) -> Result<(), BucketError> {
        let same = found.meta.size == asset.size
            && match found.attributes.get(&DIGEST) {
                Some(told) => told.as_ref() == asset.digest.to_string(),
                None => self.digest(key).await? == asset.digest,
            };
        match same {
            true => Ok(()),
            false => Err(BucketError::Other {
                place: self.door.to_string(),
                url: asset.url_path.clone(),
            }),
        }
    }

    async fn digest(&self, key: &Key) -> Result<BlobDigest, Refusal> {
        let failed = |error| self.door.refusal(error);
        let found = self.store.get_opts(key, GetOptions::default()).await;
        let mut pieces = found.map_err(failed)?.into_stream();
        let mut hasher = blake3::Hasher::new();
        while let Some(piece) = pieces.try_next().await.map_err(failed)? {
            hasher.update(&piece);
        }
        Ok(hasher.finalize().into())
    }

    /// Takes assets away, each told by URL path, digest and bytes, and counts those that were there. Only what bears our mark:
    /// what somebody else put there is theirs.
    ///
    /// # Errors
    /// [`BucketError`]; what was taken until then is gone. Safe to repeat.
    pub async fn take_away<'u>(
        &self,
        assets: impl Iterator<Item = (&'u str, BlobDigest, u64)>,
    ) -> Result<Taken, BucketError> {
        let taken = futures::stream::iter(assets).map(|(url, digest, bytes)| async move {
            let taken = u64::from(self.take_one_away(url, digest).await?);
            Ok((taken, taken * bytes))
        });
        taken
            .buffer_unordered(AT_ONCE)
            .try_fold(Taken::default(), |all, (assets, bytes)| {
                std::future::ready(Ok(Taken {
                    assets: all.assets + assets,
                    bytes: all.bytes + bytes,
                }))
            })
            .await
    }

    async fn take_one_away(&self, url: &str, digest: BlobDigest) -> Result<bool, BucketError> {
        let key = self.door.key(url)?;
        let Some(found) = self.head(&key).await? else {
            return Ok(false);
        };
        let told = found.attributes.get(&DIGEST).map(|digest| digest.as_ref());
        if told != Some(&digest.to_string()) {
            return Ok(false);
        }
        match self.store.delete(&key).await {
            Ok(()) => Ok(true),
            Err(Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(self.door.refusal(error).into()),
        }
    }
}

fn head() -> GetOptions {
    GetOptions {
        head: true,
        ..GetOptions::default()
    }
}
