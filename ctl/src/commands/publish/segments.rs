//! Of large files, only segments that the store has not: cut here, asked for there.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use ship_bundle::segments::{LARGE, MAX_SEGMENTS, SegmentList, cut_files, is_in_the_way};
use ship_model::digest::{BlobDigest, ReleaseId};
use ship_model::manifest::Manifest;
use ship_proto::v1::MissingRequest;
use ship_proto::{MAX_DIGESTS, digests};
use tonic::{Code, Status};

use super::super::tree;
use crate::client::Client;
use crate::error::{CommandError, Exit};
use crate::ui::{Bar, Ui};

/// What is known of the large files that are missing.
#[derive(Debug, Default)]
pub struct Segments {
    pub lists: Vec<SegmentList>,
    /// Segments that the store has.
    pub known: HashSet<BlobDigest>,
}

/// Lists of those of the wanted files that are large: as they were cut before, else cut now. None where they are to be packed whole.
pub async fn cut(
    dir: &Path,
    manifest: &Arc<Manifest>,
    wanted: &HashSet<BlobDigest>,
    known: &[SegmentList],
    ui: &Ui,
) -> Result<Vec<SegmentList>, CommandError> {
    if is_in_the_way(manifest) {
        return Ok(Vec::new());
    }
    let known = known.iter().filter(|list| wanted.contains(&list.blob));
    let mut lists: Vec<SegmentList> = known.cloned().collect();
    let files = manifest.files();
    let large = files.filter(|(_, _, size, digest)| *size > LARGE && wanted.contains(digest));
    let mut uncut: HashSet<BlobDigest> = large.map(|(_, _, _, digest)| digest).collect();
    uncut.retain(|blob| !lists.iter().any(|list| list.blob == *blob));
    if !uncut.is_empty() {
        lists.extend(cut_now(dir, manifest, uncut, ui).await?);
        lists.sort_unstable_by_key(|list| list.blob);
    }
    if lists.iter().map(|list| list.segments.len()).sum::<usize>() > MAX_SEGMENTS {
        lists.clear();
    }
    Ok(lists)
}

async fn cut_now(
    dir: &Path,
    manifest: &Arc<Manifest>,
    uncut: HashSet<BlobDigest>,
    ui: &Ui,
) -> Result<Vec<SegmentList>, CommandError> {
    let bar = Bar::bytes(ui, "cut", 1);
    let (dir, told) = (dir.to_owned(), tree::Told(bar.clone()));
    let manifest = Arc::clone(manifest);
    let cutting = tokio::task::spawn_blocking(move || cut_files(&dir, &manifest, &uncut, &told));
    let cut = cutting.await;
    bar.clear();
    let cut = cut.map_err(|source| CommandError::internal("cut the large files", source))?;
    cut.map_err(|error| CommandError::of(Exit::Error, &error))
}

/// Which of the segments the store has, where they stay until the release that was begun is committed. One that does not know
/// of segments gets files whole.
pub async fn known(release: ReleaseId, lists: Vec<SegmentList>, client: &Client) -> Result<Segments, Status> {
    if lists.is_empty() {
        return Ok(Segments::default());
    }
    let segments = lists.iter().flat_map(|list| &list.segments);
    let mut known: HashSet<BlobDigest> = segments.map(|segment| segment.digest).collect();
    let asked: Vec<BlobDigest> = known.iter().copied().collect();
    let count = asked.len().div_ceil(MAX_DIGESTS);
    let requests = (0..count).map(move |chunk| {
        let part = &asked[chunk * MAX_DIGESTS..asked.len().min((chunk + 1) * MAX_DIGESTS)];
        MissingRequest {
            blobs: part.iter().map(|segment| segment.as_bytes().to_vec()).collect(),
            release: release.as_bytes().to_vec(),
        }
    });
    match missing(tokio_stream::iter(requests), client).await {
        Ok(missing) => known.retain(|segment| !missing.contains(segment)),
        Err(status) if matches!(status.code(), Code::Unimplemented | Code::InvalidArgument) => {
            return Ok(Segments::default());
        }
        Err(status) => return Err(status),
    }
    Ok(Segments { lists, known })
}

async fn missing(
    requests: impl tokio_stream::Stream<Item = MissingRequest> + Send + 'static,
    client: &Client,
) -> Result<HashSet<BlobDigest>, Status> {
    let mut answers = client.releases().missing(requests).await?.into_inner();
    let mut missing = HashSet::new();
    while let Some(message) = answers.message().await? {
        let blobs = digests(&message.blobs, "missing segment", BlobDigest::from_slice);
        missing.extend(blobs.map_err(|error| Status::internal(error.to_string()))?);
    }
    Ok(missing)
}
