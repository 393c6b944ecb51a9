//! Blobs laid out to be read, from wherever they lie: out of bundles, and down chains of kept deltas.
//!
//! What is wanted of a kept release is followed up the chain, each release once, the one farthest from its key first, until all
//! that is needed lies in bundles; then it is decoded the other way round, release by release. Nothing is believed before its
//! digest was compared. Memory: two manifests, one frame with its prefix, and the digests of what is wanted; the bytes lie in
//! files.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io::{self, BufReader};

use ship_bundle::delta::{ApplyError, BlobBytes, DeltaBlobs, DeltaFooter, DeltaIndex, FOOTER};
use ship_model::digest::{BlobDigest, DeltaDigest, ReleaseId};
use ship_model::manifest::Manifest;

use super::damaged;
use crate::deltas::{ReadFooterError, footer_of};
use crate::engine::{Blobs, BlobsError, Object, ObjectReader, Slice};
use crate::locate::{Link, Places};
use crate::spool::{Spool, SpoolError};
use crate::union::{ReadManifestError, read_manifest};

/// Why blobs could not be laid out.
#[derive(Debug, thiserror::Error)]
pub enum LayError {
    #[error("cannot read what bundles carry")]
    Spool(#[from] SpoolError),
    #[error(transparent)]
    Blobs(#[from] BlobsError),
    #[error("cannot read the manifest of release {}", id.short())]
    Manifest {
        id: ReleaseId,
        source: ReadManifestError,
    },
    #[error("cannot read kept delta {}", delta.short())]
    Footer {
        delta: DeltaDigest,
        source: ReadFooterError,
    },
    #[error("cannot read kept delta {}", delta.short())]
    Apply { delta: DeltaDigest, source: ApplyError },
    /// It was put into quarantine.
    #[error(
        "kept delta {} is damaged and was put into quarantine: publish release {} again to heal it",
        delta.short(), release.short()
    )]
    Damaged { delta: DeltaDigest, release: ReleaseId },
}

/// Blobs that can be read at any place.
#[derive(Debug)]
pub(crate) struct Laid {
    spools: Vec<Spool>,
}

impl Laid {
    /// What is laid out already.
    pub fn of(spools: Vec<Spool>) -> Self {
        Self { spools }
    }

    pub fn into_spools(self) -> Vec<Spool> {
        self.spools
    }

    /// Lays `wanted` out. Blocks, and takes as long as chains are deep.
    pub fn out(blobs: &dyn Blobs, places: &Places, wanted: &[BlobDigest]) -> Result<Self, LayError> {
        let mut way = Way::new(blobs, places);
        for blob in wanted {
            match places.giver(blob) {
                Some(giver) => way.from(giver, *blob),
                // One that lies nowhere is told by who looks in the bundles.
                None => drop(way.carried.insert(*blob)),
            }
        }
        let mut steps = Vec::new();
        while let Some(step) = way.farthest()? {
            steps.push(step);
        }
        let carried: Vec<_> = way.carried.into_iter().collect();
        let mut laid = Self {
            spools: vec![Spool::fill(blobs, places, &carried)?],
        };
        for step in steps.iter().rev() {
            let spool = step.decode(blobs, places, &laid)?;
            laid.spools.push(spool);
        }
        Ok(laid)
    }
}

impl BlobBytes for Laid {
    fn read_at(&self, blob: BlobDigest, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        for spool in &self.spools {
            match spool.read_at(blob, offset, buffer) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                read => return read,
            }
        }
        Err(io::ErrorKind::NotFound.into())
    }
}

/// What is still to be followed.
struct Way<'a> {
    blobs: &'a dyn Blobs,
    places: &'a Places,
    /// By release, those that are farthest from their key first.
    wanted: BTreeMap<(Reverse<usize>, ReleaseId), HashSet<BlobDigest>>,
    carried: BTreeSet<BlobDigest>,
    depths: HashMap<ReleaseId, usize>,
}

impl<'a> Way<'a> {
    fn new(blobs: &'a dyn Blobs, places: &'a Places) -> Self {
        Self {
            blobs,
            places,
            wanted: BTreeMap::new(),
            carried: BTreeSet::new(),
            depths: HashMap::new(),
        }
    }

