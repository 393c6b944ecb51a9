//! Giving files of a staged release back to a store that lost them.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Seek, SeekFrom};

use ship_model::digest::BlobDigest;
use ship_model::manifest::EntryKind;

use super::staged::StagedRelease;
use crate::content::{self, PIECE};

impl StagedRelease {
    /// Hands on each file whose content is in `wanted`, opened at its start, and takes it out of there. A file that is not what
    /// was published, or that cannot be read, is left out.
    ///
    /// May run while others stage or remove. Memory: one piece.
    ///
    /// # Errors
    /// What `hand` returns; it ends there.
    pub fn give(
        &self,
        wanted: &mut BTreeSet<BlobDigest>,
        hand: &mut dyn FnMut(BlobDigest, File) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut buffer = Vec::with_capacity(PIECE);
        for entry in self.manifest().entries().iter() {
            if wanted.is_empty() {
                break;
            }
            let EntryKind::File { size, digest, .. } = entry.kind else {
                continue;
            };
            if !wanted.contains(&digest) {
                continue;
            }
            let checked = self.root().read(entry.path.as_bytes()).and_then(|mut file| {
                let read = content::hash(&mut file, size, &mut buffer, &(), |_| {})?;
                file.seek(SeekFrom::Start(0))?;
                Ok((read == (digest, size)).then_some(file))
            });
            if let Ok(Some(file)) = checked {
                hand(digest, file)?;
                wanted.remove(&digest);
            }
        }
        Ok(())
    }
}
