//! The last step: everything is there, and it becomes a release.

use std::collections::HashMap;
use std::sync::PoisonError;

use ship_durable::fault;
use ship_model::assets::AssetsError;
use ship_model::digest::{BlobDigest, BundleDigest, ReleaseId};
use ship_model::manifest::{DecodeError, MAX_ENCODED, Manifest};
use ship_model::name::AppName;
use ship_model::release::Provenance;

use super::{Publisher, claims_of};
use crate::engine::blobs::read_whole;
use crate::engine::{BlobsError, Object};
use crate::keeping::{BringError, bring};
use crate::ledger::{
    AddReleaseError, AddedRelease, AssetClaim, BundleFacts, ClaimError, ClaimToken, LedgerError, NewRelease,
    NotAcceptedError, RequestId,
};
use crate::locate::{ReadIndexError, read_index};

/// Longest label or commit, in bytes.
const MOST_TEXT: usize = 200;
/// Tries with a new token after another publish took the claims over.
const TRIES: u32 = 8;

/// What is to become a release.
#[derive(Debug, Clone)]
pub struct Commit {
    pub app: AppName,
    pub id: ReleaseId,
    /// The bundle that was uploaded for it; none when nothing was missing.
    pub bundle: Option<BundleDigest>,
    pub provenance: Provenance,
    pub request: RequestId,
    /// Role and name of the caller, `publisher/ci`.
    pub who: String,
    /// Milliseconds since 1970, by the store's clock.
    pub at_ms: u64,
}

