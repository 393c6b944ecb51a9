//! The first step: what the release consists of, and what the store lacks of it.

use std::collections::BTreeSet;
use std::io::Write;

use ship_durable::fault;
use ship_model::assets::AssetsError;
use ship_model::digest::{BlobDigest, ReleaseId};
use ship_model::manifest::{DecodeError, Manifest};
use ship_model::name::AppName;

use super::{Publisher, claims_of};
use crate::engine::{BlobsError, Object};
use crate::ledger::{Clash, LedgerError, NotAcceptedError};

/// A manifest that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begun {
    pub id: ReleaseId,
    /// What must be uploaded, sorted, each once.
    pub missing: Vec<BlobDigest>,
}

/// Why a publish was not begun; nothing was kept.
#[derive(Debug, thiserror::Error)]
pub enum BeginError {
    #[error("the manifest is refused")]
    Manifest(#[from] DecodeError),
    #[error("the manifest is for app {theirs}, and {asked} is to be published")]
    App { asked: AppName, theirs: AppName },
    #[error(transparent)]
    NotAccepted(#[from] NotAcceptedError),
    #[error(transparent)]
    Assets(#[from] AssetsError),
    /// At most 50 are told.
    #[error("{} of the release's assets clash with earlier releases", .0.len())]
    Clash(Vec<Clash>),
    #[error("cannot keep the manifest")]
    Blobs(#[from] BlobsError),
    #[error("cannot keep the manifest")]
    Write(#[source] std::io::Error),
    #[error("cannot look up the release's assets")]
    Ledger(#[from] LedgerError),
}

impl Publisher {
    /// What [`begin`](Self::begin) would refuse, and nothing besides: nothing is kept, and nothing called missing.
    pub fn check(&self, app: &AppName, encoded: &[u8]) -> Result<Begun, BeginError> {
        let _alone = self.alone(encoded.len());
        self.checked(app, encoded)?;
        Ok(Begun {
            id: Manifest::id_of(encoded),
            missing: Vec::new(),
        })
    }

    fn checked(&self, app: &AppName, encoded: &[u8]) -> Result<Manifest, BeginError> {
        let manifest = Manifest::decode(encoded)?;
        let theirs = &manifest.spec().app;
        if theirs != app {
            return Err(BeginError::App {
                asked: app.clone(),
                theirs: theirs.clone(),
            });
        }
        let clashes = self.ledger.asset_clashes(app, &claims_of(&manifest)?)?;
        if !clashes.is_empty() {
            return Err(BeginError::Clash(clashes));
        }
        Ok(manifest)
    }

    /// A number that a restored store gives may have been given before, by the store that was lost.
    fn refuse_unaccepted(&self) -> Result<(), BeginError> {
        match self.ledger.restored()? {
            Some(mark) => Err(mark.not_accepted().into()),
            None => Ok(()),
        }
    }

    /// Checks a manifest, keeps it durable and tells which blobs no bundle carries yet.
    ///
    /// Asset clashes are told here, before anything is uploaded; [`Publisher::commit`] checks them again.
    pub fn begin(&self, app: &AppName, encoded: &[u8]) -> Result<Begun, BeginError> {
        self.refuse_unaccepted()?;
        let _alone = self.alone(encoded.len());
        let manifest = self.checked(app, encoded)?;
        let id = Manifest::id_of(encoded);
        let mut staged = self.blobs.stage()?;
        fault::point("store.publish.begin.write").map_err(BeginError::Write)?;
        staged.write_all(encoded).map_err(BeginError::Write)?;
        // First said, then looked: what is told to be there stays for the commit.
        let _relying = self.places.rely();
        self.ledger.begin_publish(&id, app)?;
        fault::point("store.publish.begin.said").map_err(BeginError::Write)?;
        self.blobs.keep(staged, Object::Manifest(id))?;
        fault::point("store.publish.begin.kept").map_err(BeginError::Write)?;
        let missing = self
            .places
            .missing(manifest.files().map(|(_, _, _, digest)| digest));
        Ok(Begun { id, missing })
    }

    /// Those of `segments` that no bundle carries, each once, in order. The others stay where they are for the commit of
    /// `release`, if that was begun; without one nothing is promised.
    ///
    /// # Errors
    /// When what is promised cannot be written down.
    pub fn missing_segments(
        &self,
        release: Option<ReleaseId>,
        segments: &[BlobDigest],
    ) -> Result<Vec<BlobDigest>, LedgerError> {
        // What is told to be there is written down before anybody can take it away.
        let _relying = self.places.rely();
        let missing = self.places.absent(segments.iter().copied());
        let Some(release) = release else {
            return Ok(missing);
        };
        let here = segments
            .iter()
            .filter(|segment| missing.binary_search(segment).is_err());
        let here: Vec<_> = here.copied().collect();
        let located = self.places.locate(&here, &[]);
        let bundles: BTreeSet<_> = located.into_iter().map(|found| found.bundle).collect();
        if bundles.is_empty() || self.ledger.rely_on(&release, &bundles)? {
            return Ok(missing);
        }
        // What cannot be promised is sent.
        let mut all = segments.to_vec();
        all.sort_unstable();
        all.dedup();
        Ok(all)
    }
}
