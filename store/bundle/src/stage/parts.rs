//! Files that are put together out of segments: those of older files that lie here, then those that are fetched.
//!
//! A file is made under its name at once and filled at any place, private until its last segment is written and all of it was hashed
//! once more: a list that does not give its blob is found out here. What a failed fetch leaves of it is looked through by the next try.

use std::collections::HashSet;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use ship_model::digest::{BlobDigest, BundleDigest};
use ship_model::manifest::EntryKind;

use super::build::{BuildError, Builder, Origin};
use super::fetch::{BlobSource, Content, ContentError, FetchError, NoBundle, Sink, fetch, fetch_plan};
use super::supply::Supply;
use crate::content;
use crate::delta::key;
use crate::index::BundleIndex;
use crate::segments::{LARGE, MAX_SEGMENT, SegmentList, cut};

/// Older files that are looked through for segments may be so many times the bytes of the new ones.
const LOOK: u64 = 2;

/// What is missing, by the way it comes.
#[derive(Debug)]
pub(crate) struct Ways<'a> {
    /// Blobs that bundles hold.
    pub whole: Vec<BlobDigest>,
    /// Blobs that are listed, and the bundle that lists them.
    pub listed: Vec<(BundleDigest, &'a SegmentList)>,
}

impl<'a> Ways<'a> {
    /// # Errors
    /// When a blob of `missing`, or a segment of one, is in none of the bundles.
    pub fn of(missing: &[BlobDigest], bundles: &'a [(BundleDigest, BundleIndex)]) -> Result<Self, NoBundle> {
        let mut held: Vec<_> = bundles
            .iter()
            .flat_map(|(_, index)| index.blobs().map(|place| place.digest))
            .collect();
        held.sort_unstable();
        let holds = |blob: &BlobDigest| held.binary_search(blob).is_ok();
        let lists = || {
            let all = bundles.iter();
            all.flat_map(|(bundle, index)| index.lists().iter().map(|list| (*bundle, list)))
        };
        let mut ways = Self {
            whole: Vec::new(),
            listed: Vec::new(),
        };
        for blob in missing {
            if holds(blob) {
                ways.whole.push(*blob);
                continue;
            }
            let list = lists().find(|(_, list)| list.blob == *blob);
            let (bundle, list) = list.ok_or(NoBundle { digest: *blob })?;
            if let Some(nowhere) = list.segments.iter().find(|segment| !holds(&segment.digest)) {
                return Err(NoBundle {
                    digest: nowhere.digest,
                });
            }
            ways.listed.push((bundle, list));
        }
        Ok(ways)
    }
}

/// Compressed bytes that are read to get `missing` out of `bundles`, all segments of what is listed among them: which of those lie
/// here is known only when older files were read. None when something lies nowhere.
#[must_use]
pub fn fetch_cost(missing: &[BlobDigest], bundles: &[(BundleDigest, BundleIndex)]) -> Option<u64> {
    let ways = Ways::of(missing, bundles).ok()?;
    let lists = ways.listed.iter().flat_map(|(_, list)| &list.segments);
    let mut wanted: Vec<BlobDigest> = lists.map(|segment| segment.digest).collect();
    wanted.extend(ways.whole);
    let ranges = fetch_plan(&wanted, bundles).ok()?;
    Some(ranges.iter().map(|range| range.len).sum())
}

/// Gets all of `ways` into the tree; returns the compressed bytes that were asked for.
pub(crate) fn fetch_all(
    builder: &Builder<'_>,
    ways: &Ways<'_>,
    bundles: &[(BundleDigest, BundleIndex)],
    source: &dyn BlobSource,
) -> Result<u64, BuildError> {
    let mut wanted = ways.whole.clone();
    let filling = Filling::new(builder, ways)?;
    filling.look_here()?;
    wanted.extend(filling.open());
    let ranges = fetch_plan(&wanted, bundles).map_err(BuildError::Missing)?;
    fetch(&ranges, bundles, source, &filling)?;
    Ok(ranges.iter().map(|range| range.len).sum())
}

/// A file that is put together.
struct File<'a> {
    bundle: BundleDigest,
    list: &'a SegmentList,
    entry: usize,
    executable: bool,
    /// Places that wait for their bytes.
    left: AtomicUsize,
}

/// Where a segment belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    segment: BlobDigest,
    file: u32,
    offset: u64,
    len: u32,
}

