//! A bucket of an S3-compatible store: each asset an object under its URL path, with its type and `immutable`.
//!
//! Objects are created and never replaced (`If-None-Match: *`): where a server knows that condition, two stores that push to one
//! bucket cannot harm each other. What is there already is compared by the digest that we wrote beside it, else by its bytes.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path as Key;
use object_store::{
    Attribute, Attributes, Error, GetOptions, ObjectStore, PutMode, PutMultipartOptions, PutOptions,
    PutPayload, RetryConfig, WriteMultipart,
};
use serde::Deserialize;
use ship_model::assets::{Asset, content_type};
use ship_model::digest::BlobDigest;
use ship_model::release::{ReleaseRecord, Target};

use super::place::{Place, PushError};
use super::settings::BucketSettings;
use crate::union::Unions;

/// Objects on their way at a time.
const AT_ONCE: usize = 8;
/// Up to here an asset is held in memory on its way, in bytes; a larger one goes in parts of this size.
const PART: usize = 8 << 20;
/// Parts of one large asset on their way at a time: with [`PART`] this bounds the memory.
const PARTS_AT_ONCE: usize = 3;
const RETRY: Duration = Duration::from_secs(30);
const IMMUTABLE: &str = "public, max-age=31536000, immutable";
/// `x-amz-meta-blake3`.
const DIGEST: Attribute = Attribute::Metadata(std::borrow::Cow::Borrowed("blake3"));
/// Longest file of a remembered release, in bytes.
const REMEMBERED: u64 = 4096;

#[derive(Debug)]
pub(super) struct Bucket {
    settings: BucketSettings,
    credentials: PathBuf,
    /// One file for each release that is all there.
    remembered: PathBuf,
    holds: Mutex<Option<Vec<Target>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Credentials {
    access_key_id: String,
    secret_access_key: String,
    session_token: Option<String>,
}

impl Bucket {
    pub fn new(settings: BucketSettings, dir: &Path, remembered: PathBuf) -> Self {
        Self {
            credentials: dir.join(&settings.credentials),
            settings,
            remembered,
            holds: Mutex::default(),
        }
    }

    /// Read anew for each release, since keys are changed.
    fn open(&self) -> Result<AmazonS3, PushError> {
        let path = &self.credentials;
        let text = fs::read_to_string(path).map_err(|source| PushError::Read {
            path: path.clone(),
            source,
        })?;
        let keys: Credentials = toml::from_str(&text).map_err(|source| PushError::Credentials {
            path: path.clone(),
            source,
        })?;
        let settings = &self.settings;
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&settings.bucket)
            .with_region(&settings.region)
            .with_access_key_id(keys.access_key_id)
            .with_secret_access_key(keys.secret_access_key)
            .with_allow_http(settings.plain_http)
            .with_retry(RetryConfig {
                retry_timeout: RETRY,
                ..RetryConfig::default()
            });
        if let Some(endpoint) = &settings.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        if let Some(token) = keys.session_token {
            builder = builder.with_token(token);
        }
        builder.build().map_err(|source| PushError::Bucket {
            bucket: settings.bucket.clone(),
            source,
        })
    }

