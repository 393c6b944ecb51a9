//! The leaves of bundles and deltas, by which hosts check what mirrors and other hosts gave them.
//!
//! Derived: made at the first question by reading the object once, kept in memory for the hosts that ask next, never
//! written down.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use ship_model::leaves::{Leaves, LeavesError, LeavesMaker};

use crate::bridge::{Bridge, BrokenOff};
use crate::engine::blobs::{put_aside, walk};
use crate::engine::{Blobs, BlobsError, Object};

/// Lists kept in memory, each of at most half a mebibyte.
const KEPT: usize = 32;

/// Why an object's leaves cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum LeavesOfError {
    #[error(transparent)]
    Blobs(#[from] BlobsError),
    #[error("{object} has no leaves")]
    Form { object: Object, source: LeavesError },
    #[error(transparent)]
    BrokenOff(#[from] BrokenOff),
}

/// Makes lists of leaves and keeps the last ones.
#[derive(Debug)]
pub struct LeafLists {
    blobs: Arc<dyn Blobs>,
    kept: Mutex<VecDeque<(Object, Bytes)>>,
    /// Held while a list is made: whoever asks for the same meanwhile finds it kept.
    making: tokio::sync::Mutex<()>,
}

impl LeafLists {
    pub fn new(blobs: Arc<dyn Blobs>) -> Self {
        Self {
            blobs,
            kept: Mutex::default(),
            making: tokio::sync::Mutex::default(),
        }
    }

    /// The leaves of `object`, as bytes. An object that is damaged is put into quarantine.
    pub async fn of(&self, object: Object, bridge: &Bridge) -> Result<Bytes, LeavesOfError> {
        if let Some(list) = self.find(object) {
            return Ok(list);
        }
        let _making = self.making.lock().await;
        if let Some(list) = self.find(object) {
            return Ok(list);
        }
        let blobs = Arc::clone(&self.blobs);
        let list = bridge.run(move || make(&*blobs, object)).await??;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.truncate(KEPT - 1);
        kept.push_front((object, list.clone()));
        Ok(list)
    }

    fn find(&self, object: Object) -> Option<Bytes> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let found = kept.iter().find(|(known, _)| *known == object);
        found.map(|(_, list)| list.clone())
    }
}

fn make(blobs: &dyn Blobs, object: Object) -> Result<Bytes, LeavesOfError> {
    match read(blobs, object) {
        Ok(leaves) => Ok(leaves.encode().into()),
        Err(LeavesOfError::Form {
            source: LeavesError::Digest,
            ..
        }) => Err(put_aside(blobs, object, "its bytes have another digest").into()),
        Err(error) => Err(error),
    }
}

/// Reads `object` once and checks its digest.
pub fn read(blobs: &dyn Blobs, object: Object) -> Result<Leaves, LeavesOfError> {
    let reader = blobs.open(object)?;
    let mut maker = LeavesMaker::new(reader.len());
    walk(reader.as_ref(), object, |piece| maker.update(piece))?;
    maker
        .finish(*object.digest())
        .map_err(|source| LeavesOfError::Form { object, source })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use std::io::Write as _;

    use super::*;
    use crate::engine::blobs::MemoryBlobs;
    use ship_model::digest::BundleDigest;

    #[tokio::test]
    async fn a_list_is_made_once_and_a_damaged_object_has_none() {
        let blobs = MemoryBlobs::default();
        let bytes = vec![7; 200_000];
        let digest = BundleDigest::of(&bytes);
        let object = Object::Bundle(digest);
        let mut staged = blobs.stage().unwrap();
        staged.write_all(&bytes).unwrap();
        blobs.keep(staged, object).unwrap();
        let blobs: Arc<dyn Blobs> = Arc::new(blobs);
        let (lists, bridge) = (LeafLists::new(Arc::clone(&blobs)), Bridge::new(1));
        let list = lists.of(object, &bridge).await.unwrap();
        let leaves = Leaves::read(*digest.as_bytes(), &list).unwrap();
        assert_eq!((leaves.len(), leaves.count()), (200_000, 4));
        blobs.quarantine(object).unwrap();
        assert_eq!(lists.of(object, &bridge).await.unwrap(), list, "it was kept");
        let other = Object::Bundle(BundleDigest::of(b"other"));
        let absent = lists.of(other, &bridge).await;
        assert!(matches!(
            absent,
            Err(LeavesOfError::Blobs(BlobsError::Absent { .. }))
        ));
    }
}