struct Filling<'a> {
    builder: &'a Builder<'a>,
    whole: &'a [BlobDigest],
    files: Vec<File<'a>>,
    /// Sorted.
    places: Vec<Place>,
    written: Mutex<HashSet<BlobDigest>>,
}

impl<'a> Filling<'a> {
    fn new(builder: &'a Builder<'a>, ways: &'a Ways<'a>) -> Result<Self, BuildError> {
        let mut filling = Self {
            builder,
            whole: &ways.whole,
            files: Vec::new(),
            places: Vec::new(),
            written: Mutex::default(),
        };
        for (bundle, list) in &ways.listed {
            let group = builder.groups.find(list.blob);
            // A bundle may say what it likes of a blob's size.
            let Some(group) = group.filter(|group| group.size == list.size) else {
                return Err(filling.wrong(*bundle, list.blob).into());
            };
            let (entry, executable) = group.first();
            let path = builder.path(entry);
            builder
                .root
                .create(path.as_bytes())
                .map_err(BuildError::at("write", path.as_bytes()))?;
            let file = filling.files.len() as u32;
            filling
                .places
                .extend(list.places().map(|(offset, segment)| Place {
                    segment: segment.digest,
                    file,
                    offset,
                    len: segment.len,
                }));
            filling.files.push(File {
                bundle: *bundle,
                list,
                entry,
                executable,
                left: AtomicUsize::new(list.segments.len()),
            });
        }
        filling.places.sort_unstable();
        Ok(filling)
    }

    fn wrong(&self, bundle: BundleDigest, digest: BlobDigest) -> FetchError {
        FetchError::Content { bundle, digest }
    }

    /// All places of a segment.
    fn of(&self, segment: BlobDigest) -> &[Place] {
        let from = self.places.partition_point(|place| place.segment < segment);
        let rest = &self.places[from..];
        &rest[..rest.partition_point(|place| place.segment == segment)]
    }

    /// Segments that nobody wrote yet, each once.
    fn open(&self) -> Vec<BlobDigest> {
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let mut open: Vec<_> = self.places.iter().map(|place| place.segment).collect();
        open.dedup();
        open.retain(|segment| !written.contains(segment));
        open
    }

    /// Writes a segment, whose digest was compared, wherever it belongs, unless that was done.
    fn write(&self, segment: BlobDigest, bytes: &[u8]) -> Result<(), BuildError> {
        let places = self.of(segment);
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if places.is_empty() || !written.insert(segment) {
            return Ok(());
        }
        drop(written);
        for place in places {
            let file = &self.files[place.file as usize];
            let path = self.builder.path(file.entry);
            self.builder
                .root
                .write(path.as_bytes())
                .and_then(|opened| opened.write_all_at(bytes, place.offset))
                .map_err(BuildError::at("write", path.as_bytes()))?;
            self.builder.progress.done(bytes.len() as u64);
            // The thread that writes the last place sees what all others wrote.
            if file.left.fetch_sub(1, Ordering::AcqRel) == 1 {
                self.complete(file)?;
            }
        }
        Ok(())
    }

    fn complete(&self, file: &File<'_>) -> Result<(), BuildError> {
        let path = self.builder.path(file.entry);
        let failed = || BuildError::at("write", path.as_bytes());
        let mut opened = self.builder.root.read(path.as_bytes()).map_err(failed())?;
        let hashed = content::hash(&mut opened, file.list.size, &mut Vec::new(), &(), |_| {});
        if hashed.map_err(failed())? != (file.list.blob, file.list.size) {
            return Err(self.wrong(file.bundle, file.list.blob).into());
        }
        self.builder
            .complete(&opened, file.executable, file.list.size)
            .map_err(failed())?;
        match self.builder.groups.find(file.list.blob) {
            Some(group) => self.builder.spread(&group, vec![(file.entry, Origin::Written)]),
            None => Ok(()),
        }
    }

    /// Takes over what an earlier try left and what older files have. One that cannot be read, or changes meanwhile, has nothing.
    fn look_here(&self) -> Result<(), BuildError> {
        for file in &self.files {
            self.look_at_kept(file)?;
        }
        let mut left = LOOK * self.files.iter().map(|file| file.list.size).sum::<u64>();
        for (donor, entry, size) in self.candidates() {
            if size > left || self.open().is_empty() {
                break;
            }
            left -= size;
            let release = &self.builder.donors[donor];
            let path = release.manifest().entries().at(entry).path;
            let Ok(opened) = release.root().read(path.as_bytes()) else {
                continue;
            };
            let looked = cut(opened, size, |segment, bytes| {
                self.write(segment.digest, bytes).map_err(Looked::Build)
            });
            if let Err(Looked::Build(error)) = looked {
                return Err(error);
            }
        }
        Ok(())
    }

