//! Rot in the union: a file whose bytes are no longer its digest loses its name, so that it is missing and is made anew.

use std::fs;
use std::io;

use ship_model::digest::BlobDigest;
use ship_model::path::TreePath;

use crate::record::{Record, RecordError};
use crate::union::Union;

const ASIDE: &str = "rotten";
/// Rotten files that are kept for whoever looks into it.
const MAX_ASIDE: usize = 16;

impl Union {
    /// Takes a rotten file out of the folder, into `rotten` beside the records. Blocks.
    ///
    /// Nothing is synced: rot that comes back after a power cut is found again. The union still knows the name, so
    /// [`Union::missing`] tells of it, and a request for it is one for a file that cannot be read.
    ///
    /// # Errors
    /// When it cannot be moved; a file that is gone already is none.
    pub fn set_aside(&self, name: &TreePath, digest: BlobDigest) -> io::Result<()> {
        let aside = self.records().join(ASIDE);
        fs::create_dir_all(&aside)?;
        let place = self.root().join(name.as_path());
        let kept = fs::read_dir(&aside)?.take(MAX_ASIDE).count();
        let moved = if kept < MAX_ASIDE {
            rustix::fs::rename(&place, aside.join(digest.to_string())).map_err(io::Error::from)
        } else {
            fs::remove_file(&place)
        };
        match moved {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            moved => moved,
        }
    }

    /// Calls `look` for every file that a record names, one record after another, until it says false.
    ///
    /// # Errors
    /// The first record that cannot be read; those before it were looked at.
    pub(crate) fn each_recorded(
        &self,
        mut look: impl FnMut(&str, BlobDigest, u64) -> bool,
    ) -> Result<(), RecordError> {
        for release in self.recorded() {
            let record = Record::read(&self.records().join(release.folder()))?;
            for asset in &record.assets {
                if !look(&asset.url, asset.digest, asset.size) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}