    /// Wants a blob of this release.
    fn from(&mut self, release: ReleaseId, blob: BlobDigest) {
        if self.places.link(release).is_none() || self.places.absent([blob]).is_empty() {
            self.carried.insert(blob);
            return;
        }
        let places = self.places;
        let depth = *self
            .depths
            .entry(release)
            .or_insert_with(|| super::depth(release, |at| places.link(at).map(|link| link.base)));
        let of = self.wanted.entry((Reverse(depth), release)).or_default();
        of.insert(blob);
    }

    /// The next release whose delta is needed. What it is made against is wanted then, nearer to the key.
    fn farthest(&mut self) -> Result<Option<Step>, LayError> {
        while let Some(((_, release), wanted)) = self.wanted.pop_first() {
            let Some(link) = self.places.link(release) else {
                self.carried.extend(wanted);
                continue;
            };
            let base = manifest(self.blobs, link.base)?;
            let there: HashSet<_> = base.files().map(|(_, _, _, digest)| digest).collect();
            let (up, given): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|blob| there.contains(blob));
            drop(there);
            up.into_iter().for_each(|blob| self.from(link.base, blob));
            if given.is_empty() {
                continue;
            }
            let delta = OpenDelta::kept(self.blobs, self.places, release, link, base)?;
            let step = Step {
                release,
                link,
                given: given.into_iter().collect(),
            };
            for part in delta.parts(&step.given) {
                for blob in delta.index.needs_of(&part, &delta.base) {
                    self.from(link.base, blob);
                }
            }
            return Ok(Some(step));
        }
        Ok(None)
    }
}

/// A kept delta, and what is wanted of it.
struct Step {
    release: ReleaseId,
    link: Link,
    given: HashSet<BlobDigest>,
}

impl Step {
    fn decode(&self, blobs: &dyn Blobs, places: &Places, laid: &Laid) -> Result<Spool, LayError> {
        let base = manifest(blobs, self.link.base)?;
        let delta = OpenDelta::kept(blobs, places, self.release, self.link, base)?;
        let mut spool = Spool::new(blobs)?;
        let kept = delta.decode(&self.given, laid, |blob, give| {
            let kept = spool.add(blob, give)?;
            Ok(kept)
        });
        match kept {
            Ok(true) => Ok(spool.ready()),
            Ok(false) => Err(damaged(blobs, places, self.release, self.link.delta)?),
            Err(ApplyError::Frame) => Err(damaged(blobs, places, self.release, self.link.delta)?),
            Err(source) => Err(LayError::Apply {
                delta: self.link.delta,
                source,
            }),
        }
    }
}

/// Takes one blob from who gives its bytes; false when they are others than its digest says.
type Take<'a> = dyn FnMut(
        BlobDigest,
        &mut dyn FnMut(&mut dyn FnMut(&[u8]) -> io::Result<()>) -> Result<(), ApplyError>,
    ) -> Result<bool, ApplyError>
    + 'a;

/// An open delta, with the manifest of what it is made against.
pub(crate) struct OpenDelta<'a> {
    reader: Box<dyn ObjectReader + 'a>,
    base: Manifest,
    index: DeltaIndex,
}

impl<'a> OpenDelta<'a> {
    /// Its index is read and checked against both manifests.
    pub fn of(
        reader: Box<dyn ObjectReader + 'a>,
        footer: &DeltaFooter,
        base: Manifest,
        target: &Manifest,
    ) -> Result<Self, ReadFooterError> {
        let read = index_of(&*reader, footer)?;
        let index = DeltaIndex::parse(footer, &read, &base, target)?;
        Ok(Self { reader, base, index })
    }

