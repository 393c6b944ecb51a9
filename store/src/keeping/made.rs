//! A bundle that the store makes itself, out of blobs that it has.

use std::collections::HashSet;
use std::io;

use ship_bundle::delta::BlobBytes;
use ship_bundle::segments::{CutError, MAX_SEGMENTS, SegmentList, cut_blobs, is_in_the_way};
use ship_bundle::{Expected, PackError, Parts, VerifyError, pack_blobs, verify_bundle};
use ship_durable::fault;
use ship_model::digest::{BlobDigest, BundleDigest};
use ship_model::manifest::Manifest;

use crate::engine::{Blobs, BlobsError, Object, Slice};
use crate::ledger::BundleFacts;
use crate::locate::Places;
use crate::yielding::Yielding;

/// Why a bundle was not made; none is offered.
#[derive(Debug, thiserror::Error)]
pub enum MakeBundleError {
    #[error("cannot cut large files")]
    Cut(#[from] CutError),
    #[error("cannot pack")]
    Pack(#[source] PackError),
    #[error("cannot keep the bundle")]
    Blobs(#[from] BlobsError),
    #[error("{count} segments that the bundle was to share were let go meanwhile")]
    Segments { count: usize },
    #[error("the bundle that was made is not right")]
    Verify(#[from] VerifyError),
    /// Somebody waits for something else.
    #[error("something is wished for that somebody waits for")]
    Wished,
    #[error("interrupted")]
    Interrupted(#[source] io::Error),
}

/// What is to be put into a bundle.
pub(crate) struct Making<'a> {
    pub blobs: &'a dyn Blobs,
    pub places: &'a Places,
    /// What the blobs are called.
    pub manifest: &'a Manifest,
    pub from: &'a dyn BlobBytes,
    pub level: i32,
    /// Also segments of large files that other bundles carry.
    pub whole: bool,
    /// Compressors at a time.
    pub at_once: usize,
    /// Whether to go on.
    pub ask: &'a dyn Fn() -> io::Result<()>,
}

impl Making<'_> {
    /// Makes the bundle of `wanted`, reads it again from what is durable, checks every byte, and offers it.
    pub fn make(&self, wanted: &HashSet<BlobDigest>) -> Result<(BundleDigest, BundleFacts), MakeBundleError> {
        let lists = self.lists(wanted)?;
        let known = self.known(&lists);
        let parts = Parts {
            wanted,
            lists: &lists,
            known: &known,
        };
        let mut out = Yielding {
            staged: self.blobs.stage()?,
            ask: self.ask,
        };
        let packed = pack_blobs(
            self.from,
            self.manifest,
            &parts,
            (self.level, self.at_once),
            &mut out,
            &(),
        );
        let bundle = packed.map_err(given_way)?.digest;
        let object = Object::Bundle(bundle);
        self.blobs.keep(out.staged, object)?;
        fault::point("store.keeping.bundle.kept").map_err(MakeBundleError::Interrupted)?;
        let reader = self.blobs.open(object)?;
        let expected = Expected {
            digest: Some(bundle),
            ..Expected::default()
        };
        let verified = match verify_bundle(Slice::whole(reader.as_ref()), &expected) {
            Ok(verified) => verified,
            Err(error) => {
                self.blobs.quarantine(object)?;
                return Err(error.into());
            }
        };
        let facts = BundleFacts {
            bytes: verified.bytes,
            blobs: verified.index.blobs().count() as u64,
        };
        fault::point("store.keeping.bundle.verified").map_err(MakeBundleError::Interrupted)?;
        // What it shares stays where it is until it is listed. Others may hold this already, and share nothing.
        let _relying = (!known.is_empty()).then(|| self.places.rely());
        let gone = self.places.absent(known);
        if !gone.is_empty() {
            return Err(MakeBundleError::Segments { count: gone.len() });
        }
        // It may have been let go and be about to be removed: it is kept once more if so.
        self.places.placed(bundle, verified.bytes, &verified.index, || {
            match self.blobs.len(object)? {
                Some(_) => Ok(()),
                None => Err(MakeBundleError::Blobs(BlobsError::Absent { object })),
            }
        })?;
        Ok((bundle, facts))
    }

    /// Segments that other bundles carry, and that need not be packed.
    fn known(&self, lists: &[SegmentList]) -> HashSet<BlobDigest> {
        if self.whole {
            return HashSet::new();
        }
        let segments = lists.iter().flat_map(|list| &list.segments);
        let mut known: HashSet<_> = segments.map(|segment| segment.digest).collect();
        for absent in self.places.absent(known.iter().copied()) {
            known.remove(&absent);
        }
        known
    }

    /// As a publisher cuts.
    fn lists(&self, wanted: &HashSet<BlobDigest>) -> Result<Vec<SegmentList>, MakeBundleError> {
        if is_in_the_way(self.manifest) {
            return Ok(Vec::new());
        }
        let mut lists = cut_blobs(self.from, self.manifest, wanted)?;
        if lists.iter().map(|list| list.segments.len()).sum::<usize>() > MAX_SEGMENTS {
            lists.clear();
        }
        Ok(lists)
    }
}

fn given_way(error: PackError) -> MakeBundleError {
    match error {
        PackError::Write(error) if error.kind() == io::ErrorKind::WouldBlock => MakeBundleError::Wished,
        error => MakeBundleError::Pack(error),
    }
}