    fn record(&self, release: &ReleaseRecord) -> PathBuf {
        let target = release.target();
        self.remembered
            .join(format!("{}-{}", release.app, target.folder()))
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

    async fn put_all(&self, store: &AmazonS3, files: Vec<(Asset, PathBuf)>) -> Result<(), PushError> {
        futures::stream::iter(files)
            .map(|(asset, path)| async move { self.put(store, &asset, &path).await })
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await
    }

    async fn put(&self, store: &AmazonS3, asset: &Asset, path: &Path) -> Result<(), PushError> {
        let failed = |source| PushError::Put {
            bucket: self.settings.bucket.clone(),
            url: asset.url_path.clone(),
            source,
        };
        let key = self.key(&asset.url_path).map_err(|error| failed(error.into()))?;
        let unread = |source| PushError::Read {
            path: path.to_owned(),
            source,
        };
        let sent = if asset.size <= PART as u64 {
            let bytes = read(path, asset).map_err(unread)?;
            let options = PutOptions {
                mode: PutMode::Create,
                attributes: attributes(asset),
                ..PutOptions::default()
            };
            store
                .put_opts(&key, PutPayload::from(bytes), options)
                .await
                .map(drop)
        } else if self.is_there(store, &key).await.map_err(failed)? {
            // No server tells of parts whether the object is new.
            return self.compare(store, &key, asset).await;
        } else {
            send_parts(store, &key, asset, path).await
        };
        match sent {
            Ok(()) => Ok(()),
            // Also what a server says to the second try of a put whose answer was lost.
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => {
                self.compare(store, &key, asset).await
            }
            Err(source) => Err(failed(source)),
        }
    }

    fn key(&self, url_path: &str) -> Result<Key, object_store::path::Error> {
        let prefix = &self.settings.prefix;
        Key::from_url_path(format!("{prefix}{url_path}"))
    }

    async fn is_there(&self, store: &AmazonS3, key: &Key) -> Result<bool, Error> {
        let head = GetOptions {
            head: true,
            ..GetOptions::default()
        };
        match store.get_opts(key, head).await {
            Ok(_) => Ok(true),
            Err(Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Refuses an object with other bytes.
    async fn compare(&self, store: &AmazonS3, key: &Key, asset: &Asset) -> Result<(), PushError> {
        let failed = |source| PushError::Put {
            bucket: self.settings.bucket.clone(),
            url: asset.url_path.clone(),
            source,
        };
        let found = store.get_opts(key, GetOptions::default()).await.map_err(failed)?;
        let told = found
            .attributes
            .get(&DIGEST)
            .map(|digest| digest.as_ref().to_owned());
        let same = if found.meta.size != asset.size {
            false
        } else if told.is_some() {
            told == Some(asset.digest.to_string())
        } else {
            let mut hasher = blake3::Hasher::new();
            let mut pieces = found.into_stream();
            while let Some(piece) = pieces.try_next().await.map_err(failed)? {
                hasher.update(&piece);
            }
            BlobDigest::from_bytes(*hasher.finalize().as_bytes()) == asset.digest
        };
        match same {
            true => Ok(()),
            false => Err(PushError::Other {
                bucket: self.settings.bucket.clone(),
                url: asset.url_path.clone(),
            }),
        }
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

    fn take(&self, unions: &Unions, release: &ReleaseRecord) -> Result<(), PushError> {
        // Its files come from the store's own union, which may have been emptied or not be caught up.
        unions.add(release)?;
        let mut files = Vec::new();
        for asset in unions.assets_of(release)? {
            if asset.fingerprinted
                && let Some(path) = unions.file(release, &asset)?
            {
                files.push((asset, path));
            }
        }
        let store = self.open()?;
        tokio::runtime::Handle::current().block_on(self.put_all(&store, files))?;
        let made = fs::create_dir_all(&self.remembered);
        made.map_err(|source| PushError::Read {
            path: self.remembered.clone(),
            source,
        })?;
        let target = release.target();
        let words = serde_json::to_vec(&target).unwrap_or_default();
        ship_durable::write_file(&self.record(release), &words)?;
        let mut holds = self.holds.lock().unwrap_or_else(PoisonError::into_inner);
        holds.get_or_insert_default().push(target);
        Ok(())
    }
}

fn attributes(asset: &Asset) -> Attributes {
    let mut attributes = Attributes::new();
    let name = asset.path.file_name();
    attributes.insert(Attribute::ContentType, content_type(name).into());
    attributes.insert(Attribute::CacheControl, IMMUTABLE.into());
    attributes.insert(DIGEST, asset.digest.to_string().into());
    attributes
}

/// The bytes of a small asset, verified.
fn read(path: &Path, asset: &Asset) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?
        .take(asset.size + 1)
        .read_to_end(&mut bytes)?;
    match BlobDigest::of(&bytes) == asset.digest {
        true => Ok(bytes),
        false => Err(rotten()),
    }
}

fn rotten() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "its bytes are not what was published")
}

/// A large asset; what was sent is dropped again when its bytes turn out not to be what was published.
async fn send_parts(store: &AmazonS3, key: &Key, asset: &Asset, path: &Path) -> Result<(), Error> {
    let options = PutMultipartOptions {
        attributes: attributes(asset),
        ..PutMultipartOptions::default()
    };
    let upload = store.put_multipart_opts(key, options).await?;
    let mut upload = WriteMultipart::new_with_chunk_size(upload, PART);
    match read_parts(&mut upload, asset, path).await {
        Ok(()) => upload.finish().await.map(drop),
        Err(error) => {
            upload.abort().await?;
            Err(error)
        }
    }
}

async fn read_parts(upload: &mut WriteMultipart, asset: &Asset, path: &Path) -> Result<(), Error> {
    let unread = |source: io::Error| Error::Generic {
        store: "S3",
        source: Box::new(source),
    };
    let mut file = fs::File::open(path).map_err(unread)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let length = file.read(&mut buffer).map_err(unread)?;
        let Some(piece) = buffer.get(..length).filter(|piece| !piece.is_empty()) else {
            break;
        };
        hasher.update(piece);
        upload.wait_for_capacity(PARTS_AT_ONCE).await?;
        upload.write(piece);
    }
    match BlobDigest::from_bytes(*hasher.finalize().as_bytes()) == asset.digest {
        true => Ok(()),
        false => Err(unread(rotten())),
    }
}