/// Why there is no release; no number was used.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    #[error("release {id} was not begun: send its manifest first")]
    NotBegun { id: ReleaseId },
    #[error("the manifest is refused")]
    Manifest(#[from] DecodeError),
    #[error("the manifest is for app {theirs}, and {asked} is to be published")]
    App { asked: AppName, theirs: AppName },
    #[error("the {what} is longer than {MOST_TEXT} bytes")]
    TooLong { what: &'static str },
    #[error("bundle {bundle} is not in the store: upload it first")]
    UnknownBundle { bundle: BundleDigest },
    #[error("{count} blobs of the release are not in the store, among them that of {path}: publish again")]
    Missing { count: usize, path: String },
    #[error(transparent)]
    NotAccepted(#[from] NotAcceptedError),
    #[error(transparent)]
    Assets(#[from] AssetsError),
    #[error(transparent)]
    Claim(#[from] ClaimError),
    #[error(transparent)]
    Release(#[from] AddReleaseError),
    #[error("cannot read the release's bundle")]
    Index(#[from] ReadIndexError),
    #[error("cannot read the release's manifest")]
    Blobs(#[from] BlobsError),
    #[error("cannot bring back what the release shares with releases that are kept as deltas")]
    Bring(#[from] Box<BringError>),
    #[error("cannot read the ledger")]
    Ledger(#[from] LedgerError),
    #[error("the publish was interrupted")]
    Interrupted(#[source] std::io::Error),
}

impl Commit {
    /// Digest of what is asked, which a repeated request asks for again. Who, when and which bundle brought it
    /// may differ: after a lost answer nothing is missing any more, so nothing is uploaded.
    fn asked(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        let mut field = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        field(self.app.as_str().as_bytes());
        field(self.id.as_bytes());
        for text in [&self.provenance.label, &self.provenance.commit] {
            field(&[text.is_some().into()]);
            field(text.as_deref().unwrap_or_default().as_bytes());
        }
        field(&[self.provenance.dirty.into()]);
        hasher.finalize().to_hex().to_string()
    }

    fn check_texts(&self) -> Result<(), CommitError> {
        for (what, text) in [
            ("label", &self.provenance.label),
            ("commit", &self.provenance.commit),
        ] {
            if text.as_ref().is_some_and(|text| text.len() > MOST_TEXT) {
                return Err(CommitError::TooLong { what });
            }
        }
        Ok(())
    }
}

/// What a release weighs.
struct Figures {
    files: u64,
    bytes: u64,
    bundle: Option<(BundleDigest, BundleFacts)>,
    new_bytes: u64,
    stored_bytes: u64,
}

impl Publisher {
    /// Makes a release of what was begun and uploaded, under the app's next number.
    ///
    /// Durable when it returns. The same request sent twice makes one release, and gets the same answer.
    pub fn commit(&self, commit: &Commit) -> Result<AddedRelease, CommitError> {
        commit.check_texts()?;
        let asked = commit.asked();
        if let Some(record) = self.ledger.request_release(commit.request, &asked)? {
            return Ok(AddedRelease { record, new: false });
        }
        if let Some(mark) = self.ledger.restored()? {
            return Err(mark.not_accepted().into());
        }
        // What it finds in bundles stays there until the record stands.
        let _relying = self.places.rely();
        let (figures, claims) = self.weigh(commit)?;
        let turn = self.turn_of(&commit.app);
        let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut attempt = 0;
        loop {
            let token = ClaimToken::new(commit.request, attempt);
            match self.settle(commit, &asked, &figures, &claims, token) {
                Err(CommitError::Release(AddReleaseError::Voided)) if attempt < TRIES => attempt += 1,
                other => return other,
            }
        }
    }

    fn settle(
        &self,
        commit: &Commit,
        asked: &str,
        figures: &Figures,
        claims: &[AssetClaim],
        claim: ClaimToken,
    ) -> Result<AddedRelease, CommitError> {
        fault::point("store.publish.claim.before").map_err(CommitError::Interrupted)?;
        self.ledger.claim_assets(&commit.app, &claim, claims)?;
        fault::point("store.publish.number.before").map_err(CommitError::Interrupted)?;
        let added = self.ledger.add_release(&NewRelease {
            app: commit.app.clone(),
            id: commit.id,
            provenance: commit.provenance.clone(),
            publisher: commit.who.clone(),
            at_ms: commit.at_ms,
            bundle: figures.bundle,
            files: figures.files,
            bytes: figures.bytes,
            new_bytes: figures.new_bytes,
            stored_bytes: figures.stored_bytes,
            claim,
            request: commit.request,
            asked: asked.to_owned(),
        })?;
        fault::point("store.publish.number.after").map_err(CommitError::Interrupted)?;
        Ok(added)
    }

    /// Checks that all of the release is in the store, and what of it is new.
    fn weigh(&self, commit: &Commit) -> Result<(Figures, Vec<AssetClaim>), CommitError> {
        let object = Object::Manifest(commit.id);
        let Some(len) = self.blobs.len(object)? else {
            return Err(CommitError::NotBegun { id: commit.id });
        };
        let _alone = self.alone(usize::try_from(len).unwrap_or(usize::MAX));
        let encoded = read_whole(&*self.blobs, object, MAX_ENCODED as u64)?;
        let manifest = Manifest::read(encoded)?;
        let theirs = &manifest.spec().app;
        if *theirs != commit.app {
            return Err(CommitError::App {
                asked: commit.app.clone(),
                theirs: theirs.clone(),
            });
        }
        self.refuse_missing(&manifest)?;
        // A release is carried by bundles when it is made; later it may be kept as a delta.
        let wanted: Vec<BlobDigest> = manifest.files().map(|(_, _, _, digest)| digest).collect();
        bring(&*self.blobs, &self.places, &wanted).map_err(Box::new)?;
        drop(wanted);
        let mut figures = Figures {
            files: manifest.files().count() as u64,
            bytes: manifest.total_bytes(),
            bundle: None,
            new_bytes: 0,
            stored_bytes: 0,
        };
        let bundle = match commit.bundle {
            Some(bundle) => Some(bundle),
            None => self.unclaimed_bundle(&manifest)?,
        };
        if let Some(bundle) = bundle {
            self.weigh_bundle(bundle, &manifest, &mut figures)?;
        }
        Ok((figures, claims_of(&manifest)?))
    }

    fn refuse_missing(&self, manifest: &Manifest) -> Result<(), CommitError> {
        let missing = self
            .places
            .missing(manifest.files().map(|(_, _, _, digest)| digest));
        let Some(first) = missing.first() else {
            return Ok(());
        };
        let path = manifest.files().find(|(_, _, _, digest)| digest == first);
        Err(CommitError::Missing {
            count: missing.len(),
            path: path.map(|(path, ..)| path.to_string()).unwrap_or_default(),
        })
    }

    /// The bundle that was uploaded for this tree by a publish that was not finished, if there is one: no
    /// release brought it, and it carries the most of this one's blobs.
    fn unclaimed_bundle(&self, manifest: &Manifest) -> Result<Option<BundleDigest>, CommitError> {
        let wanted: Vec<BlobDigest> = manifest.files().map(|(_, _, _, digest)| digest).collect();
        let mut located = self.places.locate(&wanted, &[]);
        located.sort_by_key(|found| std::cmp::Reverse(found.blobs.len()));
        let brought = self.places.fresh();
        located.retain(|found| !brought.contains(&found.bundle));
        for found in located {
            if self.ledger.bundle(&found.bundle)?.is_none() {
                return Ok(Some(found.bundle));
            }
        }
        Ok(None)
    }

    fn weigh_bundle(
        &self,
        bundle: BundleDigest,
        manifest: &Manifest,
        figures: &mut Figures,
    ) -> Result<(), CommitError> {
        let len = self.blobs.len(Object::Bundle(bundle))?;
        let (Some(bytes), true) = (len, self.places.has_bundle(bundle)) else {
            return Err(CommitError::UnknownBundle { bundle });
        };
        let index = read_index(&*self.blobs, bundle)?;
        let facts = BundleFacts {
            bytes,
            blobs: index.blobs().count() as u64,
        };
        figures.bundle = Some((bundle, facts));
        // A bundle that an earlier release brought is nothing new.
        if self.ledger.bundle(&bundle)?.is_none() {
            let mut sizes: HashMap<BlobDigest, u64> =
                index.blobs().map(|blob| (blob.digest, blob.size)).collect();
            let listed = index.lists().iter().flat_map(|list| &list.segments);
            let segments = listed.map(|segment| segment.digest);
            let files = manifest.files().map(|(_, _, _, digest)| digest);
            let new = segments.chain(files);
            figures.new_bytes = new.filter_map(|digest| sizes.remove(&digest)).sum();
            figures.stored_bytes = bytes;
        }
        Ok(())
    }
}
