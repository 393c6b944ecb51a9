//! How the bytes of one asset get into a bucket.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use object_store::aws::AmazonS3;
use object_store::path::Path as Key;
use object_store::{Attribute, Attributes, Error, ObjectStore, PutMultipartOptions, WriteMultipart};
use ship_model::assets::{Asset, content_type};
use ship_model::digest::BlobDigest;

use crate::bucket::BucketError;

/// Up to here an asset is held in memory on its way, in bytes; a larger one goes in parts of this size, which is the least that
/// S3 takes. Of at most 10,000 parts: an asset may have 48 GiB.
pub(super) const PART: usize = 5 << 20;
/// Parts of one large asset on their way at a time: with [`PART`] this bounds the memory.
const PARTS_AT_ONCE: usize = 3;
const IMMUTABLE: &str = "public, max-age=31536000, immutable";
/// `x-amz-meta-blake3`.
pub(super) const DIGEST: Attribute = Attribute::Metadata(std::borrow::Cow::Borrowed("blake3"));

/// What is told of an object. No coding: its bytes are those that were published.
pub(super) fn attributes(asset: &Asset) -> Attributes {
    let mut attributes = Attributes::new();
    let name = asset.path.file_name();
    attributes.insert(Attribute::ContentType, content_type(name).into());
    attributes.insert(Attribute::CacheControl, IMMUTABLE.into());
    attributes.insert(DIGEST, asset.digest.to_string().into());
    attributes
}

/// The bytes of a small asset, verified.
pub(super) fn read(path: &Path, asset: &Asset) -> Result<Vec<u8>, BucketError> {
    let read = || {
        let mut bytes = Vec::new();
        fs::File::open(path)?
            .take(asset.size + 1)
            .read_to_end(&mut bytes)?;
        match BlobDigest::of(&bytes) == asset.digest {
            true => Ok(bytes),
            false => Err(rotten()),
        }
    };
    read().map_err(|source| unread(path, source))
}

fn rotten() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "its bytes are not what was published")
}

fn unread(path: &Path, source: io::Error) -> BucketError {
    BucketError::Read {
        path: path.to_owned(),
        source,
    }
}

/// A large asset; what was sent is dropped again when its bytes turn out not to be what was published. No object is there before
/// its last part is.
pub(super) async fn in_parts(
    store: &AmazonS3,
    key: &Key,
    asset: &Asset,
    path: &Path,
) -> Result<Result<(), Error>, BucketError> {
    let mut file = fs::File::open(path).map_err(|source| unread(path, source))?;
    let options = PutMultipartOptions {
        attributes: attributes(asset),
        ..PutMultipartOptions::default()
    };
    let upload = match store.put_multipart_opts(key, options).await {
        Ok(upload) => upload,
        Err(error) => return Ok(Err(error)),
    };
    let mut upload = WriteMultipart::new_with_chunk_size(upload, PART);
    let read = write_parts(&mut upload, asset, &mut file).await;
    if matches!(read, Ok(Ok(()))) {
        return Ok(upload.finish().await.map(drop));
    }
    if let Err(error) = upload.abort().await {
        let error = error.to_string();
        tracing::warn!(%key, error, "parts of an upload that was given up stay in the bucket");
    }
    read.map_err(|source| unread(path, source))
}

async fn write_parts(
    upload: &mut WriteMultipart,
    asset: &Asset,
    file: &mut fs::File,
) -> io::Result<Result<(), Error>> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let length = file.read(&mut buffer)?;
        let Some(piece) = buffer.get(..length).filter(|piece| !piece.is_empty()) else {
            break;
        };
        hasher.update(piece);
        if let Err(error) = upload.wait_for_capacity(PARTS_AT_ONCE).await {
            return Ok(Err(error));
        }
        upload.write(piece);
    }
    match BlobDigest::from_bytes(*hasher.finalize().as_bytes()) == asset.digest {
        true => Ok(Ok(())),
        false => Err(rotten()),
    }
}