    /// What lies there of this very file; whatever was not written is a hole, and no segment.
    fn look_at_kept(&self, file: &File<'_>) -> Result<(), BuildError> {
        let path = self.builder.path(file.entry);
        let kept = self.builder.kept.and_then(|kept| kept.part(path));
        let Some(kept) = kept else { return Ok(()) };
        let mut bytes = Vec::new();
        for (offset, segment) in file.list.places() {
            bytes.resize(segment.len as usize, 0);
            if kept.read_exact_at(&mut bytes, offset).is_ok() && BlobDigest::of(&bytes) == segment.digest {
                self.write(segment.digest, &bytes)?;
            }
        }
        Ok(())
    }

    /// Large files of older releases that may have segments of these, the likeliest first: with the same path, with the same but for a
    /// fingerprint, of the same kind.
    fn candidates(&self) -> Vec<(usize, usize, u64)> {
        let of = |entry: usize| self.builder.path(entry).as_bytes();
        let new: Vec<&[u8]> = self.files.iter().map(|file| of(file.entry)).collect();
        let keys: HashSet<Vec<u8>> = new.iter().map(|path| key(path)).collect();
        let kind = |path: &[u8]| {
            let path = Path::new(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(
                path,
            ));
            path.extension().map(ToOwned::to_owned)
        };
        let kinds: HashSet<_> = new.iter().map(|path| kind(path)).collect();
        let mut seen = HashSet::new();
        let mut found = Vec::new();
        for (number, donor) in self.builder.donors.iter().enumerate() {
            for (at, entry) in donor.manifest().entries().iter().enumerate() {
                let path = entry.path.as_bytes();
                let EntryKind::File { size, digest, .. } = entry.kind else {
                    continue;
                };
                if size <= LARGE || self.builder.groups.find(digest).is_some() {
                    continue;
                }
                let rank = match () {
                    () if new.contains(&path) => 0,
                    () if keys.contains(&key(path)) => 1,
                    () if kinds.contains(&kind(path)) => 2,
                    () => continue,
                };
                if seen.insert(digest) {
                    found.push((rank, number, at, size));
                }
            }
        }
        found.sort_unstable_by_key(|(rank, number, at, _)| (*rank, *number, *at));
        let places = found.into_iter().map(|(_, number, at, size)| (number, at, size));
        places.collect()
    }
}

/// Why an older file was not read to its end.
enum Looked {
    Read,
    Build(BuildError),
}

impl From<io::Error> for Looked {
    fn from(_: io::Error) -> Self {
        Self::Read
    }
}

impl Sink for Filling<'_> {
    type Error = BuildError;

    fn blob(
        &self,
        digest: BlobDigest,
        size: u64,
        content: &mut Content<'_>,
        wrong: &dyn Fn() -> FetchError,
    ) -> Result<(), BuildError> {
        let places = self.of(digest);
        let Some(place) = places.first() else {
            return self.builder.blob(digest, size, content, wrong);
        };
        if size != u64::from(place.len) || place.len > MAX_SEGMENT {
            return Err(wrong().into());
        }
        let mut bytes = Vec::with_capacity(place.len as usize);
        let taken = content(&mut |piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        });
        taken.map_err(|error| match error {
            ContentError::Write(source) => BuildError::at("keep", digest.to_string().as_bytes())(source),
            ContentError::Fetch(error) => error.into(),
        })?;
        if BlobDigest::of(&bytes) != digest {
            return Err(wrong().into());
        }
        self.write(digest, &bytes)?;
        // A small file may have the very bytes of a segment.
        let group = self.builder.groups.find(digest);
        let is_file = group.is_some_and(|group| matches!(group.supply, Supply::Fetch));
        if is_file && self.whole.contains(&digest) {
            let mut again =
                |piece: &mut dyn FnMut(&[u8]) -> io::Result<()>| piece(&bytes).map_err(ContentError::Write);
            return self.builder.blob(digest, size, &mut again, wrong);
        }
        Ok(())
    }
}