    /// One that keeps a release; one that is damaged is put aside.
    pub fn kept(
        blobs: &dyn Blobs,
        places: &Places,
        release: ReleaseId,
        link: Link,
        base: Manifest,
    ) -> Result<Self, LayError> {
        let object = Object::Kept(link.delta);
        let footer = footer_of(blobs, object).map_err(|source| LayError::Footer {
            delta: link.delta,
            source,
        })?;
        let reader = blobs.open(object)?;
        let target = manifest(blobs, release)?;
        match Self::of(reader, &footer, base, &target) {
            Ok(open) => Ok(open),
            Err(ReadFooterError::Delta(_)) => Err(damaged(blobs, places, release, link.delta)?),
            Err(source) => Err(LayError::Footer {
                delta: link.delta,
                source,
            }),
        }
    }

    /// Every blob that it says it gives, sorted; one that it gives twice stands here twice.
    pub fn gives(&self) -> Vec<BlobDigest> {
        let mut gives: Vec<_> = self.index.blobs().collect();
        gives.sort_unstable();
        gives
    }

    /// What all of it is decoded against, sorted.
    pub fn needs(&self) -> Vec<BlobDigest> {
        let parts = self.index.parts().into_iter();
        let needs = parts.flat_map(|part| self.index.needs_of(&part, &self.base));
        needs.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Bytes that decoding all of it reads and writes.
    pub fn work(&self) -> u64 {
        self.index.work()
    }

    fn parts(&self, wanted: &HashSet<BlobDigest>) -> Vec<ship_bundle::delta::Part> {
        let mut parts = self.index.parts();
        parts.retain(|part| self.index.blobs_of(part).any(|blob| wanted.contains(&blob)));
        parts
    }

    /// Hands each of `wanted` to `take`; false as soon as one is not what its digest says.
    pub fn decode(
        &self,
        wanted: &HashSet<BlobDigest>,
        from: &dyn BlobBytes,
        mut take: impl FnMut(
            BlobDigest,
            &mut dyn FnMut(&mut dyn FnMut(&[u8]) -> io::Result<()>) -> Result<(), ApplyError>,
        ) -> Result<bool, ApplyError>,
    ) -> Result<bool, ApplyError> {
        let take: &mut Take<'_> = &mut take;
        for part in self.parts(wanted) {
            let range = self.index.range(&part);
            let input = BufReader::new(Slice::range(self.reader.as_ref(), range));
            let mut blobs = DeltaBlobs::new(&self.index, &part, input, &self.base, from);
            while let Some((blob, _)) = blobs.next_blob() {
                if !wanted.contains(&blob) {
                    blobs.content(|_| Ok(()))?;
                } else if !take(blob, &mut |sink| blobs.content(sink))? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}

impl OpenDelta<'_> {
    /// Puts what of `wanted` can still be decoded into `spool`, however damaged the rest is.
    pub fn rescue(&self, wanted: &HashSet<BlobDigest>, from: &dyn BlobBytes, spool: &mut Spool) {
        for part in self.parts(wanted) {
            let range = self.index.range(&part);
            let input = BufReader::new(Slice::range(self.reader.as_ref(), range));
            let mut blobs = DeltaBlobs::new(&self.index, &part, input, &self.base, from);
            while let Some((blob, _)) = blobs.next_blob() {
                let given = match wanted.contains(&blob) {
                    true => spool.add(blob, |sink| blobs.content(sink)).map(drop),
                    false => blobs.content(|_| Ok(())),
                };
                // What follows in this part is decoded out of the same frames.
                if given.is_err() {
                    break;
                }
            }
        }
    }

    /// What the delta is decoded against for `wanted`.
    pub fn needs_of(&self, wanted: &HashSet<BlobDigest>) -> Vec<BlobDigest> {
        let parts = self.parts(wanted);
        let needs = parts
            .iter()
            .flat_map(|part| self.index.needs_of(part, &self.base));
        needs.collect()
    }
}

fn index_of(reader: &(dyn ObjectReader + '_), footer: &DeltaFooter) -> io::Result<Vec<u8>> {
    let end = reader.len().saturating_sub(FOOTER as u64);
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut Slice::range(reader, footer.index_at..end), &mut bytes)?;
    Ok(bytes)
}

pub(super) fn manifest(blobs: &dyn Blobs, id: ReleaseId) -> Result<Manifest, LayError> {
    read_manifest(blobs, id).map_err(|source| LayError::Manifest { id, source })
}
