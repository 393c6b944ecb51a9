//! What a union knows of its folder, in memory.

use std::collections::HashMap;

use ship_model::assets::folder_name;
use ship_model::digest::BlobDigest;
use ship_model::path::TreePath;
use ship_model::release::Target;

use crate::asked::Mark;

/// A file of the union: its name below the folder, and what it must contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stored {
    pub digest: BlobDigest,
    pub size: u64,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    /// Whole ones.
    pub releases: Vec<Target>,
    /// Those of which assets were forgotten.
    pub faded: Vec<Target>,
    /// The newest word to forget: whoever acts on an older one stops.
    pub word: u64,
    pub files: HashMap<TreePath, Held>,
}

/// A file of the union, and whether somebody asked for it.
#[derive(Debug)]
pub(crate) struct Held {
    pub stored: Stored,
    pub mark: Mark,
}

impl Held {
    fn new(stored: Stored) -> Self {
        Self {
            stored,
            mark: Mark::default(),
        }
    }
}

impl State {
    pub fn know(&mut self, url: &str, digest: BlobDigest, size: u64) {
        if let Some(name) = folder_name(url) {
            let stored = Stored { digest, size };
            let held = self.files.entry(name).or_insert_with(|| Held::new(stored));
            held.stored = stored;
        }
    }

    pub fn take<'a>(&mut self, release: Target, files: impl Iterator<Item = (&'a str, BlobDigest, u64)>) {
        for (url, digest, size) in files {
            self.know(url, digest, size);
        }
        self.faded.retain(|faded| *faded != release);
        if !self.releases.contains(&release) {
            self.releases.push(release);
        }
    }

    /// A release is not whole any more.
    pub fn fade(&mut self, release: Target) {
        self.releases.retain(|whole| *whole != release);
        if !self.faded.contains(&release) {
            self.faded.push(release);
            self.faded.sort_by_key(|release| release.number);
        }
    }
}
